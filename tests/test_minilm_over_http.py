"""MiniLM's six layers, served, against `transformers` eager."""

import functools
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from examples.client import Client
from tests.hooked import minilm
from tests.server import Server

SENTENCES = [
    "The cat sat on the mat because it was tired.",
    "Yes.",
    "Interest rates rose by half a point, which nobody on the committee had expected when the meeting began at nine.",
    "A sleepy cat rested on a rug.",
]
IT_TO_CAT = 0.712


@functools.cache
def oracle(sentence: str) -> dict[str, Any]:
    """Tokens, hidden states and attention weights of every layer, from `transformers` eager in float32."""
    tokenizer, model, _ = minilm()
    inputs = tokenizer(sentence, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True, output_attentions=True)
    return {
        "tokens": tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]),
        "input_ids": inputs["input_ids"][0].tolist(),
        "hidden_states": [values[0].numpy() for values in found.hidden_states],
        "attentions": [values[0].numpy() for values in found.attentions],
    }


def distance(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    assert got.shape == want.shape
    return float(np.abs(got.astype(np.float64) - want).max())


@pytest.fixture(scope="module")
def answers(server: Server) -> tuple[dict[str, list[NDArray[np.float32]]], list[list[str]]]:
    """One request of four sentences of different lengths, asking for everything the oracle knows."""
    with Client(server.url, "minilm") as client:
        outputs, cache = client.run_with_cache(SENTENCES, ["attention_weights", "layer_input"])
        return {**cache, "block_output": outputs}, client.tokens


def test_sentences_of_different_lengths_in_one_batch_equal_transformers(answers: Any) -> None:
    found, tokens = answers
    assert len({len(words) for words in tokens}) == len(SENTENCES)
    for row, sentence in enumerate(SENTENCES):
        want = oracle(sentence)
        assert tokens[row] == want["tokens"]
        assert distance(found["block_output"][row], want["hidden_states"][6]) <= 1e-5
        for layer in range(6):
            assert distance(found[f"layers.{layer}.attention_weights"][row], want["attentions"][layer]) <= 1e-5
            assert distance(found[f"layers.{layer}.layer_input"][row], want["hidden_states"][layer]) <= 1e-5


def test_it_attends_to_the_cat_in_layer_5_head_11(answers: Any) -> None:
    found, tokens = answers
    words = tokens[0]
    weight = found["layers.5.attention_weights"][0][11, words.index("it"), words.index("cat")]
    assert round(float(weight), 3) == IT_TO_CAT


def test_input_ids_give_the_same_answer_as_their_text(client: httpx.Client) -> None:
    ids = [oracle(sentence)["input_ids"] for sentence in SENTENCES]
    by_ids = client.post("/v1/models/minilm/forward", json={"input_ids": ids}).json()
    by_text = client.post("/v1/models/minilm/forward", json={"text": SENTENCES}).json()
    assert by_ids["outputs"] == by_text["outputs"]
    assert "tokens" not in by_ids
