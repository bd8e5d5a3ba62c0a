"""What every answer carries, and what a server says of itself and its models."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from service.app import Application
from service.settings import read_settings
from tests.artifacts import SERVED

ROW = [0.5, -1.0, 0.25, 2.0, 1.0, 0.0, 0.0, 1.0]
BODY = {"hidden_states": [[ROW, ROW]]}
STAGE = re.compile(r"(\w+);dur=(\d+\.\d{3})")


def test_liveness_and_readiness_are_200_and_say_so(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"live": True}
    assert client.get("/readyz").json() == {"ready": True}


def test_no_route_is_left_to_be_made_at_the_first_request() -> None:
    assert {type(route) for route in Application(read_settings([]))._api().routes} == {APIRoute, Route}


def test_probes_are_not_cached_nor_closed_and_carry_a_request_id(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == httpx.codes.OK
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert "connection" not in answer.headers


@pytest.mark.parametrize("route", ["/v1/models/tiny/forward", "/v1/models/tiny/versions/1/forward"])
def test_an_answer_names_its_version_and_the_hash_of_the_manifest_on_disk(
    client: httpx.Client, artifact: Callable[[str], Path], route: str
) -> None:
    headers = client.post(route, json=BODY).headers
    assert headers["x-model-version"] == "1"
    assert headers["x-model-sha256"] == hashlib.sha256((artifact("tiny") / "manifest.json").read_bytes()).hexdigest()


def test_server_timing_has_the_four_stages_in_milliseconds(client: httpx.Client) -> None:
    answer = client.post("/v1/models/tiny/forward", json=BODY)
    stages = STAGE.findall(answer.headers["server-timing"])
    assert [name for name, _ in stages] == ["decode", "queue", "run", "encode"]
    assert all(float(duration_ms) >= 0 for _, duration_ms in stages)
    assert sum(float(duration_ms) for _, duration_ms in stages) <= answer.elapsed.total_seconds() * 1e3


@pytest.mark.parametrize("request_id", ["a", "0af7651916cd43dd8448eb211c80319c", "A.b_c-9", "x" * 128])
def test_a_request_id_of_the_client_comes_back_on_answers_and_refusals(client: httpx.Client, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    good = client.post("/v1/models/tiny/forward", json=BODY, headers=headers)
    bad = client.post("/v1/models/tiny/forward", json={}, headers=headers)
    nowhere = client.get("/nowhere", headers=headers)
    assert [answer.headers["x-request-id"] for answer in (good, bad, nowhere)] == [request_id] * 3
    assert [answer.json()["request_id"] for answer in (bad, nowhere)] == [request_id] * 2


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "ü", "a/b", 'a"b', "a,b", "{jndi:ldap}"])
def test_an_odd_request_id_is_replaced_by_a_new_one(client: httpx.Client, request_id: str) -> None:
    headers = {b"X-Request-ID": request_id.encode()}
    answers = [client.get("/v1/models", headers=headers) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)
    assert ids[0] != ids[1]


def test_the_list_of_models_has_every_model_with_hash_and_provider(
    client: httpx.Client, artifact: Callable[[str], Path]
) -> None:
    models = client.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == sorted(SERVED)
    (tiny,) = [model for model in models if model["name"] == "tiny"]
    assert tiny == {
        "name": "tiny",
        "version": "1",
        "sha256": hashlib.sha256((artifact("tiny") / "manifest.json").read_bytes()).hexdigest(),
        "provider": "CPUExecutionProvider",
        "hidden_size": 8,
        "num_layers": 2,
        "accepts": ["hidden_states"],
    }
    assert [model["accepts"] for model in models if model["name"] == "minilm"] == [
        ["hidden_states", "input_ids", "text"]
    ]


def test_a_model_describes_itself_alike_with_and_without_its_version(client: httpx.Client) -> None:
    described = client.get("/v1/models/minilm")
    assert described.status_code == httpx.codes.OK
    assert client.get("/v1/models/minilm/versions/1").content == described.content
    fields = described.json()
    assert (fields["name"], fields["version"], fields["versions"]) == ("minilm", "1", ["1"])
    assert {"config", "parity", "source", "toolchain", "files", "aliases", "limits"} <= fields.keys()


def test_every_address_that_a_model_describes_is_answered_with_those_axes(client: httpx.Client) -> None:
    described = client.get("/v1/models/tiny").json()["outputs"]
    addresses = [output["address"] for output in described]
    answer = client.post("/v1/models/tiny/forward", json={**BODY, "outputs": addresses})
    assert list(answer.json()["outputs"]) == addresses
    for output in described:
        (values,) = answer.json()["outputs"][output["address"]]
        assert shape(values) == [2 if size == -1 else size for size in output["shape"]]
        assert len(output["axes"]) == len(output["shape"])


def shape(values: object) -> list[int]:
    return [len(values), *shape(values[0])] if isinstance(values, list) else []


@pytest.mark.parametrize(
    ("method", "route", "sentence", "code"),
    [
        ("GET", "/v1/models/none", f"no such model; this server has {', '.join(sorted(SERVED))}", "unknown_model"),
        (
            "POST",
            "/v1/models/none/forward",
            f"no such model; this server has {', '.join(sorted(SERVED))}",
            "unknown_model",
        ),
        ("GET", "/v1/models/tiny/versions/7", "model tiny has no such version; it has 1", "unknown_version"),
        ("POST", "/v1/models/tiny/versions/01/forward", "model tiny has no such version; it has 1", "unknown_version"),
        ("GET", "/v1/models/%2e%2e%2fetc%2fpasswd", "no such route; GET /docs for the list", "unknown_route"),
        ("GET", "/static/..%2fsettings.py", "no such file", "unknown_route"),
        ("GET", "/v1/models/", "no such route; GET /docs for the list", "unknown_route"),
    ],
)
def test_what_does_not_exist_is_404_in_words(
    client: httpx.Client, method: str, route: str, sentence: str, code: str
) -> None:
    answer = client.request(method, route)
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert answer.json() == {
        "error": f"{sentence} - at path",
        "code": code,
        "at": "path",
        "request_id": answer.headers["x-request-id"],
    }
