"""Clients of the Open Inference Protocol, each in a process and an environment of its own, as their users run them."""

import fcntl
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from load_tests.peer_servers import PROGRAMS, install
from tests.server import Server
from tests.service.inference import MASK, ROWS, forward

pytestmark = pytest.mark.long  # their packages are downloaded and installed first
ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "tests" / "clients"
CHANGE = {"layers.0.context[:, 1]": {"scale": 0}}
EXPECTED = ["block_output", "layers.1.attention_weights", "layers.0.query"]


def environment(pins: Path) -> Path:
    """The Python of a virtual environment with these pins, made on first use; of a peer, the one of its benchmark."""
    folder = ROOT / ".cache" / pins.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{pins.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return install(pins, folder)


def run(python: Path, program: Path | str, *arguments: str) -> str:
    command = [str(python), *([str(program)] if isinstance(program, Path) else ["-c", program]), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def use(pins: Path, program: str, place: str, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a client learned, and the tensors it got."""
    np.savez(folder / "inputs.npz", hidden_states=ROWS, attention_mask=MASK)
    facts: dict[str, Any] = json.loads(run(environment(pins), CLIENTS / program, place, str(folder)))
    with np.load(folder / "answers.npz") as file:
        return facts, dict(file)


@pytest.fixture(scope="module")
def expected(client: httpx.Client) -> dict[str, NDArray[np.float32]]:
    return forward(client, *EXPECTED)


def host(server: Server) -> str:
    return server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def tritonclient(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tritonclient")
    return use(CLIENTS / "tritonclient.txt", "triton_sync.py", host(server), folder)


@pytest.mark.timeout(400)  # the first time, its packages are installed
def test_tritonclient_is_served_in_every_way_it_has_of_asking(
    tritonclient: tuple[dict[str, Any], dict[str, Any]],
    client: httpx.Client,
    expected: dict[str, NDArray[np.float32]],
) -> None:
    facts, answers = tritonclient[0], dict(tritonclient[1])
    block, weights = expected["block_output"], expected["layers.1.attention_weights"]
    for name in ("all_binary", "all_json", "all_gzip", "all_deflate", "block_output_binary", "block_output_json"):
        np.testing.assert_array_equal(answers.pop(name), block)
    for name in ("layers.1.attention_weights_binary", "layers.1.attention_weights_json"):
        np.testing.assert_array_equal(answers.pop(name), weights)
    np.testing.assert_array_equal(answers.pop("asynchronous"), np.stack([block] * 8))
    np.testing.assert_array_equal(answers.pop("half"), forward(client, rows=ROWS.astype(np.float16))["block_output"])
    rounded = forward(client, rows=answers.pop("bfloat_rows"))
    np.testing.assert_array_equal(answers.pop("bfloat"), rounded["block_output"])
    changed = forward(client, interventions=CHANGE)["block_output"]
    for name in ("changed_binary", "changed_json"):
        np.testing.assert_array_equal(answers.pop(name), changed)
    assert answers == {}
    assert facts["live"] is facts["ready"] is facts["version_ready"] is True
    assert facts["models_ready"] == [True, True, False]
    assert facts["metadata"] == client.get("/v2/models/tiny.probes").json()
    assert facts["config"] == client.get("/v2/models/tiny/config").json()
    assert facts["index"] == client.post("/v2/repository/index").json()
    assert [facts[name] for name in ("server", "statistics", "id")] == ["glassblock", "tiny", "an-id"]
    assert facts["names_binary"] == facts["names_json"] == ["layers.1.attention_weights", "block_output"]


def test_what_tritonclient_raises_is_the_servers_sentence(
    tritonclient: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    facts = tritonclient[0]
    known = r"no such model; this server has .* - at path"
    sentences = {
        "no_time": "504 expected an answer within the request's timeout, but it was not computed by then",
        "no_model": f"404 {known}",
        "no_metadata": f"404 {known}",
        "wrong_shape": r"422 expected hidden_size 8, got 4 - at inputs\[0\].shape\[2\]",
        "wrong_output": "422 expected block_output: what is inside is an output of model tiny.probes - at outputs.*",
        "unknown_parameter": "422 unknown field, number 2 of parameters; .* - at parameters",
        "trace": "501 this server has no trace, logging or shared memory routes; see GET /metrics - at path",
        "load": "403 loading and unloading are switched off: see the setting model_control",
        "unload": "403 loading and unloading are switched off: see the setting model_control",
    }
    for name, sentence in sentences.items():
        assert re.fullmatch(sentence, facts[name]), (name, facts[name])


def test_perf_analyzers_sequence_of_calls_is_answered(tritonclient: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert tritonclient[0]["perf"] == {"outputs": True, "dims": [[-1, 8], [-1]], "inferences": 5, "successes": 5}


def test_tritonclients_asyncio_client_is_served(
    server: Server, client: httpx.Client, expected: dict[str, NDArray[np.float32]], tmp_path: Path
) -> None:
    facts, answers = use(CLIENTS / "tritonclient.txt", "triton_aio.py", host(server), tmp_path)
    np.testing.assert_array_equal(answers["query"], expected["layers.0.query"])
    for name in ("mixed", "gzip", "deflate"):
        np.testing.assert_array_equal(answers[name], expected["block_output"])
    np.testing.assert_array_equal(answers["many"], np.stack([expected["block_output"]] * 20))
    assert facts == {
        "ready": [True, True],
        "metadata": client.get("/v2/models/tiny").json()["outputs"],
        "config": "tiny.probes",
        "statistics": "1",
        "index": client.post("/v2/repository/index").json(),
        "id": "7",
        "no_version": "404 model tiny has no such version; it has 1 - at path",
    }


@pytest.mark.timeout(600)  # the first time, its 40 packages are installed
def test_kserves_client_is_served(server: Server, expected: dict[str, NDArray[np.float32]], tmp_path: Path) -> None:
    facts, answers = use(PROGRAMS / "kserve.txt", "kserve_rest.py", server.url, tmp_path)
    np.testing.assert_array_equal(answers["query"], expected["layers.0.query"])
    for name in ("binary", "json"):
        np.testing.assert_array_equal(answers[name], expected["block_output"])
    assert "no such model" in facts.pop("no_model")
    assert facts == {"live": True, "ready": True, "model_ready": True, "id_binary": "k", "id_json": "k"}


def test_the_tritonclient_examples_print_what_they_got(server: Server) -> None:
    python = environment(CLIENTS / "tritonclient.txt")
    printed = run(python, ROOT / "examples" / "tritonclient_http.py", host(server)).splitlines()
    assert printed[:2] == ["hidden_states FP32 [-1, -1, 384]", "attention_mask INT64 [-1, -1]"]
    assert printed[2:] == [f"layers.{i}.attention_weights (2, 12, 5, 5) 0.0 where the mask is 0" for i in range(6)]
    printed = run(python, ROOT / "examples" / "tritonclient_aio.py", host(server)).splitlines()
    assert printed == [f"(1, {length}, 384)" for length in range(1, 9)]


def test_the_readmes_tritonclient_example_gives_the_shape_shown(server: Server) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(import numpy as np\nimport tritonclient.*?)```", readme, re.DOTALL)
    shown = re.search(r"\n(answer\..*)  # (.*)\n", script)
    assert shown
    script = script.replace("127.0.0.1:8000", host(server)).replace(shown[1], f"print({shown[1]})")
    assert run(environment(CLIENTS / "tritonclient.txt"), script).strip() == shown[2]
