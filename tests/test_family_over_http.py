"""A folder of transformers' becomes a model by the command alone, and is served as transformers computes it."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from export.proof import tolerance
from tests.artifacts import export
from tests.export import pretrained
from tests.server import running

NAME = "gpt2-2"
IDS = [[7, 1, 39, 0, 12], [3], [2, 2, 38, 17, 5, 0, 9]]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_folder_is_exported_and_served_as_transformers_computes_it(tmp_path: Path) -> None:
    import torch

    folder = pretrained.save(NAME, tmp_path / "gpt2")
    pretrained.write_tokenizer(folder)
    done = export(str(folder), "--name", "gpt2", "--models", str(tmp_path / "models"))
    assert done.returncode == 0, done.stderr
    body = {"input_ids": IDS, "outputs": ["block_output", "layers.*.attention_weights"]}
    with running(tmp_path / "models", tmp_path) as server:
        answer = httpx.post(f"{server.url}/v1/models/gpt2/forward", json=body).json()["outputs"]
        described = httpx.get(f"{server.url}/v1/models/gpt2").json()
    assert described["source"]["kind"] == "gpt2"
    model = pretrained.make(NAME).transformer
    with torch.inference_mode():
        for row, ids in enumerate(IDS):
            want = model(torch.tensor([ids]), output_attentions=True)
            wanted = {"block_output": want.last_hidden_state[0]} | {
                f"layers.{index}.attention_weights": weights[0] for index, weights in enumerate(want.attentions)
            }
            for address, tensor in wanted.items():
                error = np.abs(np.asarray(answer[address][row]) - tensor.numpy())
                assert np.all(error <= tolerance(0, tensor.numpy())), address
