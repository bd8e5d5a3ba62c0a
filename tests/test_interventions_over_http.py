"""Interventions in served MiniLM, against `transformers` eager with the same changes made by hooks."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from tests.changes import Change, as_json, every_verb
from tests.hooked import SITES, Tensors, assert_equal_by_the_rule, minilm, row_of, run_alone, run_bert

pytestmark = pytest.mark.long
SENTENCE = "The cat sat."
OTHERS = ["Yes.", "Interest rates rose by half a point, which nobody had expected."]
LAYERS = 6
Array = NDArray[np.float32]


def ask(client: httpx.Client, text: Sequence[str], outputs: Iterable[str], interventions: Any) -> dict[str, Array]:
    """Tensors by address, padded on the right."""
    body = {"text": text, "outputs": [*outputs], "interventions": interventions}
    headers = {"Content-Type": "application/json", "Accept": "application/x-safetensors"}
    answer = client.post("/v1/models/minilm/forward", content=json.dumps(body), headers=headers)
    assert answer.status_code == httpx.codes.OK, answer.text
    return load(answer.content)


def assert_goes_on_as_in_bert(
    found: dict[str, Array], wanted: Iterable[str], runs: Sequence[tuple[Tensors, Tensors]]
) -> None:
    """Each sequence's tensors are those of its runs in float32 and float64."""
    for row, (single, double) in enumerate(runs):
        for name in wanted:
            got = found[name][row][tuple(map(slice, double[name].shape))]
            assert_equal_by_the_rule(got, single[name], double[name], what=f"{name} of sequence {row}")


@pytest.mark.parametrize(("layer", "seed"), [(3, 0), *((n % LAYERS, n) for n in range(1, 25))])
def test_every_verb_at_every_site_goes_on_as_in_bert(client: httpx.Client, layer: int, seed: int) -> None:
    tokenizer, single, double = minilm()
    addresses = [f"layers.{layer}.{site}" for site in SITES]
    plain = run_bert(single, tokenizer(SENTENCE, return_tensors="pt"), [[]])
    changes = [[change] for change in every_verb({name: tuple(plain[name].shape[1:]) for name in addresses}, seed)]
    text, wanted = [SENTENCE] * len(changes), {*addresses, "block_output", "layers.5.attention_weights"}
    # Beside sentences of other lengths, in which nothing is changed.
    found = ask(client, text + OTHERS, wanted, [*map(as_json, changes), *[None] * len(OTHERS)])
    inputs = tokenizer(text, return_tensors="pt")
    runs = [run_bert(model, inputs, changes) for model in (single, double)]
    assert_goes_on_as_in_bert(found, wanted, [(row_of(runs[0], row), row_of(runs[1], row)) for row in range(len(text))])
    moved = (runs[0]["block_output"] - plain["block_output"]).abs().amax((1, 2))
    assert (moved > 1e-4).float().mean() > 0.9, "changes that cannot be seen: nothing is shown"


def test_changes_of_many_layers_sites_and_verbs_go_on_together(client: httpx.Client) -> None:
    ramp = np.linspace(-1, 1, 384, dtype=np.float32)
    heads = np.array(1 - 2 * np.eye(12)[4], np.float32)[:, None]
    everywhere = {
        "layers.*.attention_output": {"scale": 0.5, "add": ramp.tolist()},
        "blocks.2:4.attn.hook_z[..., 4, :]": {"scale": -1},
        "layers.1.attention_weights[0]": {"set": 0.25, "scale": 3},
        "layers.1.attention_weights[0, ::-1]": {"add": 7},
        "layers.4.resid_mid[-1]": {"scale": 2},
        "layers.4.resid_mid[-2:]": {"scale": [[2], [3]], "add": 1},
        "layers.4.resid_mid[-2]": {"add": -1},
        "layers.5.layer_output": {"add": 0.5},
    }
    changes = [
        *(Change(f"layers.{layer}.attention_output", (), "scale", 0.5) for layer in range(LAYERS)),
        *(Change(f"layers.{layer}.attention_output", (), "add", ramp) for layer in range(LAYERS)),
        *(Change(f"layers.{layer}.context", (), "scale", heads) for layer in (2, 3)),
        Change("layers.1.attention_weights", (0,), "set", 0.25),
        Change("layers.4.resid_mid", (slice(-1, None),), "scale", 6.0),
        Change("layers.4.resid_mid", (slice(-2, -1),), "scale", 2.0),
        Change("layers.4.resid_mid", (slice(-1, None),), "add", 1.0),
        Change("layers.5.layer_output", (), "add", 0.5),
    ]
    text = [SENTENCE, *OTHERS]
    wanted = ["block_output", "layers.1.attention_weights", "layers.3.context", "layers.4.resid_mid"]
    found = ask(client, text, wanted, everywhere)
    assert_goes_on_as_in_bert(found, wanted, run_alone(text, [changes] * len(text)))


