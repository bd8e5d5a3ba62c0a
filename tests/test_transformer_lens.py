"""TransformerLens's names of our probes, against its own HookedTransformer with the same weights."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from service.address import HOOKS
from tests.artifacts import export
from tests.server import running
from tests.test_clients import CLIENTS, environment, run

LAYERS = 2


@pytest.mark.oracles
@pytest.mark.timeout(900)  # the first time, its packages and a PyTorch are installed
def test_each_hook_holds_what_transformer_lens_has_there_with_the_same_axes(tmp_path: Path) -> None:
    python = environment(CLIENTS / "transformer_lens.txt")
    run(python, CLIENTS / "transformer_lens_cache.py", str(tmp_path))
    weights, config = str(tmp_path / "weights.safetensors"), str(tmp_path / "block.json")
    done = export(
        weights, "--source", "glassblock", "--config", config, "--name", "lens", "--models", str(tmp_path / "models")
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "hooks.npz") as file:
        wanted = dict(file)
    names = [f"blocks.{layer}.{hook}" for layer in range(LAYERS) for hook in HOOKS]
    body = {"hidden_states": [wanted["blocks.0.hook_resid_pre"].tolist()], "outputs": names}
    with running(tmp_path / "models", tmp_path) as server:
        answer = httpx.post(f"{server.url}/v1/models/lens/forward", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    found = {name: np.asarray(rows[0]) for name, rows in answer.json()["outputs"].items()}
    assert list(found) == names
    for name in names:
        assert found[name].shape == wanted[name].shape, name
        assert np.abs(found[name] - wanted[name]).max() <= 1e-5, name
