"""A spoilt artifact at the command line: one line, exit code 1, never ready; and one that spoils later: 503."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests import forked
from tests.server import running
from tests.service.corruption import Corruption, change, copy_artifact, graph, swap, write
from tests.service.log_lines import log_of
from tests.service.refusal import GOOD, GOOD_ROW, assert_refused, hidden_states, post

CHANGED = "its SHA-256 is not the manifest's; the file was changed after the export"
FAR = "from the golden answer, the manifest allows 4.5e-05"
CASES: dict[str, tuple[str, Corruption, str]] = {
    "weights swapped": ("serve", write("weights.data", lambda b: b[::-1]), f"HERE/weights.data: {CHANGED}"),
    "manifest missing": (
        "serve",
        lambda folder: (folder / "manifest.json").unlink(),
        "HERE/manifest.json: No such file or directory",
    ),
    "another block's graph": (
        "serve",
        write("model.onnx", graph(), hashed=True),
        f"HERE: block_output is 6.0e+00 {FAR}",
    ),
    "golden answer changed": (
        "check",
        change("golden", "answer", "block_output", 0, 0, 0, value=9.0),
        f"HERE: block_output is 7.8e+00 {FAR}",
    ),
    "graph a page": (
        "check",
        write("model.onnx", b"<!DOCTYPE html>", hashed=True),
        "HERE/model.onnx: onnxruntime refuses it: Failed to load model because protobuf parsing failed.",
    ),
    "layers swapped": (
        "check",
        swap("layers/0.onnx", "layers/1.onnx", hashed=True),
        f"HERE: block_output by layers is 3.9e+00 {FAR}",
    ),
}


@pytest.mark.parametrize(("command", "spoil", "sentence"), CASES.values(), ids=CASES)
def test_one_spoilt_artifact_ends_the_process_with_one_line(
    tmp_path: Path, artifact: Callable[[str], Path], command: str, spoil: Corruption, sentence: str
) -> None:
    folder = copy_artifact(artifact("tiny"), tmp_path)
    copy_artifact(artifact("head-256"), tmp_path)
    spoil(folder)
    done = forked.run(tmp_path, command, f"--models={tmp_path}", "--http-port=0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.replace(str(folder), "HERE") == f"glassblock-serve: {sentence}\n"


INSIDE = hidden_states(f"[[{GOOD_ROW}]]", ',"outputs":["query"]')
UNLOADED = "the layers' graphs cannot be loaded, the log says why; block_output alone is served"


def _copy_beside_a_sound_one(original: Path, models: Path) -> Path:
    """A copy to spoil, and the model `sound` in the same folder."""
    change("name", value="sound")(Path(shutil.copytree(original, models / "sound" / "1")))
    return copy_artifact(original, models)


def _assert_the_rest_is_unharmed(client: httpx.Client) -> None:
    assert client.get("/readyz").status_code == httpx.codes.OK
    assert post(client, GOOD).status_code == httpx.codes.OK
    assert post(client, INSIDE, "sound").status_code == httpx.codes.OK


def test_layers_that_cannot_be_loaded_on_first_use_are_503_and_the_rest_is_served(
    tmp_path: Path, artifact: Callable[[str], Path]
) -> None:
    models = tmp_path / "models"
    folder = _copy_beside_a_sound_one(artifact("tiny"), models)
    write("layers/1.onnx", bytes(99), hashed=True)(folder)
    with running(models, tmp_path) as server, server.client() as client:
        for _ in range(2):
            assert_refused(post(client, INSIDE), 503, "layers_unavailable", "", UNLOADED)
        _assert_the_rest_is_unharmed(client)
        assert str(folder) not in post(client, INSIDE).text
        log = log_of(server)
    assert f"{folder}/layers/1.onnx: onnxruntime refuses it: Failed to load model" in log


def test_files_that_change_under_a_running_server_are_never_loaded(
    tmp_path: Path, artifact: Callable[[str], Path]
) -> None:
    models = tmp_path / "models"
    folder = _copy_beside_a_sound_one(artifact("tiny"), models)
    with running(models, tmp_path) as server, server.client() as client:
        write("weights.data", lambda data: data[::-1])(folder)
        assert_refused(post(client, INSIDE), 503, "layers_unavailable", "", UNLOADED)
        _assert_the_rest_is_unharmed(client)
        log = log_of(server)
    assert f"{folder}/weights.data: {CHANGED}" in log
