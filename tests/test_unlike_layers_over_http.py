"""A stack whose layers differ, windows, caps and four norms among them: against the float64 oracle, and in batches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.block import Stack
from export.config import StackConfig
from export.probes import layer_outputs
from export.sources import random
from tests import artifacts
from tests.export import oracle
from tests.neighbourhood import Case, assert_equal_alone_and_together
from tests.server import Server, link_models, running

GENERATOR = np.random.default_rng(9)
LENGTHS = (17, 5, 1)
ROWS = [GENERATOR.standard_normal((length, 24)).round(4) for length in LENGTHS]
MASKS = [np.array([0, 0, 0, 1, 0, *[1] * 12]), np.array([1, 1, 1, 0, 0]), np.array([1])]
BODY = {"hidden_states": [rows.tolist() for rows in ROWS], "attention_mask": [mask.tolist() for mask in MASKS]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server of the stack."""
    folder = tmp_path_factory.mktemp("unlike")
    with running(link_models(folder / "models", {"unlike": artifact("unlike")}), folder) as started:
        yield started


def truth(row: Any, mask: Any) -> list[dict[str, Any]]:
    """Every layer's probes of one sequence, in float64."""
    config = StackConfig.from_dict(artifacts.UNLIKE)
    model = random.load(config).model
    assert isinstance(model, Stack)
    found, x = [], row * mask[:, None]
    for layer, block in zip(model.layers, config.layers, strict=True):
        state = {name: values.numpy() for name, values in layer.state_dict().items()}
        found.append(oracle.block(block, state, x, mask, np.arange(len(mask))))
        x = found[-1]["layer_output"]
    return found


@pytest.mark.long
def test_every_probe_of_every_layer_is_the_oracles(server: Server) -> None:
    config = StackConfig.from_dict(artifacts.UNLIKE)
    names = [
        f"layers.{index}.{spec.name}"
        for index in range(len(config.layers))
        for spec in layer_outputs(config, index)
        if spec.name != "block_output"
    ]
    answer = httpx.post(f"{server.url}/v1/models/unlike/forward", json={**BODY, "outputs": names})
    assert answer.status_code == httpx.codes.OK, answer.text
    for row, sequence in enumerate(zip(ROWS, MASKS, strict=True)):
        want, kept = truth(*sequence), np.flatnonzero(MASKS[row])
        for name in names:
            _, index, probe = name.split(".")
            got, wanted = np.array(answer.json()["outputs"][name][row]), want[int(index)][probe]
            cut = np.s_[:, kept] if probe in {"attention_scores", "attention_weights"} else kept
            assert np.allclose(got[cut], wanted[cut], rtol=1e-4, atol=1e-4), name


@pytest.mark.long
def test_answers_are_the_same_alone_and_among_neighbours(server: Server) -> None:
    cases = []
    for seed in range(24):
        generator = np.random.default_rng(seed)
        rows = [generator.standard_normal((length, 24)).round(4).tolist() for length in generator.integers(1, 90, 2)]
        outputs = ["block_output", "layers.0.attention_weights", "layers.*.resid_mid"][: 1 + seed % 3]
        cases.append(Case("unlike", {"hidden_states": rows, "outputs": outputs}))
    assert_equal_alone_and_together(server, cases)
