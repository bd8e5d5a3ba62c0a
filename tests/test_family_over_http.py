"""A folder of transformers' becomes a model by the command alone, and is served as transformers computes it."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.proof import tolerance
from tests.artifacts import export
from tests.export import pretrained
from tests.export.pretrained import CASES
from tests.server import Server, running

IDS = [[7, 1, 39, 0, 12], [3], [2, 2, 38, 17, 5, 0, 9]]
POSITIONS = [[0, 0, 0, 1, 2], [41], [9, 8, 7, 6, 30, 31, 32]]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["gpt2-2", "llama-2", "gpt_neox-1", "t5-2"])
def test_a_folder_is_exported_and_served_as_transformers_computes_it(name: str, tmp_path: Path) -> None:
    folder = pretrained.save(name, tmp_path / "folder")
    pretrained.write_tokenizer(folder)
    done = export(str(folder), "--name", "served", "--models", str(tmp_path / "models"))
    assert done.returncode == 0, done.stderr
    with running(tmp_path / "models", tmp_path) as server:
        described = httpx.get(f"{server.url}/v1/models/served").json()
        hold(name, server, None)
        if "position_ids" in [tensor["name"] for tensor in described["inputs"]]:
            hold(name, server, POSITIONS)
    assert described["source"]["kind"] == CASES[name].family


def hold(name: str, server: Server, positions: list[list[int]] | None) -> None:
    """Holds block_output and every layer's weights against transformers."""
    import torch

    outputs = ["block_output", "layers.*.attention_weights"]
    body: dict[str, Any] = {"input_ids": IDS, "outputs": outputs} | ({"position_ids": positions} if positions else {})
    answer = httpx.post(f"{server.url}/v1/models/served/forward", json=body).json()["outputs"]
    model: Any = pretrained.make(name)
    base = getattr(model, CASES[name].base) if CASES[name].base else model
    with torch.inference_mode():
        for row, ids in enumerate(IDS):
            given: dict[str, Any] = {"attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
            if positions:
                given["position_ids"] = torch.tensor([positions[row]])
            want = base(torch.tensor([ids]), **given, output_attentions=True)
            wanted = {"block_output": want.last_hidden_state[0]} | {
                f"layers.{index}.attention_weights": weights[0] for index, weights in enumerate(want.attentions)
            }
            for address, tensor in wanted.items():
                error = np.abs(np.asarray(answer[address][row]) - tensor.numpy())
                assert np.all(error <= tolerance(0, tensor.numpy())), address
