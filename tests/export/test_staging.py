"""A version comes to its place whole, or the place is as it was."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

from export import ExportError, artifact


def write(folder: Path, text: str) -> None:
    with artifact._staged(folder, overwrite=True) as staging:
        (staging / "file").write_text(text)


def give_up(folder: Path, error: BaseException, beside: Path | None = None) -> None:
    with artifact._staged(folder, overwrite=False) as staging:
        (staging / "file").write_text("half")
        if beside:
            beside.touch()
        raise error


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


def test_a_version_that_came_meanwhile_is_kept_where_none_is_to_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x" / "1"
    with pytest.raises(ExportError) as error, artifact._staged(folder, overwrite=False):
        write(folder, "theirs")
    assert str(error.value) == f"{folder} exists already; give another --version, or --overwrite"
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert (folder / "file").read_text() == "theirs"


def test_a_failure_removes_every_folder_it_made_and_none_that_another_needs(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "models" / "x" / "1"
    with pytest.raises(OSError, match="full"):
        give_up(folder, OSError("full"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="full"):
        give_up(folder, OSError("full"), beside=tmp_path / "a" / "theirs")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "theirs"]


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def interrupted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A signal at the start of each rmtree, which ends the export where it is heard."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(130)

    def rmtree(folder: Path, *, ignore_errors: bool) -> None:
        signal.raise_signal(request.param)
        real(folder, ignore_errors=ignore_errors)

    real, handler = shutil.rmtree, signal.signal(request.param, end)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        yield
    assert signal.signal(request.param, handler) is end


@pytest.mark.usefixtures("interrupted")
def test_a_second_signal_does_not_stop_the_cleaning(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        give_up(tmp_path / "models" / "x" / "1", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("interrupted")
def test_a_signal_after_the_new_version_has_its_place_is_too_late(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x" / "1"
    write(folder, "old")
    write(folder, "new")
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert (folder / "file").read_text() == "new"
