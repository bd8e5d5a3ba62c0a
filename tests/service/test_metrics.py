"""Metrics go up by exactly what was sent, and no client can make their labels grow."""

import http.client
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

BODY = {"hidden_states": [[[0.5] * 8] * 3, [[1.5] * 8] * 4], "outputs": ["block_output"]}
FORWARD = "/v1/models/{model}/forward"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: httpx.Client) -> Samples:
    """Every sample by its name and labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("glassblock_") and not sample.name.endswith("_created")
    }


def scrape_at_rest(client: httpx.Client) -> Samples:
    """A scrape once no request is under way: one is counted after its answer has been sent."""
    for _ in range(200):
        samples = scrape(client)
        if samples["glassblock_in_flight_requests", ()] == 0:
            return samples
    raise AssertionError("requests are still under way")


def gained(client: httpx.Client, action: Callable[[], object]) -> Samples:
    """The samples that an action changes, and by how much; durations left out."""
    before = scrape_at_rest(client)
    action()
    after = scrape_at_rest(client)
    changes = {key: value - before.get(key, 0.0) for key, value in after.items()}
    return {
        key: change
        for key, change in changes.items()
        if change and not key[0].endswith(("_bucket", "seconds_sum")) and "in_flight" not in key[0]
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

    model = (("model", "tiny"),)
    assert gained(client, send) == {
        **answered(FORWARD, 200, 3),
        ("glassblock_run_duration_seconds_count", model): 3,
        ("glassblock_batch_size_count", model): 3,
        ("glassblock_batch_size_sum", model): 6,
        ("glassblock_tokens_total", model): 21,
        ("glassblock_padded_tokens_total", model): 24,
    }


def test_refused_requests_are_counted_by_their_status_and_reach_no_model(client: httpx.Client) -> None:
    def send() -> None:
        assert client.post("/v1/models/tiny/forward", content=b"{").status_code == httpx.codes.BAD_REQUEST
        for _ in range(2):
            assert client.post("/v1/models/tiny/forward", json={}).status_code == httpx.codes.UNPROCESSABLE_ENTITY
        assert client.post("/v1/models/none/forward", json=BODY).status_code == httpx.codes.NOT_FOUND

    found = gained(client, send)
    assert found.pop(("glassblock_request_duration_seconds_count", (("route", FORWARD),))) == 4
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


def test_probes_and_scrapes_are_not_counted_as_requests(client: httpx.Client) -> None:
    def send() -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            client.get(path)

    assert gained(client, send) == {}


def test_odd_routes_models_methods_and_ids_add_no_labels(client: httpx.Client) -> None:
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
    for number in range(20):
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
