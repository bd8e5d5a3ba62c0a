"""What settings and several versions change: layers' graphs off, requests shed, the highest version by default."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.server import Server, link_models, running
from tests.service.refusal import GOOD, assert_refused, hidden_states, post
from tests.service.scraping import scrape_at_rest


@pytest.fixture
def models(artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    names = ("tiny", "head-256")
    return link_models(tmp_path / "models", {name: artifact(name) for name in names})


def test_with_layer_graphs_off_block_output_is_served_by_all_its_names_and_probes_are_refused(
    models: Path, tmp_path: Path
) -> None:
    rows = json.dumps([[[0.5] * 512] * 3])
    with running(models, tmp_path, layer_graphs="off") as server, server.client() as client:
        both = post(client, hidden_states(rows, ',"outputs":["block_output","last_hidden_state"]'), "head-256")
        assert both.json()["outputs"]["block_output"] == both.json()["outputs"]["last_hidden_state"]
        probe = post(client, hidden_states(rows, ',"outputs":["query"]'), "head-256")
        message = "only block_output is served: the layers' graphs are off"
        assert_refused(probe, 403, "layer_graphs_off", "", message)
        changed = post(client, hidden_states(rows, ',"interventions":{"query":{"scale":0}}'), "head-256")
        assert_refused(changed, 403, "layer_graphs_off", "", message)
        assert shed_of(client, "layer_graphs_off") == 2
        assert "on first use" not in server.stderr.read_text()


def shed_of(client: httpx.Client, reason: str) -> float:
    """How many requests were shed for this reason, once all are counted."""
    return scrape_at_rest(client)["glassblock_shed_total", (("reason", reason),)]


def _storm(server: Server, body: bytes, count: int) -> list[httpx.Response]:
    """The same request from `count` connections at once."""

    def ask(_: int) -> httpx.Response:
        with server.client() as client:
            return post(client, body)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


def test_requests_beyond_max_in_flight_are_shed_at_the_door_and_may_come_again(models: Path, tmp_path: Path) -> None:
    body = hidden_states(json.dumps([[[0.5] * 8] * 2000]))
    with running(models, tmp_path, max_in_flight=2) as server:
        answers = _storm(server, body, 12)
        shed = [answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS]
        assert shed
        for answer in shed:
            assert int(answer.headers["retry-after"]) >= 1
            assert_refused(answer, 429, "in_flight", "", "2 requests are under way already; try again in a moment")
        served = [answer.content for answer in answers if answer not in shed]
        assert len(served) >= 2
        assert len(set(served)) == 1
        with server.client() as client:
            assert post(client, GOOD).status_code == httpx.codes.OK
            assert shed_of(client, "in_flight") == len(shed)


def test_requests_that_find_a_full_queue_are_shed_and_the_others_answered(models: Path, tmp_path: Path) -> None:
    body = hidden_states(json.dumps([[[0.5] * 8] * 1500] * 8))
    with running(models, tmp_path, max_queued_tokens=4000) as server:
        answers = _storm(server, body, 8)
        shed = [answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS]
        assert 1 <= len(shed) < len(answers)
        message = "more than 4,000 positions wait for this model; try again in a moment"
        for answer in shed:
            assert int(answer.headers["retry-after"]) >= 1
            assert_refused(answer, 429, "queue_full", "", message)
        assert {answer.status_code for answer in answers if answer not in shed} == {200}
        with server.client() as client:
            assert shed_of(client, "queue_full") == len(shed)


def test_the_highest_version_is_the_default_and_every_version_can_be_asked_for(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    for version in ("2", "10"):
        folder = tmp_path / "models" / "tiny" / version
        shutil.copytree(artifact("tiny"), folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": version}))
    with running(tmp_path / "models", tmp_path) as server, server.client() as client:
        assert client.get("/v1/models/tiny").json()["versions"] == ["2", "10"]
        for path, version in (("", "10"), ("/versions/2", "2"), ("/versions/10", "10")):
            answer = client.post(f"/v1/models/tiny{path}/forward", content=GOOD)
            assert (answer.json()["version"], answer.headers["x-model-version"]) == (version, version)
            assert client.get(f"/v1/models/tiny{path}").json()["version"] == version
        missing = client.post("/v1/models/tiny/versions/1/forward", content=GOOD)
        message = "model tiny has no such version; it has 2, 10"
        assert_refused(missing, 404, "unknown_version", "path", message)


def test_ids_at_hidden_positions_are_zero_like_hidden_states_there(client: httpx.Client) -> None:
    body = {"input_ids": [[101, 7592, 102]], "attention_mask": [[1, 0, 1]], "outputs": ["layers.0.layer_input"]}
    answer = client.post("/v1/models/minilm/forward", json=body).json()
    rows = np.asarray(answer["outputs"]["layers.0.layer_input"][0])
    assert not rows[1].any()
    assert rows[0].any()
    assert rows[2].any()
