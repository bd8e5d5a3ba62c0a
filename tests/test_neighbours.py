"""An answer does not depend on its neighbours: byte-equal alone and among others of other lengths."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.neighbourhood import (
    THREADS,
    Case,
    ask_alone,
    assert_equal_alone_and_together,
    connect,
    hidden_case,
    ids_case,
)
from tests.server import Server, link_models, running

pytestmark = pytest.mark.thorough
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 66, 100, 127, 128, 129, 200)
SHORT = tuple(length for length in LENGTHS if length <= 66)
EVERYTHING = ["block_output", "attention_weights", "attention_scores", "query", "context", "ffn_output"]


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server for these tests alone, so that its metrics count their batches only."""
    folder = tmp_path_factory.mktemp("neighbours")
    models = link_models(folder / "models", {name: artifact(name) for name in ("tiny", "minilm", "head-256")})
    with running(models, folder, layer_graphs="eager", threads=THREADS) as started:
        yield started


def test_tiny_answers_alike_alone_and_among_other_lengths(neighbours: Server) -> None:
    cases = [hidden_case("tiny", length, [length]) for length in LENGTHS]
    assert_equal_alone_and_together(neighbours, cases)


def test_every_probe_of_tiny_is_alike_alone_and_among_other_lengths(neighbours: Server) -> None:
    cases = [hidden_case("tiny", length, [length], outputs=EVERYTHING) for length in SHORT]
    assert_equal_alone_and_together(neighbours, cases)


@pytest.mark.long
def test_minilm_answers_alike_alone_and_among_other_lengths(neighbours: Server) -> None:
    cases = [ids_case(length, [length]) for length in (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 66)]
    assert_equal_alone_and_together(neighbours, cases)


@pytest.mark.long
def test_every_layers_attention_in_minilm_is_alike_alone_and_among_other_lengths(neighbours: Server) -> None:
    outputs = ["attention_weights", "layers.2.attention_scores", "layers.5.context"]
    cases = [ids_case(length, [length], outputs=outputs) for length in (1, 2, 3, 5, 7, 8, 17, 20, 33)]
    assert_equal_alone_and_together(neighbours, cases)


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(["block_output"], id="lean"),
        pytest.param(["attention_scores", "context", "ffn_output"], id="inside", marks=pytest.mark.long),
    ],
)
def test_a_head_dim_of_256_answers_alike_alone_and_among_other_lengths_across_64(
    neighbours: Server, outputs: list[str]
) -> None:
    lengths = (1, 2, 3, 15, 16, 17, 33, 63, 64, 65, 66, 100)
    cases = [hidden_case("head-256", length, [length], outputs=outputs) for length in lengths]
    assert_equal_alone_and_together(neighbours, cases)


def test_masked_sequences_answer_alike_alone_and_among_other_lengths(neighbours: Server) -> None:
    chance = np.random.default_rng(5)
    cases = []
    for length in SHORT:
        mask = (chance.random(length) < 0.6).tolist()
        cases.append(hidden_case("tiny", length, [length], attention_mask=[mask], outputs=EVERYTHING))
    assert_equal_alone_and_together(neighbours, cases)


def test_sequences_of_one_request_answer_as_each_does_in_a_request_of_its_own(neighbours: Server) -> None:
    chance = np.random.default_rng(6)
    singles = [hidden_case("tiny", length, [length], outputs=EVERYTHING) for length in SHORT]
    ask_alone(neighbours, singles)
    sequences = [json.loads(case.body)["hidden_states"][0] for case in singles]
    alone = [texts_of_outputs(case.alone[1])[0] for case in singles]
    connection = connect(neighbours)
    for _ in range(6):
        chosen = chance.permutation(len(singles))[:7].tolist()
        body = {"hidden_states": [sequences[index] for index in chosen], "outputs": EVERYTHING}
        _, answer = Case("tiny", body).ask(connection)
        assert texts_of_outputs(answer) == [alone[index] for index in chosen]
    connection.close()


def test_texts_of_one_request_answer_as_each_does_in_a_request_of_its_own(neighbours: Server) -> None:
    texts = ["A cat.", "The cat sat on the mat because it was tired.", "A", "", "cat " * 20, "mat " * 100]
    outputs = ["layers.5.attention_weights", "block_output"]
    singles = [Case("minilm", {"text": [text], "outputs": outputs}) for text in texts]
    ask_alone(neighbours, singles)
    connection = connect(neighbours)
    _, answer = Case("minilm", {"text": texts, "outputs": outputs}).ask(connection)
    connection.close()
    assert texts_of_outputs(answer) == [texts_of_outputs(case.alone[1])[0] for case in singles]


def texts_of_outputs(answer: bytes) -> list[dict[str, str]]:
    """For each sequence of an answer its tensors as JSON text, by key."""
    outputs = json.loads(answer)["outputs"]
    count = len(next(iter(outputs.values())))
    return [{key: json.dumps(values[i]) for key, values in outputs.items()} for i in range(count)]
