"""What /v2 says of the server and its models; what it has not, in words."""

import re

import httpx
import pytest

from service import __version__
from tests.artifacts import SERVED
from tests.service.inference import ask, states
from tests.service.refusal import assert_refused

NAMES = [name for base in sorted(SERVED) for name in (base, f"{base}.probes")]
INPUTS = [
    {"name": "hidden_states", "datatype": "FP32", "shape": [-1, -1, 8]},
    {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
]


def test_the_server_names_itself_and_its_extensions(client: httpx.Client) -> None:
    assert client.get("/v2").json() == {
        "name": "glassblock",
        "version": __version__,
        "extensions": [
            *("binary_tensor_data", "model_configuration", "model_repository", "model_repository(unload_dependents)"),
            *("parameters", "schedule_policy", "statistics"),
        ],
    }


def test_health_is_200_while_the_server_is_ready(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for name in ("tiny", "tiny.probes"):
        for route in (f"/v2/models/{name}/ready", f"/v2/models/{name}/versions/1/ready"):
            assert client.get(route).json() == {"name": name, "ready": True}


def test_every_model_is_there_under_both_names(client: httpx.Client) -> None:
    assert client.get("/v2/models").json() == {"models": NAMES}
    for name in NAMES:
        assert client.get(f"/v2/models/{name}").json()["name"] == name


def test_the_lean_name_lists_the_output_and_the_other_what_is_inside(client: httpx.Client) -> None:
    lean = client.get("/v2/models/tiny")
    assert client.get("/v2/models/tiny/versions/1").content == lean.content
    assert lean.json() == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": INPUTS,
        "outputs": [{"name": "block_output", "datatype": "FP32", "shape": [-1, -1, 8]}],
    }
    inside = client.get("/v2/models/tiny.probes").json()
    described = client.get("/v1/models/tiny").json()["outputs"][1:]
    assert inside["inputs"] == INPUTS
    assert inside["outputs"] == [
        {"name": output["address"], "datatype": "FP32", "shape": [-1, *output["shape"]]} for output in described
    ]


def test_the_configuration_has_the_same_tensors_without_their_batch(client: httpx.Client) -> None:
    for name in ("tiny", "tiny.probes"):
        described, config = client.get(f"/v2/models/{name}").json(), client.get(f"/v2/models/{name}/config").json()
        assert client.get(f"/v2/models/{name}/versions/1/config").json() == config
        assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"] + config["output"]] == [
            (t["name"], f"TYPE_{t['datatype']}", t["shape"][1:]) for t in described["inputs"] + described["outputs"]
        ]
        assert [tensor["optional"] for tensor in config["input"]] == [False, True]
        assert (config["name"], config["max_batch_size"]) == (name, 16_384)


def stats(client: httpx.Client, name: str = "textbook-multi-head") -> dict[str, dict[str, dict[str, int]]]:
    (found,) = client.get(f"/v2/models/{name}/stats").json()["model_stats"]
    assert found.pop("name") == name
    assert found.pop("version") == "1"
    return dict(found)


def test_statistics_count_sequences_runs_and_what_each_stage_took(client: httpx.Client) -> None:
    width = client.get("/v1/models/textbook-multi-head").json()["hidden_size"]
    made = states(shape=[2, 3, width], data=[0.5] * 6 * width)
    before = stats(client)
    for _ in range(3):
        assert ask(client, made, model="textbook-multi-head").status_code == httpx.codes.OK
    assert ask(client, states(shape=[1]), model="textbook-multi-head").status_code == 422
    after = stats(client)
    assert after["inference_count"] - before["inference_count"] == 6  # type: ignore[operator]
    assert after["execution_count"] - before["execution_count"] == 3  # type: ignore[operator]
    assert after["last_inference"] > 1.7e12  # type: ignore[operator]
    counted = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        for name in after["inference_stats"]
    }
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert counted == {"success": 3, "fail": 1, **dict.fromkeys(stages, 3), "cache_hit": 0, "cache_miss": 0}
    took = {name: after["inference_stats"][name]["ns"] - before["inference_stats"][name]["ns"] for name in stages}
    assert all(ns > 0 for ns in took.values())
    whole = after["inference_stats"]["success"]["ns"] - before["inference_stats"]["success"]["ns"]
    assert abs(whole - sum(took.values())) <= len(stages)


