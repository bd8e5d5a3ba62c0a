"""What a server's /metrics say."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: httpx.Client) -> Samples:
    """Every sample by its name and labels, as of now."""
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
