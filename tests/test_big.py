"""What is large: a layer of a gigabyte, and a model beyond the 2 GB that a protobuf message may have; `make big`."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.artifacts import ROOT
from tests.server import running

pytestmark = [pytest.mark.big, pytest.mark.timeout(900)]

GIB = 2**30
LAYERS, HIDDEN, INNER, WORDS = 2, 4096, 24576, 100
CONFIG = {
    "model_type": "bert", "hidden_size": HIDDEN, "num_attention_heads": 32, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "vocab_size": WORDS,
}  # fmt: skip
# A product's outputs and inputs, by its name in a layer.
PRODUCTS = {
    **{f"attention.{name}": (HIDDEN, HIDDEN) for name in ("self.query", "self.key", "self.value", "output.dense")},
    "intermediate.dense": (INNER, HIDDEN),
    "output.dense": (HIDDEN, INNER),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A BERT of two layers of 1 GiB each, a shard a layer and one for the embeddings; removed after the tests."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory(prefix="big-") as made:
        folder, places = Path(made), {}
        for shard in range(LAYERS + 1):
            tensors = layer(shard) if shard < LAYERS else embeddings()
            save_file(tensors, folder / f"{shard}.safetensors")
            places.update(dict.fromkeys(tensors, f"{shard}.safetensors"))
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        write_tokenizer(folder)
        yield folder


def layer(number: int) -> dict[str, np.ndarray]:
    rng, prefix = np.random.default_rng(number), f"encoder.layer.{number}."
    tensors: dict[str, np.ndarray] = {}
    for name, (outputs, inputs) in PRODUCTS.items():
        weight = rng.standard_normal((outputs, inputs), np.float32)
        weight /= np.float32(np.sqrt(inputs))
        tensors |= {f"{prefix}{name}.weight": weight, f"{prefix}{name}.bias": noise(rng, outputs)}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        tensors |= {f"{prefix}{name}.weight": 1 + noise(rng, HIDDEN), f"{prefix}{name}.bias": noise(rng, HIDDEN)}
    return tensors


def embeddings() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(LAYERS)
    rows = {"word": WORDS, "position": 512, "token_type": 2}
    tensors = {
        f"embeddings.{name}_embeddings.weight": rng.standard_normal((count, HIDDEN), np.float32)
        for name, count in rows.items()
    }
    norm = {"weight": 1 + noise(rng, HIDDEN), "bias": noise(rng, HIDDEN)}
    return {**tensors, **{f"embeddings.LayerNorm.{name}": tensor for name, tensor in norm.items()}}


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.float32(0.1) * rng.standard_normal(size, np.float32)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({f"word{index}": index for index in range(WORDS)}, "word0")).save(
        str(folder / "tokenizer.json")
    )


def export(folder: Path, models: Path, *words: str) -> tuple[Path, int]:
    """Exports `folder` as models/big/1, which it gives, and the most memory that the export ever had, in bytes."""
    command = [sys.executable, "-m", "export", str(folder), "--name", "big", "--models", str(models), *words]
    with (models.parent / "stderr").open("w+") as stderr:
        process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_bytes(process))
            time.sleep(0.02)
        assert process.returncode == 0, (models.parent / "stderr").read_text()
    return models / "big" / "1", peak


def peak_bytes(process: psutil.Process) -> int:
    """VmHWM of a process and its children; 0 when it has ended."""
    try:
        each = [Path(f"/proc/{one.pid}/status").read_text() for one in (process, *process.children(recursive=True))]
    except (OSError, psutil.NoSuchProcess):
        return 0
    return sum(int(line.split()[1]) * 1024 for text in each for line in text.splitlines() if line.startswith("VmHWM"))


def test_a_layer_of_a_gigabyte_is_exported_within_four_times_its_size_from_its_shard_alone(
    folder: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in ("1.safetensors", "config.json", "model.safetensors.index.json"):
        (alone / file).symlink_to(folder / file)
    with tempfile.TemporaryDirectory(prefix="big-") as made:
        version, peak = export(alone, Path(made, "models"), "--layers", "1:2")
        size = (version / "weights.data").stat().st_size
    assert size >= GIB
    assert peak <= 4 * size + GIB


def test_a_model_beyond_two_gigabytes_is_exported_within_four_times_its_size_and_served(
    folder: Path, tmp_path: Path
) -> None:
    ids = np.random.default_rng(0).integers(0, WORDS, (1, 24)).tolist()
    with tempfile.TemporaryDirectory(prefix="big-") as made:
        version, peak = export(folder, Path(made, "models"))
        size = (version / "weights.data").stat().st_size
        assert size > 2**31
        assert peak <= 4 * size + GIB
        with running(version.parent.parent, tmp_path) as server, server.client() as client:
            body = {"input_ids": ids, "outputs": ["block_output", "layers.1.layer_output"]}
            answer = client.post("/v1/models/big/forward", json=body)
    assert answer.status_code == 200, answer.text
    for output in answer.json()["outputs"].values():
        np.testing.assert_allclose(output, transformers_answer(folder, ids), atol=1e-4)


def transformers_answer(folder: Path, ids: list[list[int]]) -> np.ndarray:
    import torch
    import transformers

    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")
    with torch.inference_mode():
        hidden: np.ndarray = model(torch.tensor(ids)).last_hidden_state.numpy()
    return hidden
