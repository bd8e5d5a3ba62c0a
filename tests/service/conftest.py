"""Fixtures of the service's own tests."""

from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture(scope="module")
def unharmed(client: httpx.Client) -> Iterator[httpx.Client]:
    """`client`, for a file of bad requests: after them liveness is quick and a good request gets the same bytes."""
    good = {"hidden_states": [[[1, 0, 0, 0, 0, 0, 0, 1]]], "outputs": ["block_output", "layers.*.attention_weights"]}
    before = client.post("/v1/models/tiny/forward", json=good)
    assert before.status_code == httpx.codes.OK
    yield client
    assert min(client.get("/livez").elapsed.total_seconds() for _ in range(3)) < 0.1
    assert client.post("/v1/models/tiny/forward", json=good).content == before.content