def test_both_names_of_a_model_and_the_list_of_all_give_the_same_figures(client: httpx.Client) -> None:
    name = "textbook-multi-head"
    assert stats(client, name) == stats(client, f"{name}.probes")
    listed = client.get("/v2/models/stats").json()["model_stats"]
    assert [model["name"] for model in listed] == NAMES
    assert client.get(f"/v2/models/{name}/versions/1/stats").json()["model_stats"][0] in listed


LACKING = [
    *(("GET", path) for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/tiny/trace/setting")),
    *(("POST", path) for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/tiny/trace/setting")),
    *(("GET", f"/v2/{kind}sharedmemory/status") for kind in ("system", "cuda")),
    *(("POST", f"/v2/{kind}sharedmemory/region/r/register") for kind in ("system", "cuda")),
    *(("POST", f"/v2/{kind}sharedmemory/unregister") for kind in ("system", "cuda")),
]


@pytest.mark.parametrize(("method", "path"), LACKING)
def test_parts_of_the_protocol_that_are_not_here_are_501(client: httpx.Client, method: str, path: str) -> None:
    message = "this server has no trace, logging or shared memory routes; see GET /metrics"
    assert_refused(client.request(method, path), 501, "unsupported", "path", message)


def test_another_method_is_405_and_every_right_one_is_named(client: httpx.Client) -> None:
    answer = client.delete("/v2/logging")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "POST"})


def test_the_server_describes_itself_with_and_without_a_slash(client: httpx.Client) -> None:
    assert client.get("/v2/").content == client.get("/v2").content


def test_a_version_is_taken_from_the_path_alone(client: httpx.Client) -> None:
    for face in ("v1", "v2"):
        assert client.get(f"/{face}/models/tiny?version=7").status_code == httpx.codes.OK
    assert 'in":"query' not in client.get("/openapi.json").text.partition("/v2")[2].partition("/livez")[0]


UNKNOWN = [
    *("none", "none.probes", "tiny.probes.probes", "tiny.Probes", ".probes", "TINY"),
    *("...", "tiny%00", "tiny%0a", "tiny%20", "%ff"),
]


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("GET", "/ready"), ("GET", "/stats"), ("POST", "/infer")])
def test_an_unknown_model_is_404_in_words(client: httpx.Client, name: str, method: str, rest: str) -> None:
    answer = client.request(method, f"/v2/models/{name}{rest}")
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert re.match("no such (model|route); ", answer.json()["error"])


@pytest.mark.parametrize("version", ["0", "2", "01", "-1", "1.0", "latest", "1" * 30])
def test_an_unknown_version_is_404_in_words(client: httpx.Client, version: str) -> None:
    message = "model tiny has no such version; it has 1"
    for rest in ("", "/ready", "/config", "/stats"):
        answer = client.get(f"/v2/models/tiny.probes/versions/{version}{rest}")
        assert_refused(answer, 404, "unknown_version", "path", message)
    answer = client.post(f"/v2/models/tiny/versions/{version}/infer", content=b"{")
    assert_refused(answer, 404, "unknown_version", "path", message)


def test_routes_are_counted_under_their_templates(client: httpx.Client) -> None:
    client.get("/v2/models/tiny")
    client.post("/v2/models/none/infer")
    text = client.get("/metrics").text
    assert 'route="/v2/models/{model}/infer"' in text
    assert 'route="/v2/models/{model}"' in text
    assert 'route="/v2/health' not in text
    assert "none" not in {line.partition('model="')[2].partition('"')[0] for line in text.splitlines()}
