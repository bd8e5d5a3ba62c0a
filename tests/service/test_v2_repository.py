"""The repository's routes: what is there, what is loaded and unloaded, and that memory comes back."""

import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.artifacts import SERVED
from tests.server import Server, link_models, running
from tests.service.faulty_service import SLOW
from tests.service.inference import ask, assert_same, read, states, tensor
from tests.service.refusal import assert_refused
from tests.service.reloading_service import RELOAD_S

MIB = 2**20
OTHER = "encoder-post-relu"
OFF = "loading and unloading are switched off: see the setting model_control"


def entries(*names: str, state: str = "READY", reason: str = "") -> list[dict[str, str]]:
    return [
        {"name": name + suffix, "version": "1", "state": state, "reason": reason}
        for name in names
        for suffix in ("", ".probes")
    ]


def index(client: httpx.Client, body: bytes = b"") -> object:
    return client.post("/v2/repository/index", content=body).json()


def control(client: httpx.Client, verb: str, model: str = "tiny", body: bytes = b"") -> httpx.Response:
    return client.post(f"/v2/repository/models/{model}/{verb}", content=body)


def test_the_index_has_every_model_under_both_names(client: httpx.Client) -> None:
    for body in (b"", b"{}", b'{"ready":true}', b'{"ready":false}'):
        assert index(client, body) == entries(*sorted(SERVED))


@pytest.mark.parametrize(
    ("body", "code", "at", "message"),
    [
        (b'{"ready":1}', "wrong_type", "ready", "expected true or false, got a number"),
        (b'{"all":1}', "unknown_field", "body", "unknown field, number 1 of the body; the fields are ready"),
        (b"[]", "wrong_type", "body", "expected a JSON object"),
    ],
)
def test_an_index_asked_for_in_another_form_is_422(
    client: httpx.Client, body: bytes, code: str, at: str, message: str
) -> None:
    assert_refused(client.post("/v2/repository/index", content=body), 422, code, at, message)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_models_are_not_loaded_or_unloaded_unless_a_setting_allows_it(client: httpx.Client, verb: str) -> None:
    for model in ("tiny", "none", "tiny.probes"):
        assert_refused(control(client, verb, model, b"{"), 403, "model_control_off", "", OFF)
    assert ask(client, states()).status_code == httpx.codes.OK


