"""Every probe of MiniLM's layers, over HTTP, against what passes through BERT's modules, with their axes."""

from collections.abc import Iterator

import httpx
import pytest

from examples.client import Client
from tests.hooked import SITES, Tensors, assert_equal_by_the_rule, run_alone
from tests.server import Server
from tests.test_minilm_over_http import SENTENCES

LAYERS, HEADS, HEAD_DIM = 6, 12, 32


@pytest.fixture(scope="module")
def oracles() -> list[tuple[Tensors, Tensors]]:
    """What `transformers` eager has at each place, of each sentence alone, in float32 and float64."""
    return run_alone(SENTENCES, [[]] * len(SENTENCES))


@pytest.fixture(scope="module")
def served(server: Server) -> Iterator[Client]:
    with Client(server.url, "minilm") as client:
        yield client


@pytest.mark.long
def test_every_probe_of_every_layer_is_what_passes_through_berts_modules(
    served: Client, oracles: list[tuple[Tensors, Tensors]]
) -> None:
    found = served.run(SENTENCES, outputs=["block_output", *(f"layers.*.{probe}" for probe in SITES)])
    assert len(found) == 1 + LAYERS * len(SITES)
    for row, (single, double) in enumerate(oracles):
        assert found.keys() == double.keys()
        for address, values in found.items():
            assert_equal_by_the_rule(values[row], single[address], double[address], what=address)


def test_these_are_all_probes_that_the_model_lists_and_their_axes_are_as_listed(
    client: httpx.Client, oracles: list[tuple[Tensors, Tensors]]
) -> None:
    outputs = client.get("/v1/models/minilm").json()["outputs"]
    listed = {output["address"]: output["axes"] for output in outputs if output["address"] != "attention_rollout"}
    tensors, _ = oracles[0]
    length = len(tensors["layers.0.layer_input"])
    sizes = dict.fromkeys(("sequence", "query", "key"), length) | {"hidden": 384, "intermediate": 1536}
    sizes |= {"head": HEADS, "head_dim": HEAD_DIM, "value_head_dim": HEAD_DIM}
    shapes = {address: tuple(sizes[axis] for axis in axes) for address, axes in listed.items()}
    assert shapes == {address: tuple(values.shape) for address, values in tensors.items()}
