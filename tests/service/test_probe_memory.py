"""What looking inside costs in memory: a second copy of the weights, and one layer's maps at a time."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.server import Server, link_models, running
from tests.service.inference import framed_states

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
LENGTH = 2048
MAP_MIB = 12 * LENGTH * LENGTH * 4 / 2**20  # of one of MiniLM's layers: 12 heads, float32


def memory_mib(server: Server, field: str) -> float:
    """A line of the server's /proc/PID/status."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def peak_mib(minilm: Path, folder: Path, model: str, address: str) -> float:
    """How far a fresh server's memory rises over what it has once it is ready, in two requests of LENGTH positions."""
    folder.mkdir()
    rows = np.random.default_rng(0).standard_normal((1, LENGTH, 384)).astype(np.float32)
    body, headers = framed_states(rows, address)
    with running(link_models(folder / "models", {"minilm": minilm}), folder, layer_graphs="eager") as server:
        ready = memory_mib(server, "VmRSS")
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        for _ in range(2):
            answer = httpx.post(f"{server.url}/v2/models/{model}/infer", content=body, headers=headers, timeout=150)
            assert answer.status_code == httpx.codes.OK
        return memory_mib(server, "VmHWM") - ready


def test_entropies_of_every_layer_take_one_layers_map_beside_the_lean_run(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    asked = {"minilm": "block_output", "minilm.probes": "layers.*.attention_weights|entropy"}
    lean, inside = (peak_mib(artifact("minilm"), tmp_path / model, model, address) for model, address in asked.items())
    assert 2 * MAP_MIB < lean < 3 * MAP_MIB  # scores and weights of one layer at a time
    assert inside <= 1.5 * lean + MAP_MIB


def ready_mib(minilm: Path, folder: Path, layer_graphs: str) -> float:
    """The memory of a fresh server that has answered one request for the inside and one that changes it, or refused."""
    folder.mkdir()
    models = link_models(folder / "models", {"minilm": minilm})
    with running(models, folder, layer_graphs=layer_graphs) as server, server.client() as client:
        for asked in ({"outputs": ["attention_weights"]}, {"interventions": {"context": {"scale": 1}}}):
            client.post("/v1/models/minilm/forward", json={"text": "Yes.", **asked})
        return memory_mib(server, "VmRSS")


def test_the_layers_graphs_cost_less_than_the_banner_says_and_the_same_however_they_are_loaded(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    minilm = artifact("minilm")
    off, lazy, eager = (ready_mib(minilm, tmp_path / when, when) for when in ("off", "lazy", "eager"))
    said = re.search(r"loaded, \+(\d+) MiB twice", (tmp_path / "eager" / "stderr").read_text())
    assert said
    assert 40 < eager - off < 2 * int(said[1])
    assert abs(eager - lazy) < 20
