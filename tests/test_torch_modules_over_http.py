"""Served blocks against the PyTorch modules they came from, by the rule of docs/decisions/0003."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from examples.client import Client
from tests.artifacts import make_encoder, make_my_block
from tests.hooked import assert_equal_by_the_rule
from tests.server import Server, link_models, running

LENGTHS = (1, 2, 7, 33, 64, 65)


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """PyTorch's layers as they are written, without the fused path of their own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def sequences(hidden_size: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(3)
    return [generator.standard_normal((length, hidden_size)).astype(np.float32) for length in LENGTHS]


def masks(*, padded: bool) -> list[NDArray[np.bool_]]:
    """All ones, or a third of the positions hidden: at the end, at the beginning, in the middle, in turn."""
    made = []
    for index, length in enumerate(LENGTHS):
        mask = np.ones(length, np.bool_)
        if padded and length > 2:
            third = length // 3
            start = (length - third, 0, third)[index % 3]
            mask[start : start + third] = False
        made.append(mask)
    return made


@pytest.fixture(scope="module")
def encoder(
    request: pytest.FixtureRequest, artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Client]]:
    """The name of an encoder layer, and a client of its server."""
    folder = tmp_path_factory.mktemp("encoder")
    models = link_models(folder / "models", {request.param: artifact(request.param)})
    with running(models, folder) as own, Client(own.url, request.param) as client:
        yield request.param, client


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "encoder", ["encoder-post-relu", pytest.param("encoder-pre-gelu", marks=pytest.mark.long)], indirect=True
)
def test_an_encoder_layer_answers_as_pytorch_does(encoder: tuple[str, Client], padded: bool) -> None:  # noqa: FBT001
    name, client = encoder
    layer = make_encoder(name)
    hidden, mask = sequences(32), masks(padded=padded)
    found = client.run(hidden, attention_mask=[row.astype(int).tolist() for row in mask])["block_output"]
    for rows, keep, got in zip(hidden, mask, found, strict=True):
        clean = torch.from_numpy(rows * keep[:, None])[None]
        ignore = torch.from_numpy(~keep)[None]
        with torch.no_grad():
            eager32 = layer.float()(clean, src_key_padding_mask=ignore)[0]
            eager64 = layer.double()(clean.double(), src_key_padding_mask=ignore)[0]
        assert_equal_by_the_rule(got, eager32, eager64, keep)


def test_a_hand_written_module_answers_as_it_does_in_pytorch(server: Server) -> None:
    module = make_my_block()
    hidden = sequences(module.get_parameter("norm.weight").numel())
    with Client(server.url, "my-block") as client:
        found, cache = client.run_with_cache(hidden, ["attention_weights", "gate"])
    for row, rows in enumerate(hidden):
        inputs, mask = torch.from_numpy(rows)[None], torch.ones(1, len(rows), dtype=torch.int64)
        with torch.no_grad():
            eager32, eager64 = module.float()(inputs, mask), module.double()(inputs.double(), mask)
        for name, got in (
            ("block_output", found),
            ("attention_weights", cache["attention_weights"]),
            ("gate", cache["gate"]),
        ):
            assert_equal_by_the_rule(got[row], eager32[name][0], eager64[name][0])
