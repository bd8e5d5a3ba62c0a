"""What bodies take while their requests are under way: counted whole, whichever way they came."""

import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.server import Server, link_models, running
from tests.service.faulty_service import SLOW
from tests.service.grpc_client import Grpc, failure, raw
from tests.service.inference import ask_binary, framed_states

ROWS = np.full((12, SLOW, 8), 0.5, np.float32)  # 15 kB
SAID = "no room for this body: all that are here may take 20,000 bytes; try again in a moment"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server with room for one such body, whose runs of SLOW positions take a while."""
    folder = tmp_path_factory.mktemp("narrow")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    limits = {"max_body_bytes": 20_000, "max_bodies_bytes": 20_000}
    with running(models, folder, "tests.service.faulty_service", grpc_port=0, **limits) as server:
        yield server


def test_a_compressed_body_counts_as_what_it_is_inflated_to(narrow: Server) -> None:
    body, headers = framed_states(ROWS, "block_output")
    packed = zlib.compress(body)
    assert len(packed) < 1000

    def ask(_: int) -> httpx.Response:
        with narrow.client() as client:
            return ask_binary(client, packed, headers | {"Content-Encoding": "deflate"})

    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(ask, range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    assert {answer.json()["error"] for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS} == {
        SAID
    }
    assert ask(3).status_code == httpx.codes.OK


@pytest.mark.long
def test_a_compressed_body_in_chunks_is_counted_once(tmp_path: Path, artifact: Callable[[str], Path]) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    body, headers = framed_states(
        np.random.default_rng(1).standard_normal((90, 100, 8)).astype(np.float32), "query|norm"
    )
    packed = zlib.compress(body)
    assert len(packed) > 2**16  # from there on, a body of unknown length is counted as the longest

    def chunks() -> Iterator[bytes]:
        yield packed[:70_000]
        time.sleep(0.1)
        yield packed[70_000:]

    with (
        running(models, tmp_path, max_body_bytes=300_000, max_bodies_bytes=300_000) as server,
        server.client() as client,
    ):
        url, named = "/v2/models/tiny.probes/infer", headers | {"Content-Encoding": "deflate"}
        assert client.post(url, content=chunks(), headers=named).status_code == httpx.codes.OK


@pytest.mark.long
def test_a_message_of_grpc_counts_as_a_body_does(narrow: Server) -> None:
    with Grpc(narrow.grpc) as caller:
        calls = [caller.begin("ModelInfer", raw(ROWS)) for _ in range(3)]
        refused = [call for call in calls if call.exception() is not None]
        assert [failure(call) for call in refused] == [("RESOURCE_EXHAUSTED", SAID)] * 2
        assert caller.begin("ModelInfer", raw(ROWS)).result().outputs
