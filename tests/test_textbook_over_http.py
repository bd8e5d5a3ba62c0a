"""The textbook's numbers, read as probes over HTTP from blocks exported with norm: none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server import link_models, running
from tests.textbook import ACTIVATIONS, EXAMPLES, NAMES


@pytest.fixture(scope="module")
def textbook(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[httpx.Client]:
    """A client of a server of all the textbook's blocks."""
    folder = tmp_path_factory.mktemp("textbook")
    models = link_models(folder / "models", {name: artifact(name) for name in NAMES})
    with running(models, folder) as server, server.client() as opened:
        yield opened


def ask(client: httpx.Client, model: str, rows: Any, probes: list[str]) -> dict[str, NDArray[np.float64]]:
    body = {"hidden_states": [rows], "outputs": probes}
    response = client.post(f"/v1/models/{model}/forward", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    return {name: np.asarray(arrays[0], np.float64) for name, arrays in response.json()["outputs"].items()}


def assert_close(got: Any, want: Any) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert (np.abs(got - want) <= 1e-6 + 1e-6 * np.abs(want)).all(), np.abs(got - want).max()


@pytest.mark.long
def test_projections_give_the_books_query_key_and_value(textbook: httpx.Client) -> None:
    example = EXAMPLES["projections"]
    found = ask(textbook, "textbook-projections", [example["x"]], ["query", "key", "value"])
    assert_close(found["query"][0, 0], example["q"])
    assert_close(found["key"][0, 0], example["k"])
    assert_close(found["value"][0, 0], example["v"])


@pytest.mark.long
def test_attention_gives_the_books_scores_weights_and_context(textbook: httpx.Client) -> None:
    example = EXAMPLES["attention"]
    probes = ["attention_scores", "attention_weights", "context"]
    found = ask(textbook, "textbook-attention", np.eye(3).tolist(), probes)
    assert_close(found["attention_scores"][0, 0], example["scores"])
    assert_close(found["attention_weights"][0, 0], example["weights"])
    assert_close(found["context"][0, 0], example["context"])


@pytest.mark.long
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_gives_the_books_numbers(textbook: httpx.Client, activation: str) -> None:
    example = EXAMPLES["feed_forward"]
    probes = ["ffn_pre_activation", "ffn_post_activation", "ffn_output"]
    found = ask(textbook, f"textbook-feed-forward-{activation.replace('_', '-')}", [example["x"]], probes)
    assert_close(found["ffn_pre_activation"][0], example["pre"])
    assert_close(found["ffn_post_activation"][0], example[activation]["post"])
    assert_close(found["ffn_output"][0], example[activation]["out"])


def test_two_heads_give_the_numbers_of_the_completed_example(client: httpx.Client) -> None:
    example = EXAMPLES["multi_head"]
    probes = ["attention_scores", "attention_weights", "context", "attention_output"]
    found = ask(client, "textbook-multi-head", example["X"], probes)
    assert_close(found["attention_scores"], example["scores"])
    assert_close(found["attention_weights"], example["weights"])
    assert_close(found["context"].transpose(1, 0, 2), example["heads"])
    assert_close(found["attention_output"], example["out"])
