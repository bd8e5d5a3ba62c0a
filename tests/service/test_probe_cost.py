"""What looking inside and changing something there cost, by the server's own account: `make bench-probes`."""

import json
import re
import sys
from statistics import median

import httpx
import numpy as np
import pytest

from tests.service.inference import ask_binary, framed_states

LENGTH, TURNS, MAX_RATIO, MAX_ABLATED_RATIO = 512, 60, 1.3, 1.5


def run_ms(client: httpx.Client, model: str, address: str) -> float:
    """The stage `run` of one request of LENGTH positions to MiniLM."""
    rows = np.random.default_rng(0).standard_normal((1, LENGTH, 384)).astype(np.float32)
    body, headers = framed_states(rows, address)
    return stage_run_ms(ask_binary(client, body, headers, model))


def stage_run_ms(answer: httpx.Response) -> float:
    assert answer.status_code == httpx.codes.OK
    (found,) = re.findall(r"run;dur=([\d.]+)", answer.headers["Server-Timing"])
    return float(found)


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_attention_weights_of_the_last_layer_take_at_most_three_tenths_longer_to_run(client: httpx.Client) -> None:
    lean, inside = [], []
    for _ in range(TURNS):  # in turn, as the machine's speed drifts
        lean.append(run_ms(client, "minilm", "block_output"))
        inside.append(run_ms(client, "minilm.probes", "layers.5.attention_weights"))
    ratio = median(inside[2:]) / median(lean[2:])
    sys.stdout.write(f"lean {median(lean[2:]):.1f} ms, with the maps {median(inside[2:]):.1f} ms: {ratio:.3f}\n")
    assert ratio <= MAX_RATIO


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("length", [16, 128, 512])
def test_a_head_taken_away_costs_its_layer_twice_and_no_other_layer(client: httpx.Client, length: int) -> None:
    rows = np.random.default_rng(0).standard_normal((length, 384)).round(3).tolist()
    body = {"hidden_states": [rows], "outputs": ["layers.5.attention_weights[0, 0]"]}
    ablated = {**body, "interventions": {"layers.2.context[:, 7]": {"scale": 0}}}
    texts = json.dumps(body), json.dumps(ablated)
    times = np.array([
        [stage_run_ms(client.post("/v1/models/minilm/forward", content=text)) for text in texts]
        for _ in range(TURNS)  # in turn, as the machine's speed drifts
    ])  # fmt: skip
    plain, changed = np.median(times[2:], axis=0)
    sys.stdout.write(f"{length} positions: {plain:.2f} ms, a head ablated {changed:.2f} ms: {changed / plain:.3f}\n")
    assert changed / plain <= MAX_ABLATED_RATIO
