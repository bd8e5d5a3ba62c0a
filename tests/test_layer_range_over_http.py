"""Layers 2 to 5 of MiniLM as a model of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from examples.client import Client
from tests.server import Server, link_models, running

pytestmark = pytest.mark.long
SENTENCES = ["The cat sat on the mat because it was tired.", "Yes.", "A sleepy cat rested on a rug."]


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server of the whole model and of its middle."""
    folder = tmp_path_factory.mktemp("ranges")
    models = link_models(folder / "models", {name: artifact(name) for name in ("minilm", "minilm-2-5")})
    with running(models, folder) as started:
        yield started


def test_the_range_2_to_5_as_a_model_of_its_own_is_the_middle_of_the_whole(ranges: Server) -> None:
    with Client(ranges.url, "minilm") as whole, Client(ranges.url, "minilm-2-5") as middle:
        cache = whole.run(SENTENCES, outputs=["layers.2.layer_input", "layers.4.layer_output", "layers.3.query"])
        found, inner = middle.run_with_cache(cache["layers.2.layer_input"], ["layers.1.query"])
    for row in range(len(SENTENCES)):
        assert np.array_equal(found[row], cache["layers.4.layer_output"][row])
        assert np.array_equal(inner["layers.1.query"][row], cache["layers.3.query"][row])


def test_a_range_that_does_not_begin_at_layer_0_takes_no_text(ranges: Server) -> None:
    response = httpx.post(ranges.url + "/v1/models/minilm-2-5/forward", json={"text": "Yes."})
    assert response.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert response.json()["error"] == (
        "expected hidden_states: model minilm-2-5 has no text front, so it takes no text - at text"
    )
