"""A version comes to its place whole, or the place is as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from export import artifact


def write(folder: Path, text: str) -> None:
    with artifact._staged(folder) as staging:
        (staging / "file").write_text(text)


def fail_at(number: int, error: BaseException, *, after: bool) -> Callable[[Path, Path], Path]:
    """Path.rename, whose call of this number fails before or after it renames."""
    real, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == number and not after:
            raise error
        real(self, target)
        if len(calls) == number:
            raise error
        return target

    return rename


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), SystemExit(143)], ids=repr)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_what_happens_between_the_renames_puts_the_old_version_back(
    number: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    folder = tmp_path / "models" / "x" / "1"
    write(folder, "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_at(number, error, after=after))
        with pytest.raises(type(error)):
            write(folder, "new")
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert (folder / "file").read_text() == "old"
    write(folder, "new")
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert (folder / "file").read_text() == "new"


def test_a_first_version_that_cannot_reach_the_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(path)

    monkeypatch.setattr(artifact, "_sync_path", fail)
    with pytest.raises(OSError, match="x"):
        write(tmp_path / "models" / "x" / "1", "new")
    assert list(tmp_path.iterdir()) == []
