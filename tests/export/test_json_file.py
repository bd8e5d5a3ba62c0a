"""A JSON file that holds one object, or the sentence that says why not."""

from pathlib import Path

import pytest

from export import ExportError, json_file

MIB = 2**20


def refused(path: Path) -> str:
    with pytest.raises(ExportError) as error:
        json_file.read_json(path)
    return str(error.value)


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert refused(path) == f"{path} is nested too deeply"


@pytest.mark.long
def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}".ljust(64 * MIB))
    assert json_file.read_json(path) == {}
    path.write_bytes(b"{}".ljust(64 * MIB + 1))
    assert refused(path) == f"{path} must have at most 64 MiB"


def test_bytes_that_are_not_utf_8_are_not_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{\xff")
    assert refused(path).startswith(f"{path} is not JSON: 'utf-8' codec can't decode byte 0xff")
