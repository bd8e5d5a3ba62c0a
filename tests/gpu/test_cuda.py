"""A server on a CUDA device: `make test-gpu`, which also asks it all that tests/test_*_over_http.py ask."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import forked
from tests.gpu.faulty_device import FREED, FULL, LOST, SLOW, Device
from tests.neighbourhood import Case, ask_alone, connect, hidden_case, samples
from tests.server import Server, link_models, running
from tests.service.in_flight import FORWARD, body, failure, in_flight

pytestmark = pytest.mark.gpu
FAULTY = "tests.gpu.faulty_device"
ATOL, MIB = 1e-5, 2**20
CLIENTS, ROUNDS = 16, 12
EVERYTHING = ["block_output", "attention_weights", "attention_scores", "query", "context", "ffn_output"]


@pytest.fixture(scope="module")
def models(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that have every operator between them."""
    names = ("tiny", "head-256", "rotary", "unlike", "causal-final-norm", "encoder-post-relu", "my-block")
    return link_models(tmp_path_factory.mktemp("gpu") / "models", {name: artifact(name) for name in names})


@pytest.fixture(scope="module")
def tiny(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model."""
    return link_models(tmp_path_factory.mktemp("gpu") / "models", {"tiny": artifact("tiny")})


@pytest.fixture(scope="module")
def on_cuda(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of them, each graph of each held against PyTorch's golden answer at the start."""
    with running(models, tmp_path_factory.mktemp("cuda"), provider="cuda", layer_graphs="eager") as started:
        yield started


def test_every_model_says_that_it_runs_on_cuda(on_cuda: Server) -> None:
    with on_cuda.client() as client:
        described = client.get("/v1/models").json()["models"]
        metrics = client.get("/metrics").text
    assert {model["provider"] for model in described} == {"CUDAExecutionProvider"}
    assert metrics.count('provider="CUDAExecutionProvider"') == len(described) == 7


@pytest.mark.parametrize("model", ["tiny", "head-256"])
def test_an_answer_among_neighbours_is_that_request_alone(on_cuda: Server, model: str) -> None:
    lengths = (1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 65, 100, 129, 200)
    outputs = {"tiny": EVERYTHING, "head-256": ["block_output"]}[model]
    cases = [hidden_case(model, length, [length], outputs=outputs) for length in lengths]
    width = {"tiny": 8, "head-256": 512}[model]
    huge = [Case(model, {"hidden_states": [[[3e38] * width] * length]}) for length in (3, 40, 200)]
    ask_alone(on_cuda, cases)
    wanted = [arrays(case.alone[1]) for case in cases]
    before = samples(on_cuda, model)

    def ask_some(client: int) -> tuple[int, float]:
        chance, connection, compared, furthest = np.random.default_rng(client), connect(on_cuda), 0, 0.0
        for _ in range(ROUNDS):
            for index in chance.permutation(len(cases)):
                if chance.random() < 0.2:
                    huge[chance.integers(len(huge))].ask(connection)
                status, answer = cases[index].ask(connection)
                assert status == httpx.codes.OK
                furthest = max(furthest, distance(arrays(answer), wanted[index]))
                compared += 1
        connection.close()
        return compared, furthest

    with ThreadPoolExecutor(CLIENTS) as clients:
        compared, furthest = zip(*clients.map(ask_some, range(CLIENTS)), strict=True)
    after = samples(on_cuda, model)
    sys.stdout.write(f"{model}: {sum(compared)} answers, at most {max(furthest):.1e} from the same request alone\n")
    assert sum(compared) == CLIENTS * ROUNDS * len(cases)
    assert max(furthest) <= ATOL
    assert after["shared batches"] - before["shared batches"] > sum(compared) / 100
    assert after["padding"] > before["padding"]
    # Each request's own: the numbers of no two are near one another.
    firsts = [found["block_output"].ravel()[:8] for found in wanted]
    assert min(np.abs(a - b).max() for n, a in enumerate(firsts) for b in firsts[:n]) > 0.01


def arrays(answer: bytes) -> dict[str, np.ndarray]:
    return {key: np.asarray(values[0], np.float64) for key, values in json.loads(answer)["outputs"].items()}


def distance(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """The largest |found − wanted| over max(1, |wanted|)."""
    assert found.keys() == wanted.keys()
    return max(float((np.abs(found[key] - wanted[key]) / np.maximum(1, np.abs(wanted[key]))).max()) for key in found)


def test_a_lost_device_fails_its_waiters_and_ends_the_process_within_five_seconds(tiny: Path, tmp_path: Path) -> None:
    with running(tiny, tmp_path, FAULTY, provider="cuda") as server, server.client() as client:
        assert client.post(FORWARD, json=body(3)).status_code == httpx.codes.OK
        start_s = time.monotonic()
        with ThreadPoolExecutor(3) as threads:
            futures = [threads.submit(httpx.post, server.url + FORWARD, json=body(LOST)) for _ in range(3)]
            assert [failure(future.result())[:2] for future in futures] == [(503, "dead")] * 3
        assert server.wait(5) == 1
        assert time.monotonic() - start_s < 5
    assert server.stderr.read_text().endswith("glassblock-serve: a batcher died; see the log\n")
    assert "illegal memory access" in server.stdout.read_text()


def test_a_full_device_refuses_what_does_not_fit_and_goes_on(tiny: Path, tmp_path: Path) -> None:
    with running(tiny, tmp_path, FAULTY, provider="cuda") as server, server.client() as client:
        large = {"hidden_states": [body(4000)["hidden_states"][0]]}
        assert client.post(FORWARD, json=body(FULL)).status_code == httpx.codes.OK
        message = "out of memory in this run; ask for less or later"
        assert failure(client.post(FORWARD, json=large)) == (503, "out_of_memory", message)
        assert client.post(FORWARD, json=body(5)).status_code == httpx.codes.OK
        assert client.post(FORWARD, json=body(FREED)).status_code == httpx.codes.OK
        assert client.post(FORWARD, json=large).status_code == httpx.codes.OK
        assert client.get("/readyz").status_code == httpx.codes.OK


def test_a_long_run_through_the_layers_gives_the_devices_memory_back(tiny: Path, tmp_path: Path) -> None:
    device = Device()
    device.enter()
    with running(tiny, tmp_path, provider="cuda", layer_graphs="eager") as server, server.client() as client:
        before = device.free_bytes()
        inside = {"outputs": ["layers.0.ffn_output", "layers.1.ffn_output"]}
        assert client.post(FORWARD, json=body(4000) | inside).status_code == httpx.codes.OK
        assert before - device.free_bytes() < 64 * MIB  # three maps of 4,000 x 4,000 of two heads are 366 MiB


def test_runs_that_are_ended_leave_the_device_well(tiny: Path, tmp_path: Path) -> None:
    with running(tiny, tmp_path, provider="cuda") as server, server.client() as client:
        for _ in range(3):
            late = client.post(FORWARD, json=body(4000) | {"timeout_s": 0.001})
            assert late.status_code == httpx.codes.GATEWAY_TIMEOUT
        assert client.post(FORWARD, json=body(5)).status_code == httpx.codes.OK


def test_sigterm_finishes_what_was_accepted_and_ends_with_exit_code_0(tiny: Path, tmp_path: Path) -> None:
    with running(tiny, tmp_path, FAULTY, provider="cuda") as server, in_flight(server, SLOW) as futures:
        server.send(signal.SIGTERM)
        assert futures[0].result().status_code == httpx.codes.OK
        assert server.wait(5) == 0


def test_without_a_device_the_start_is_refused(tiny: Path, tmp_path: Path) -> None:
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("GLASSBLOCK_")}
    words = ("serve", f"--models={tiny}", "--provider=cuda", "--http-port=0")
    done = forked.run(tmp_path, *words, **hidden, CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 1
    reason = "onnxruntime refuses it: CUDA failure 100: no CUDA-capable device is detected"
    assert done.stderr == f"glassblock-serve: {tiny}/tiny/1/model.onnx: {reason}\n"
