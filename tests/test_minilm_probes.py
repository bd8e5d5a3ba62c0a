"""Every probe of MiniLM's layers that BERT's modules pass through a forward hook, over HTTP, with their axes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.client import Client
from tests.server import Server
from tests.test_minilm_over_http import SENTENCES, reference

LAYERS, HEADS, HEAD_DIM = 6, 12, 32
# Each probe: the module of a BertLayer that has it, whether it goes in or comes out, whether we split it into heads.
HOOKED = {
    "layer_input": ("", "in", False),
    "attention_input": ("attention", "in", False),
    "query": ("attention.self.query", "out", True),
    "key": ("attention.self.key", "out", True),
    "value": ("attention.self.value", "out", True),
    "context": ("attention.output.dense", "in", True),
    "attention_output": ("attention.output.dense", "out", False),
    "resid_mid": ("attention.output.LayerNorm", "in", False),
    "ffn_input": ("intermediate", "in", False),
    "ffn_pre_activation": ("intermediate.dense", "out", False),
    "ffn_post_activation": ("intermediate", "out", False),
    "ffn_output": ("output.dense", "out", False),
    "resid_post": ("output.LayerNorm", "in", False),
    "layer_output": ("", "out", False),
}


def heads(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[sequence, hidden] to [sequence, head, head_dim]."""
    return values.reshape(len(values), HEADS, HEAD_DIM)


def hooked(model: Any, inputs: Any) -> dict[str, NDArray[np.float32]]:
    """What passes through the modules for one sentence, by address."""
    import torch

    found: dict[str, NDArray[np.float32]] = {}

    def keep(name: str, *, split: bool, place: int = 0) -> Any:
        def hook(_module: Any, *tensors: Any) -> None:
            tensor = tensors[-1][place] if isinstance(tensors[-1], tuple) else tensors[-1]
            found[name] = heads(tensor.numpy().reshape(-1, 384)) if split else tensor[-1].numpy()

        return hook

    handles = []
    for number, layer in enumerate(model.encoder.layer):
        for probe, (name, side, split) in HOOKED.items():
            module = layer.get_submodule(name)
            register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
            handles.append(register(keep(f"layers.{number}.{probe}", split=split)))
        weights = keep(f"layers.{number}.attention_weights", split=False, place=1)
        handles.append(layer.attention.self.register_forward_hook(weights))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture(scope="module")
def oracles() -> list[dict[str, NDArray[np.float32]]]:
    """What `transformers` eager has at each hook, of each of two sentences alone; scores from its queries and keys."""
    model, tokenizer = reference()
    found = [hooked(model, tokenizer(sentence, return_tensors="pt")) for sentence in SENTENCES[:2]]
    for tensors in found:
        for layer in (f"layers.{number}" for number in range(LAYERS)):
            query, key = tensors[f"{layer}.query"], tensors[f"{layer}.key"]
            tensors[f"{layer}.attention_scores"] = np.einsum("qhd,khd->hqk", query, key) / np.float32(np.sqrt(HEAD_DIM))
    return found


@pytest.fixture(scope="module")
def served(server: Server) -> Iterator[Client]:
    with Client(server.url, "minilm") as client:
        yield client


def test_every_probe_of_every_layer_is_what_passes_through_berts_modules(
    served: Client, oracles: list[dict[str, NDArray[np.float32]]]
) -> None:
    probes = [*HOOKED, "attention_weights", "attention_scores"]
    found = served.run(SENTENCES[:2], outputs=[f"layers.*.{probe}" for probe in probes])
    assert len(found) == LAYERS * len(probes) == len(oracles[0])
    for row, wanted in enumerate(oracles):
        for address, values in wanted.items():
            got = found[address][row]
            assert got.shape == values.shape, address
            assert np.abs(got.astype(np.float64) - values).max() <= 2e-5 * max(1, np.abs(values).max()), address


def test_these_are_all_probes_that_the_model_lists_and_their_axes_are_as_listed(
    server: Server, oracles: list[dict[str, NDArray[np.float32]]]
) -> None:
    with server.client() as client:
        outputs = client.get("/v1/models/minilm").json()["outputs"]
    listed = {output["address"]: output["axes"] for output in outputs if "." in output["address"]}
    length = len(oracles[0]["layers.0.layer_input"])
    sizes = dict.fromkeys(("sequence", "query", "key"), length) | {"hidden": 384, "intermediate": 1536}
    sizes |= {"head": HEADS, "head_dim": HEAD_DIM, "value_head_dim": HEAD_DIM}
    shapes = {address: tuple(sizes[axis] for axis in axes) for address, axes in listed.items()}
    assert shapes == {address: values.shape for address, values in oracles[0].items()}
