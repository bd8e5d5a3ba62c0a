"""Metrics go up by exactly what was sent, and no client can make their labels grow."""

import http.client
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import SHED_REASONS
from tests.service.scraping import Samples, scrape, scrape_at_rest

BODY = {"hidden_states": [[[0.5] * 8] * 3, [[1.5] * 8] * 4], "outputs": ["block_output"]}
FORWARD = "/v1/models/{model}/forward"
ROOT = Path(__file__).parent.parent.parent


def gained(client: httpx.Client, action: Callable[[], object]) -> Samples:
    """The samples that an action changes, and by how much; durations left out."""
    before = scrape_at_rest(client)
    action()
    after = scrape_at_rest(client)
    changes = {key: value - before.get(key, 0.0) for key, value in after.items()}
    return {
        key: change
        for key, change in changes.items()
        if change and not key[0].endswith(("_bucket", "seconds_sum", "timestamp_seconds")) and "in_flight" not in key[0]
    }


def answered(route: str, code: int, count: int) -> Samples:
    return {
        ("glassblock_requests_total", (("code", str(code)), ("route", route))): count,
        ("glassblock_request_duration_seconds_count", (("route", route),)): count,
    }


def test_good_requests_are_counted_with_their_sequences_and_positions(client: httpx.Client) -> None:
    def send() -> None:
        for _ in range(3):
            assert client.post("/v1/models/tiny/forward", json=BODY).status_code == httpx.codes.OK

    model = (("model", "tiny"), ("version", "1"))
    stages: Samples = {
        ("glassblock_stage_duration_seconds_count", (model[0], ("stage", stage), model[1])): 3
        for stage in ("decode", "queue", "run", "encode")
    }
    assert gained(client, send) == {
        **answered(FORWARD, 200, 3),
        **stages,
        ("glassblock_run_duration_seconds_count", model): 3,
        ("glassblock_batch_size_count", model): 3,
        ("glassblock_batch_size_sum", model): 6,
        ("glassblock_tokens_total", model): 21,
        ("glassblock_padded_tokens_total", model): 24,
    }


def test_refused_requests_are_counted_by_their_status_and_as_failed_and_reach_no_run(client: httpx.Client) -> None:
    def send() -> None:
        assert client.post("/v1/models/tiny/forward", content=b"{").status_code == httpx.codes.BAD_REQUEST
        for _ in range(2):
            assert client.post("/v1/models/tiny/forward", json={}).status_code == httpx.codes.UNPROCESSABLE_ENTITY
        assert client.post("/v1/models/none/forward", json=BODY).status_code == httpx.codes.NOT_FOUND

    found = gained(client, send)
    assert found.pop(("glassblock_request_duration_seconds_count", (("route", FORWARD),))) == 4
    assert found.pop(("glassblock_failed_duration_seconds_count", (("model", "tiny"), ("version", "1")))) == 3
    assert found == {
        ("glassblock_requests_total", (("code", str(code)), ("route", FORWARD))): count
        for code, count in ((400, 1), (422, 2), (404, 1))
    }


def test_a_body_refused_at_the_door_is_counted_as_shed(client: httpx.Client) -> None:
    def send() -> None:
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
        connection.putrequest("POST", "/v1/models/tiny/forward")
        connection.putheader("Content-Length", str(2**24 + 1))
        connection.endheaders()
        assert connection.getresponse().status == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        connection.close()

    found = gained(client, send)
    assert found[("glassblock_shed_total", (("reason", "body_too_large"),))] == 1
    assert sum(count for (name, _), count in found.items() if name == "glassblock_requests_total") == 1


@pytest.mark.parametrize(
    ("length", "asked", "reason"),
    [
        (16_385, "block_output", "too_many_tokens"),
        (11_586, "block_output", "too_much_attention"),
        (2_049, "attention_weights", "answer_too_large"),
    ],
)
def test_a_request_that_the_ticket_refuses_is_counted_as_shed(
    client: httpx.Client, length: int, asked: str, reason: str
) -> None:
    body = {"hidden_states": [[[0.5] * 8] * length], "outputs": [asked]}
    found = gained(client, lambda: client.post("/v1/models/tiny/forward", json=body))
    assert found == {
        **answered(FORWARD, 422, 1),
        ("glassblock_shed_total", (("reason", reason),)): 1,
        ("glassblock_failed_duration_seconds_count", (("model", "tiny"), ("version", "1"))): 1,
    }


def test_every_refusal_of_the_gates_is_a_reason_and_every_reason_is_shown_from_the_start(client: httpx.Client) -> None:
    files = ("admission", "connection", "framing", "keys", "lifecycle", "places", "shedding", "ticket")
    source = "".join((ROOT / f"service/{name}.py").read_text(encoding="utf-8") for name in files)
    raised = set(re.findall(r'code="(\w+)"|_weigh\(.*, "(\w+)"\)', source))
    states = set(re.findall(r'^    "(\w+)": "', source, re.MULTILINE))
    shown = {dict(labels)["reason"] for name, labels in scrape(client) if name == "glassblock_shed_total"}
    assert {code for codes in raised for code in codes if code} | states == set(SHED_REASONS) == shown


def test_probes_and_scrapes_are_not_counted_as_requests(client: httpx.Client) -> None:
    def send() -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            client.get(path)

    assert gained(client, send) == {}


@pytest.mark.parametrize("count", [20, pytest.param(145, marks=pytest.mark.long)])  # of seven requests: a thousand
def test_odd_routes_models_methods_and_ids_add_no_labels(client: httpx.Client, count: int) -> None:
    def send(word: str) -> None:
        client.get(f"/{word}")
        client.get(f"/v1/models/{word}")
        client.post(f"/v1/models/{word}/forward", json=BODY)
        client.get(f"/v1/models/tiny/versions/{word}")
        client.post(f"/v1/models/tiny/versions/{word}/forward", json=BODY)
        client.get(f"/static/{word}")
        client.request("PATCH", f"/v1/models/{word}", headers={"X-Request-ID": word})

    send("first")
    before = scrape_at_rest(client).keys()
    for number in range(count):
        send(f"word-{number}")
    assert scrape_at_rest(client).keys() == before


def test_what_is_served_is_a_metric_with_version_hash_and_provider(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["models"]
    labels = [
        (("model", m["name"]), ("provider", m["provider"]), ("sha256", m["sha256"]), ("version", m["version"]))
        for m in models
    ]
    found = {labels: value for (name, labels), value in scrape(client).items() if name == "glassblock_model_info"}
    assert found == dict.fromkeys(labels, 1.0)


def test_the_queue_is_empty_when_nothing_is_asked(client: httpx.Client) -> None:
    samples = scrape_at_rest(client)
    waiting = {labels: value for (name, labels), value in samples.items() if name == "glassblock_queued_tokens"}
    assert len(waiting) == len(client.get("/v1/models").json()["models"])
    assert set(waiting.values()) == {0.0}


def test_the_processs_memory_cpu_and_descriptors_are_shown(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        (value,) = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert float(value) > 0


def test_every_metric_has_its_line_in_operations_and_every_line_its_metric(client: httpx.Client) -> None:
    client.post("/v1/models/tiny/forward", json=BODY)
    shown = set()
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name.startswith("glassblock_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(sorted({label for sample in family.samples for label in sample.labels} - {"le"}))
            shown.add(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `glassblock_.*", page, re.MULTILINE)) == shown
    assert [reason for reason in SHED_REASONS if f"`{reason}`" not in page] == []
