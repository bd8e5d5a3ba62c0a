"""Interventions in a served nn.TransformerEncoderLayer, against PyTorch's own with the same changes made by hooks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.client import Client
from tests.artifacts import make_encoder
from tests.changes import as_json, every_verb
from tests.hooked import POST_NORM_ENCODER, PRE_NORM_ENCODER, Place, assert_equal_by_the_rule, run_encoder
from tests.server import Server, link_models, running

LENGTH, HIDDEN_SIZE = 6, 32


def assert_goes_on_as_in_pytorch(url: str, name: str, places: Mapping[str, Place], seed: int) -> None:
    """Each verb at each site that its modules show, beside sequences of other lengths in which nothing is changed."""
    layer, generator = make_encoder(name), np.random.default_rng(seed)
    rows, *others = (generator.standard_normal((length, HIDDEN_SIZE)).astype(np.float32) for length in (LENGTH, 2, 9))
    wanted = ["block_output", *(f"layers.0.{place}" for place in places)]
    plain = run_encoder(layer, places, torch.from_numpy(rows)[None], [[]])
    changes = [[change] for change in every_verb({name: tuple(plain[name].shape[1:]) for name in wanted[1:]}, seed)]
    assert len(changes) == 3 * len(places)
    with Client(url, name) as client:
        interventions = [*map(as_json, changes), *[None] * len(others)]
        found = client.run([rows] * len(changes) + others, outputs=wanted, interventions=interventions)
    batch = torch.from_numpy(np.stack([rows] * len(changes)))
    single = run_encoder(layer, places, batch, changes)
    double = run_encoder(layer.double(), places, batch.double(), changes)
    moved = (single["block_output"] - plain["block_output"]).abs().amax((1, 2))
    assert (moved > 1e-4).float().mean() > 0.9, "changes that cannot be seen: nothing is shown"
    for row, change in enumerate(changes):
        for address in wanted:
            what = f"{address} of {change}"
            assert_equal_by_the_rule(found[address][row], single[address][row], double[address][row], what=what)


def test_every_verb_at_every_site_of_a_post_norm_encoder_goes_on_as_in_pytorch(server: Server) -> None:
    assert_goes_on_as_in_pytorch(server.url, "encoder-post-relu", POST_NORM_ENCODER, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 9))
def test_more_cells_of_a_post_norm_encoder_go_on_as_in_pytorch(server: Server, seed: int) -> None:
    assert_goes_on_as_in_pytorch(server.url, "encoder-post-relu", POST_NORM_ENCODER, seed)


@pytest.mark.long
def test_every_verb_at_every_site_of_a_pre_norm_encoder_goes_on_as_in_pytorch(
    tmp_path: Path, artifact: Callable[[str], Path]
) -> None:
    name = "encoder-pre-gelu"
    with running(link_models(tmp_path / "models", {name: artifact(name)}), tmp_path) as own:
        for seed in range(8):
            assert_goes_on_as_in_pytorch(own.url, name, PRE_NORM_ENCODER, seed)