def test_a_sequence_takes_from_another_what_that_has_after_its_own_changes(client: httpx.Client) -> None:
    chain = [
        [Change("layers.1.resid_mid", (-1,), "scale", 2.0)],
        [Change("layers.1.resid_mid", (-1,), "set", 0), Change("layers.1.resid_mid", (0,), "add", 0.5)],
        [
            Change("layers.1.resid_mid", (-1,), "set", 1),
            Change("layers.1.resid_mid", (0, slice(None, None, 2)), "set", 1),
        ],
        # From one behind, of which some is its own.
        [Change("layers.3.query", (slice(2), slice(4, 7)), "set", 4), Change("layers.3.key", (0, 2), "scale", 2.0)],
        [Change("layers.3.query", (0,), "scale", 0.5), Change("layers.3.attention_weights", (5, 0, 0), "set", 0)],
        [],
    ]
    text = [OTHERS[1], SENTENCE, OTHERS[0], SENTENCE, OTHERS[1], OTHERS[0]]
    wanted = ["block_output", "layers.1.resid_mid", "layers.3.query", "layers.4.attention_weights"]
    found = ask(client, text, wanted, list(map(as_json, chain)))
    assert_goes_on_as_in_bert(found, wanted, run_alone(text, chain, [0, 1, 2, 4, 3, 5]))


def test_rollout_and_entropy_are_of_the_changed_weights(client: httpx.Client) -> None:
    changes = [
        Change("layers.1.attention_weights", (slice(None), slice(None), 0), "scale", 0.0),
        Change("layers.4.attention_scores", (slice(3, 6), 1), "scale", -3.0),
    ]
    wanted = ["attention_rollout", "layers.1.attention_weights|entropy", "layers.4.attention_weights|entropy"]
    found = ask(client, [SENTENCE], wanted, as_json(changes))
    _, double = run_alone([SENTENCE], [changes])[0]
    weights = [double[f"layers.{layer}.attention_weights"].numpy() for layer in range(LAYERS)]
    rollout = np.eye(len(weights[0][0]))
    for each in weights:
        mixed = (each.mean(0) + np.eye(len(rollout))) / 2
        rollout = mixed / mixed.sum(-1, keepdims=True) @ rollout
    assert np.abs(found["attention_rollout"][0] - rollout).max() <= 1e-5
    for layer in (1, 4):
        logs = np.log(np.where(weights[layer] > 0, weights[layer], 1))
        entropy = -(weights[layer] * logs).sum(-1)
        assert np.abs(found[f"layers.{layer}.attention_weights|entropy"][0] - entropy).max() <= 2e-5


def test_changes_behind_what_is_asked_for_change_nothing(client: httpx.Client) -> None:
    wanted = ["layers.2.ffn_post_activation", "layers.2.attention_weights"]
    behind = {"layers.3:.resid_mid": {"set": 7}, "layers.2.ffn_output": {"scale": 0}}
    found, plain = ask(client, OTHERS, wanted, behind), ask(client, OTHERS, wanted, {})
    assert all(found[name].tobytes() == plain[name].tobytes() for name in wanted)


def test_a_hidden_key_stays_hidden_whatever_its_score_and_counts_where_its_weight_is_set(client: httpx.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 8)).round(3).tolist()
    body: dict[str, Any] = {
        "hidden_states": [rows],
        "attention_mask": [[1, 0, 1, 1, 0]],
        "outputs": ["layers.0.attention_scores", "layers.0.attention_weights", "layers.0.value", "layers.0.context"],
        "interventions": {
            "layers.0.attention_scores[0, :, 1]": {"set": [-5, -1, 0, 1, 50]},
            "layers.0.attention_scores[1]": {"scale": 0.5},
            "layers.0.attention_weights[1, 3]": {"set": 0.5},
        },
    }
    answer = client.post("/v1/models/tiny/forward", json=body).json()
    scores, weights, value, context = (np.array(found[0], np.float64) for found in answer["outputs"].values())
    with np.errstate(over="ignore"):
        powers = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = powers / powers.sum(-1, keepdims=True) * [1, 0, 1, 1, 0]
    wanted[1, 3] = 0.5
    assert np.abs(weights - wanted).max() <= 1e-6
    assert (weights[:, :3, [1, 4]] == 0).all()
    assert np.abs(context - np.einsum("hqk,khv->qhv", wanted, value)).max() <= 1e-5
