"""Rotation and bias by distance against transformers' own functions, and what a config of them must be."""

import re
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from export.config import BlockConfig, StackConfig
from export.position import bias_by_distance, buckets, rotate
from export.relative_bias import RelativeBias
from export.rotary import Rotary

LONGEST = 4096
POSITIONS = torch.tensor([[0, 1, 2, 3, 900, 4095], [7, 7, 0, 2048, 5, 63]])
FIELDS = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}


def heads(size: int) -> Tensor:
    return torch.randn(2, 6, 3, size, generator=torch.Generator().manual_seed(0))


def close(got: Tensor, want: Tensor) -> bool:
    return bool(torch.allclose(got, want, rtol=0, atol=1e-6))


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("scaling", ["none", "linear", "llama3"])
def test_halves_of_a_head_turn_as_in_transformers_llama(scaling: str, theta: float) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama as llama

    size, more = 64, {"none": {}, "linear": {"factor": 4.0}, "llama3": LLAMA3}[scaling]
    kind: Any = {"rope_type": "default" if scaling == "none" else scaling, "rope_theta": theta, **more}
    config = LlamaConfig(hidden_size=64, num_attention_heads=1, max_position_embeddings=LONGEST, rope_parameters=kind)
    x = heads(size)
    cos, sin = llama.LlamaRotaryEmbedding(config)(x, POSITIONS)
    want, _ = llama.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)
    ours: Any = {"scaling": scaling, "theta": theta, **more}
    assert close(rotate(x, POSITIONS, Rotary(dims=size, max_position_embeddings=LONGEST, **ours)), want)


def test_a_part_of_a_head_turns_as_in_transformers_neox() -> None:
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox import modeling_gpt_neox as neox

    config = GPTNeoXConfig(hidden_size=120, num_attention_heads=3, max_position_embeddings=LONGEST)
    x = heads(40)
    cos, sin = neox.GPTNeoXRotaryEmbedding(config)(x, POSITIONS)
    want, _ = cast("Any", neox).apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)
    got = rotate(x, POSITIONS, Rotary(dims=10, max_position_embeddings=LONGEST))
    assert close(got, want)
    assert torch.equal(got[..., 10:], x[..., 10:])


def test_interleaved_neighbours_turn_as_in_transformers_gptj() -> None:
    from transformers.models.gptj import modeling_gptj as gptj

    x, size = heads(24), 16
    table = gptj.create_sinusoidal_positions(LONGEST, size)[POSITIONS]
    sin, cos = table[..., : size // 2], table[..., size // 2 :]
    want = torch.cat((gptj.apply_rotary_pos_emb(x[..., :size], sin, cos), x[..., size:]), dim=-1)
    assert close(rotate(x, POSITIONS, Rotary(dims=size, max_position_embeddings=LONGEST, pairs="interleaved")), want)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(32, 128), (4, 3), (7, 12), (9, 5), (12, 50), (64, 500), (128, 200)]
)
def test_every_distance_has_the_bucket_that_it_has_in_transformers_t5(
    num_buckets: int, max_distance: int, *, causal: bool
) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = RelativeBias(num_buckets=num_buckets, max_distance=max_distance)
    relative.hold(causal=causal)
    table = torch.randn(num_buckets, 3, generator=torch.Generator().manual_seed(0))
    position = torch.arange(2 * max_distance + 3)
    distances = position[None, :] - position[:, None]
    bucket: Any = T5Attention._relative_position_bucket
    theirs = bucket(distances, not causal, num_buckets, max_distance)
    found = bias_by_distance(table, len(position), relative, causal=causal)
    assert torch.equal(found, table[theirs].permute(2, 0, 1)[None])
    known = buckets(relative, causal=causal)
    assert len(known) == 2 * max_distance + 1
    assert {*known.tolist()} == {*theirs.unique().tolist()}


@pytest.mark.parametrize(
    ("bias", "mask", "sentence"),
    [
        (
            {"num_buckets": 3},
            "bidirectional",
            "relative_bias.num_buckets must be at least 4 with mask bidirectional, got 3",
        ),
        ({"num_buckets": 1}, "causal", "relative_bias.num_buckets must be at least 2 with mask causal, got 1"),
        (
            {"max_distance": 8},
            "bidirectional",
            "relative_bias.max_distance must be above 8, below which each distance has its own bucket, got 8",
        ),
        ({"max_distance": 0}, "causal", "relative_bias.max_distance must be an integer of at least 1, got 0"),
        ({"buckets": 3}, "causal", "unknown field 'buckets'; the nearest is 'num_buckets'"),
        (True, "causal", "relative_bias must be an object or null, got True"),
    ],
)  # fmt: skip
def test_buckets_that_distances_do_not_fill_are_refused(bias: Any, mask: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        BlockConfig.from_dict({**FIELDS, "mask": mask, "relative_bias": bias})


@pytest.mark.parametrize(
    ("rotary", "sentence"),
    [
        ({}, "rotary needs max_position_embeddings"),
        ({"max_position_embeddings": 9, "dims": 3}, "rotary.dims must be even, got 3"),
        ({"max_position_embeddings": 9, "dims": 6}, "rotary.dims must be at most head_dim 4, got 6"),
        ({"max_position_embeddings": 0}, "rotary.max_position_embeddings must be an integer of at least 1, got 0"),
        (
            {"max_position_embeddings": 9, "scaling": "yarn"},
            "rotary.scaling must be one of none, linear, llama3; got 'yarn'",
        ),
        ({"max_position_embeddings": 9, "thet": 3}, "unknown field 'thet'; the nearest is 'theta'"),
        (
            {"max_position_embeddings": 9, "low_freq_factor": 4.0},
            "rotary.low_freq_factor must be below high_freq_factor 4.0, got 4.0",
        ),
        (3, "rotary must be an object or null, got 3"),
    ],
)  # fmt: skip
def test_what_cannot_turn_is_refused(rotary: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        BlockConfig.from_dict({**FIELDS, "rotary": rotary})


def test_a_stack_has_as_many_positions_as_its_shortest_table() -> None:
    layers = [{**FIELDS, "rotary": {"max_position_embeddings": size}} for size in (9, 7)]
    assert StackConfig.from_dict({"layers": [*layers, FIELDS]}).max_position_embeddings == 7
    assert StackConfig.from_dict(FIELDS).max_position_embeddings is None
