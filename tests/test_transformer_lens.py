"""TransformerLens's names of our probes, read and changed, against its own HookedTransformer with the same weights."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.address import HOOKS
from tests.artifacts import export
from tests.changes import as_json, every_verb
from tests.server import Server, running
from tests.test_clients import CLIENTS, environment, run

pytestmark = [pytest.mark.oracles, pytest.mark.timeout(900)]  # the first time, its packages and a PyTorch are installed
LAYERS = 2
SIZES = {"sequence": 9, "hidden": 32, "head": 4, "head_dim": 8, "wide": 64}
STREAM, HEADS, WIDE = ("sequence", "hidden"), ("sequence", "head", "head_dim"), ("sequence", "wide")
AXES = dict.fromkeys(HOOKS, STREAM) | dict.fromkeys(("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z"), HEADS)
AXES |= {"attn.hook_pattern": ("head", "sequence", "sequence"), "mlp.hook_pre": WIDE, "mlp.hook_post": WIDE}
SHAPES = {
    f"blocks.{layer}.{hook}": tuple(SIZES[axis] for axis in AXES[hook]) for layer in range(LAYERS) for hook in HOOKS
}
CHANGES = [[change] for change in every_verb(SHAPES, 0)]


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, NDArray[np.float32]]]]:
    """A server of the model, and what TransformerLens has at its hooks, alone and after each of CHANGES."""
    folder = tmp_path_factory.mktemp("lens")
    (folder / "changes.json").write_text(json.dumps(list(map(as_json, CHANGES))), encoding="utf-8")
    run(environment(CLIENTS / "transformer_lens.txt"), CLIENTS / "transformer_lens_cache.py", str(folder))
    weights, config = str(folder / "weights.safetensors"), str(folder / "block.json")
    done = export(
        weights, "--source", "glassblock", "--config", config, "--name", "lens", "--models", str(folder / "models")
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "hooks.npz") as file, running(folder / "models", folder) as server:
        yield server, dict(file)


def ask(server: Server, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/models/lens/forward", json=body, timeout=60)
    assert answer.status_code == httpx.codes.OK, answer.text
    outputs: dict[str, Any] = answer.json()["outputs"]
    return outputs


def test_each_hook_holds_what_transformer_lens_has_there_with_the_same_axes(
    lens: tuple[Server, dict[str, NDArray[np.float32]]],
) -> None:
    server, wanted = lens
    found = ask(server, hidden_states=[wanted["blocks.0.hook_resid_pre"].tolist()], outputs=list(SHAPES))
    assert list(found) == list(SHAPES)
    for name, (rows,) in found.items():
        assert np.shape(rows) == wanted[name].shape == SHAPES[name], name
        assert np.abs(rows - wanted[name]).max() <= 1e-5, name


def test_what_is_changed_at_a_hook_goes_on_as_in_transformer_lens(
    lens: tuple[Server, dict[str, NDArray[np.float32]]],
) -> None:
    server, wanted = lens
    names = [f"blocks.{layer}.{hook}" for layer in range(LAYERS) for hook in ("hook_resid_post", "attn.hook_pattern")]
    rows = [wanted["blocks.0.hook_resid_pre"].tolist()] * len(CHANGES)
    found = ask(server, hidden_states=rows, outputs=names, interventions=list(map(as_json, CHANGES)))
    assert len(CHANGES) == LAYERS * len(HOOKS) * 3
    moved = 0
    for row, change in enumerate(CHANGES):
        for name in names:
            want = wanted[f"{row}/{name}"]
            assert np.abs(np.array(found[name][row]) - want).max() <= 2e-5 * max(1, np.abs(want).max()), (name, change)
        moved += np.abs(wanted[f"{row}/blocks.1.hook_resid_post"] - wanted["blocks.1.hook_resid_post"]).max() > 1e-3
    assert moved > 0.9 * len(CHANGES), "changes that cannot be seen: nothing is shown"