@pytest.fixture(scope="module")
def controlled(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of copies of two models, which may be loaded and unloaded; some of its runs take long."""
    folder = tmp_path_factory.mktemp("controlled")
    for name in ("tiny", OTHER):
        shutil.copytree(artifact(name), folder / "models" / name / "1")
    with running(folder / "models", folder, "tests.service.faulty_service", model_control=True) as server:
        yield server


@pytest.fixture
def owner(controlled: Server) -> Iterator[httpx.Client]:
    with controlled.client() as client:
        yield client


def test_an_unloaded_model_is_gone_everywhere_and_can_be_loaded_again(owner: httpx.Client) -> None:
    before = read(ask(owner, states()))
    unload = control(owner, "unload", body=b'{"parameters":{"unload_dependents":false}}')
    assert (unload.status_code, unload.json()) == (200, {})
    assert index(owner) == [*entries(OTHER), *entries("tiny", state="UNAVAILABLE", reason="not loaded")]
    assert index(owner, b'{"ready":true}') == entries(OTHER)
    message = f"no such model; this server has {OTHER}"
    for path in ("/v2/models/tiny", "/v2/models/tiny.probes/ready", "/v1/models/tiny"):
        assert_refused(owner.get(path), 404, "unknown_model", "path", message)
    assert_refused(ask(owner, states()), 404, "unknown_model", "path", message)
    assert 'glassblock_model_info{model="tiny"' not in owner.get("/metrics").text
    assert_refused(control(owner, "unload"), 404, "unknown_model", "path", message)
    assert owner.get("/v2/health/ready").status_code == httpx.codes.OK
    assert control(owner, "load").status_code == httpx.codes.OK
    assert index(owner) == entries(OTHER, "tiny")
    assert_same(read(ask(owner, states())), before)
    assert 'glassblock_model_info{model="tiny"' in owner.get("/metrics").text


@pytest.mark.long
def test_unloading_gives_the_memory_back(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"minilm": artifact("minilm")})
    with running(models, tmp_path, model_control=True) as started, started.client() as client:
        hold_to_its_memory(psutil.Process(started.process.pid), client)


def hold_to_its_memory(process: psutil.Process, owner: httpx.Client) -> None:
    """Asks, unloads and loads MiniLM five times."""
    rows = np.zeros((1, 8, 384), np.float32)

    def use_and_unload() -> tuple[int, int]:
        """Bytes in memory while it is loaded, and without it."""
        assert ask(owner, tensor("hidden_states", rows), model="minilm.probes").status_code == httpx.codes.OK
        loaded = process.memory_info().rss
        assert control(owner, "unload", "minilm").status_code == httpx.codes.OK
        unloaded = process.memory_info().rss
        assert control(owner, "load", "minilm").status_code == httpx.codes.OK
        return loaded, unloaded

    weights_bytes = owner.get("/v1/models/minilm").json()["files"]["weights.data"]["bytes"]
    loaded, before = use_and_unload()
    assert loaded - before > 1.5 * weights_bytes  # of all graphs; the layers hold some of them once more
    threads = process.num_threads()
    without = [use_and_unload()[1] for _ in range(4)]
    assert max(without) - before < weights_bytes / 8
    assert process.num_threads() < threads + 3  # a leak is one a cycle at least; the event loop's executor may grow


@pytest.mark.parametrize("read_in", ["the event loop", "a thread", "another thread, and inflated"])
def test_requests_are_answered_while_their_model_is_loaded_anew(owner: httpx.Client, read_in: str) -> None:
    expected, codes, done = read(ask(owner, states())), list[int](), threading.Event()
    body, headers = json.dumps({"inputs": [states()]}).encode(), {}
    if read_in != "the event loop":
        body = body.ljust(3 * MIB)
    if "inflated" in read_in:
        body, headers = zlib.compress(body), {"Content-Encoding": "deflate"}

    def keep_asking() -> None:
        while not done.is_set():
            answer = owner.post("/v2/models/tiny/infer", content=body, headers=headers)
            codes.append(answer.status_code)
            assert_same(read(answer), expected)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    for _ in range(3):
        assert control(owner, "load").status_code == httpx.codes.OK
    done.set()
    asking.join()
    assert set(codes) == {200}


def test_a_model_changed_on_disk_is_not_loaded_and_the_old_one_answers_on(
    controlled: Server, owner: httpx.Client
) -> None:
    models = controlled.stdout.parent / "models"
    graph = models / "tiny/1/model.onnx"
    good = graph.read_bytes()
    graph.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    answer = control(owner, "load")
    graph.write_bytes(good)
    message = f"{graph}: its SHA-256 is not the manifest's; the file was changed after the export"
    assert_refused(answer, 503, "not_loaded", "", message)
    assert ask(owner, states()).status_code == httpx.codes.OK


def test_what_cannot_be_loaded_is_said_in_words(owner: httpx.Client) -> None:
    message = "no such model in the models folder"
    assert_refused(control(owner, "load", "none"), 404, "unknown_model", "path", message)
    assert_refused(control(owner, "load", "..."), 404, "unknown_model", "path", message)
    message = "expected a name without .probes: a model is loaded and unloaded with what is inside"
    assert_refused(control(owner, "unload", "tiny.probes"), 422, "probes_name", "path", message)
    assert_refused(
        control(owner, "load", body=b'{"parameters":1}'), 422, "wrong_type", "parameters",
        "expected an object, got a number",
    )  # fmt: skip
    body = json.dumps({"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}).encode()
    message = "this server loads what is in its models folder, without configurations or files of a request"
    assert_refused(control(owner, "load", body=body), 501, "unsupported", "parameters", message)


def test_what_waits_for_a_model_is_answered_before_it_goes(owner: httpx.Client) -> None:
    slow, others = (tensor("hidden_states", np.zeros((1, length, 8), np.float32)) for length in (SLOW, 3))
    codes = list[int]()

    def ask_once(rows: dict[str, Any]) -> None:
        codes.append(ask(owner, rows).status_code)

    asking = [threading.Thread(target=ask_once, args=(rows,)) for rows in (slow, *[others] * 5)]
    for thread in asking:
        thread.start()
        time.sleep(0.05)  # all wait while the first one runs
    assert control(owner, "unload").status_code == httpx.codes.OK
    for thread in asking:
        thread.join()
    assert control(owner, "load").status_code == httpx.codes.OK
    assert codes == [200] * 6


@pytest.fixture
def reloading(artifact: Callable[[str], Path], tmp_path: Path) -> Iterator[Server]:
    """A server whose loads take long, and fail beside each other."""
    shutil.copytree(artifact("tiny"), tmp_path / "models" / "tiny" / "1")
    settings = {"model_control": True, "drain_timeout_s": 1}
    with running(tmp_path / "models", tmp_path, "tests.service.reloading_service", **settings) as server:
        yield server


def give_up(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v2/repository/models/tiny/load", timeout=0.2)


@pytest.mark.long
def test_a_load_goes_on_without_its_client_and_no_other_begins_beside_it(reloading: Server) -> None:
    with reloading.client() as client:
        before, start_s = client.get("/v2/models/tiny/ready"), time.monotonic()
        for _ in range(3):
            give_up(client)
        answer = client.post("/v2/repository/models/tiny/load", timeout=30)
        took_s = time.monotonic() - start_s
        assert before.status_code == answer.status_code == httpx.codes.OK, answer.text
        assert 2 * RELOAD_S < took_s < 3 * RELOAD_S  # the first one's and its own
        assert ask(client, states()).status_code == httpx.codes.OK


@pytest.mark.long
def test_a_stop_does_not_wait_for_a_load(reloading: Server) -> None:
    with reloading.client() as client:
        give_up(client)
        start_s = time.monotonic()
        assert reloading.stop() == 0
        assert time.monotonic() - start_s < RELOAD_S - 1


def test_the_index_leaves_out_folders_that_no_model_can_have(controlled: Server, owner: httpx.Client) -> None:
    models = controlled.stdout.parent / "models"
    odd = [models / name / version for name, version in (("n\u00e4me", "1"), ("new.probes", "1"), ("other", "01"))]
    odd.append(models / os.fsdecode(b"\xff") / "1")
    for folder in odd:
        folder.mkdir(parents=True)
    assert index(owner) == entries(OTHER, "tiny")
    for folder in odd:
        folder.rmdir()
        folder.parent.rmdir()


def test_a_configuration_has_as_many_versions_as_are_served(controlled: Server, owner: httpx.Client) -> None:
    folder = controlled.stdout.parent / "models" / "tiny"
    shutil.copytree(folder / "1", folder / "2")
    manifest = folder / "2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "2"'))
    for versions in (2, 1):
        assert control(owner, "load").status_code == httpx.codes.OK
        policy = owner.get("/v2/models/tiny/config").json()["version_policy"]
        assert policy == {"latest": {"num_versions": versions}}
        shutil.rmtree(folder / "2", ignore_errors=True)
