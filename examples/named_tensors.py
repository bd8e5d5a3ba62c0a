"""Tensors in and out without any text: `python examples/named_tensors.py [URL]`. Needs httpx, numpy and safetensors."""

import json
import sys

import httpx
import numpy as np
from safetensors.numpy import load, save

SAFETENSORS = "application/x-safetensors"


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Sends two sequences of different lengths in one rectangle, and prints what each attends to most."""
    hidden_states = np.random.default_rng(0).normal(size=(2, 5, 384)).astype(np.float32)
    sequence_lengths = np.array([5, 3])  # what lies behind them is not looked at
    body = save(
        {"hidden_states": hidden_states, "sequence_lengths": sequence_lengths},
        metadata={"outputs": json.dumps(["block_output", "layers.0.attention_weights"])},
    )
    response = httpx.post(f"{url}/v1/models/minilm/forward", content=body, headers={"Content-Type": SAFETENSORS})
    if response.status_code != httpx.codes.OK:
        raise SystemExit(response.json()["error"])
    tensors = load(response.content)
    for name, tensor in tensors.items():
        print(name, tensor.dtype, tensor.shape)
    for weights, length in zip(tensors["layers.0.attention_weights"], tensors["sequence_lengths"], strict=True):
        print(weights[0, :length, :length].argmax(axis=-1))


if __name__ == "__main__":
    main(*sys.argv[1:])
