"""What a layer's attention weights cost beside the lean run, by the server's own account: `make bench-probes`."""

import re
import sys
from statistics import median

import httpx
import numpy as np
import pytest

from tests.service.inference import ask_binary, framed_states

LENGTH, TURNS, MAX_RATIO = 512, 60, 1.3


def run_ms(client: httpx.Client, model: str, address: str) -> float:
    """The stage `run` of one request of LENGTH positions to MiniLM."""
    rows = np.random.default_rng(0).standard_normal((1, LENGTH, 384)).astype(np.float32)
    body, headers = framed_states(rows, address)
    answer = ask_binary(client, body, headers, model)
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
