"""The block, eager: against the textbook, PyTorch, transformers and a float64 implementation of its own."""

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from export.block import Stack, TransformerBlock
from export.config import BlockConfig, Parallel, Placement, StackConfig
from export.probes import block_probes, layer_outputs
from export.proof import tolerance
from export.relative_bias import RelativeBias
from export.rotary import Rotary
from export.sources import checkpoint, minilm, random, torch_encoder
from export.sources.families import read_model
from tests import artifacts, textbook
from tests.export import oracle

LONGEST = 64


def textbook_probes(name: str, x: Any) -> dict[str, NDArray[Any]]:
    fields, weights = textbook.textbook_block(name)
    stack = Stack(StackConfig.from_dict(fields))
    stack.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return run(stack.layers[0], torch.tensor([x], dtype=torch.float32))


def run(block: nn.Module, x: Tensor, mask: Tensor | None = None, *positions: Tensor) -> dict[str, NDArray[Any]]:
    """All probes of the first sequence."""
    mask = torch.ones(x.shape[:2], dtype=torch.int64) if mask is None else mask
    with torch.inference_mode():
        return {name: tensor[0].numpy() for name, tensor in block(x, mask, *positions).items()}


def assert_book(got: Any, want: Any) -> None:
    want = np.asarray(want, np.float64)
    assert np.asarray(got).shape == want.shape
    assert np.all(np.abs(got - want) <= 1e-6 + 1e-6 * np.abs(want))


def test_projections_are_the_textbooks() -> None:
    example = textbook.EXAMPLES["projections"]
    probes = textbook_probes("textbook-projections", [example["x"]])
    assert_book(probes["query"][0, 0], example["q"])
    assert_book(probes["key"][0, 0], example["k"])
    assert_book(probes["value"][0, 0], example["v"])


def test_attention_is_the_textbooks() -> None:
    example = textbook.EXAMPLES["attention"]
    probes = textbook_probes("textbook-attention", np.eye(3).tolist())
    assert_book(probes["attention_scores"][0, 0], example["scores"])
    assert_book(probes["attention_weights"][0, 0], example["weights"])
    assert_book(probes["context"][0, 0], example["context"])


@pytest.mark.parametrize("activation", textbook.ACTIVATIONS)
def test_feed_forward_is_the_textbooks(activation: str) -> None:
    example = textbook.EXAMPLES["feed_forward"]
    probes = textbook_probes(f"textbook-feed-forward-{activation.replace('_', '-')}", [example["x"]])
    assert_book(probes["ffn_pre_activation"][0], example["pre"])
    assert_book(probes["ffn_post_activation"][0], example[activation]["post"])
    assert_book(probes["ffn_output"][0], example[activation]["out"])


def test_two_heads_are_the_textbooks() -> None:
    example = textbook.EXAMPLES["multi_head"]
    probes = textbook_probes("textbook-multi-head", example["X"])
    assert_book(probes["attention_scores"], example["scores"])
    assert_book(probes["attention_weights"], example["weights"])
    assert_book(probes["context"].transpose(1, 0, 2), example["heads"])
    assert_book(probes["attention_output"], example["out"])


@pytest.mark.parametrize("padding", ["none", "right", "holes"])
@pytest.mark.parametrize("name", artifacts.ENCODERS)
def test_the_block_equals_pytorchs_encoder_layer(
    name: str, padding: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reference = artifacts.make_encoder(name)
    variant = artifacts.ENCODERS[name]
    weights = artifacts.save_state(tmp_path_factory.mktemp("encoder"), reference)
    told = {"num_attention_heads": 4, "placement": variant.placement, "hidden_act": variant.act}
    ours = torch_encoder.load(weights, told).model
    x = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 17, dtype=torch.int64)
    if padding == "right":
        mask[1, 12:], mask[2, 5:] = 0, 0
    if padding == "holes":
        mask[:, 1::3] = 0
    # PyTorch's fused path computes padded rows differently; key_padding_mask is True where a key is to be ignored.
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with torch.inference_mode():
            plain = reference(x, src_key_padding_mask=mask == 0).numpy()
            truth = reference.double()(x.double(), src_key_padding_mask=mask == 0).numpy()
            got = ours(x, mask).numpy()
    finally:
        torch.backends.mha.set_fastpath_enabled(value=True)
    keep = mask.numpy() == 1
    own = float(np.abs(plain - truth)[keep].max())
    assert np.all((np.abs(got - truth) <= tolerance(own, truth))[keep])


def test_a_final_norm_comes_with_the_encoder_and_with_its_last_layers_alone(tmp_path: Any) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    encoder: nn.Module = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(16), enable_nested_tensor=False)
    encoder.train(mode=False)
    weights = artifacts.save_state(tmp_path, encoder)
    told = {"num_attention_heads": 2, "placement": "pre"}
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.int64)
    whole, tail, head = (torch_encoder.load(weights, told, layers) for layers in (None, "2:3", "0:2"))
    with torch.inference_mode():
        assert torch.allclose(whole.model(x, mask), encoder(x), atol=1e-5)
        assert torch.allclose(tail.model(head.model(x, mask), mask), encoder(x), atol=1e-5)
    assert [source.config.final_norm for source in (whole, tail, head) if source.config] == ["layer", "layer", "none"]
    assert tail.layer_range == (2, 3)


@pytest.mark.long
def test_minilm_equals_transformers_and_any_range_is_its_middle() -> None:
    import transformers

    folder = minilm.folder(artifacts.MINILM)
    theirs = transformers.BertModel.from_pretrained(
        folder, attn_implementation="eager", add_pooling_layer=False, local_files_only=True
    )
    source, middle = (checkpoint.load(folder, read_model(folder), layers) for layers in (None, "2:5"))
    ids = torch.randint(0, 30522, (2, 19), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 19, dtype=torch.int64)
    mask[1, 11:] = 0
    assert source.text
    with torch.inference_mode():
        want = theirs(ids, mask, output_attentions=True, output_hidden_states=True)
        hidden = source.text.embeddings(ids)
        assert torch.allclose(hidden, want.hidden_states[0], atol=1e-6)
        got = [hidden]
        for index, layer in enumerate(source.layers):
            probes = layer.module(got[-1], mask)
            got.append(probes["layer_output"])
            keep = mask[1].bool()
            assert torch.allclose(probes["attention_weights"][0], want.attentions[index][0], atol=1e-5)
            ours, their = probes["attention_weights"][1][:, keep], want.attentions[index][1][:, keep]
            assert torch.allclose(ours, their, atol=1e-5)
        assert torch.allclose(got[-1][mask == 1], want.last_hidden_state[mask == 1], atol=1e-5)
        assert torch.equal(middle.model(got[2], mask), got[5])
    assert middle.text is None
    assert middle.layer_range == (2, 5)


def test_head_dim_above_128_is_summed_in_chunks_to_the_same_scores() -> None:
    config = StackConfig.from_dict(
        {"hidden_size": 32, "num_attention_heads": 1, "head_dim": 300, "intermediate_size": 8}
    )
    probes = run(random.load(config).layers[0].module.double(), torch.randn(1, 9, 32, dtype=torch.float64))
    query, key = probes["query"][:, 0], probes["key"][:, 0]
    assert np.allclose(probes["attention_scores"][0], query @ key.T / np.sqrt(300), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("mask", ["bidirectional", "causal"])
def test_a_row_with_nothing_to_attend_to_is_all_zero(mask: str) -> None:
    config = StackConfig.from_dict({"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "mask": mask})
    probes = run(random.load(config).layers[0].module, torch.randn(1, 4, 8), torch.zeros(1, 4, dtype=torch.int64))
    assert not probes["attention_weights"].any()
    assert not probes["context"].any()
    assert np.all(probes["attention_scores"] == np.finfo(np.float32).min)
    assert np.isfinite(probes["layer_output"]).all()


rotaries = st.builds(
    Rotary,
    dims=st.sampled_from((2, 4, 130)),
    max_position_embeddings=st.just(LONGEST),
    theta=st.sampled_from((10.0, 1e4, 5e5)),
    pairs=st.sampled_from(("half", "interleaved")),
    scaling=st.sampled_from(("none", "linear", "llama3")),
    factor=st.sampled_from((1.0, 2.0, 8.0)),
    original_max_position_embeddings=st.sampled_from((4, 16, 8192)),
)


# Sequences are of at most 7 positions: few buckets, so that far distances are among theirs.
biases = st.builds(
    lambda sizes: RelativeBias(num_buckets=sizes[0], max_distance=sizes[1]),
    st.sampled_from(((4, 3), (5, 3), (9, 5), (12, 7), (32, 128))),
)


def some_block(
    shared: int,
    group: int,
    rotary: Rotary | None,
    head_dim: int,
    placement: Placement,
    parallel: Parallel,
    *,
    layer_scale: bool,
    **fields: Any,
) -> BlockConfig:
    fits = rotary if rotary and rotary.dims <= head_dim else None
    heads: dict[str, Any] = {"num_attention_heads": shared * group, "num_key_value_heads": shared, "head_dim": head_dim}
    residual: dict[str, Any] = {"placement": placement, "parallel": parallel if placement == "pre" else "none"}
    residual["layer_scale"] = layer_scale and placement != "sandwich"
    return BlockConfig(rotary=fits, **heads, **residual, **fields)


configs = st.builds(
    some_block,
    shared=st.integers(1, 3),
    group=st.integers(1, 3),
    hidden_size=st.integers(1, 12),
    head_dim=st.sampled_from((1, 2, 5, 130)),
    value_head_dim=st.integers(1, 5),
    intermediate_size=st.integers(1, 9),
    norm=st.sampled_from(("none", "layer", "rms", "rms_one_plus")),
    norm_eps=st.sampled_from((1e-12, 1e-5, 0.1)),
    norm_bias=st.booleans(),
    placement=st.sampled_from(("pre", "post", "sandwich")),
    parallel=st.sampled_from(("none", "one_norm", "two_norms")),
    attention_norm=st.booleans(),
    layer_scale=st.booleans(),
    query_bias=st.booleans(),
    key_bias=st.booleans(),
    value_bias=st.booleans(),
    output_bias=st.booleans(),
    qk_norm=st.sampled_from(("none", "rms")),
    rotary=st.none() | rotaries,
    relative_bias=st.none() | biases,
    ffn=st.sampled_from(("mlp", "glu")),
    ffn_bias=st.booleans(),
    hidden_act=st.sampled_from(("relu", "gelu", "gelu_tanh", "quick_gelu", "silu")),
    scale=st.none() | st.sampled_from((0.1, 1.0)),
    softcap=st.none() | st.sampled_from((0.5, 30.0)),
    mask=st.sampled_from(("bidirectional", "causal")),
    window=st.none() | st.integers(1, 8),
)


@given(config=configs, seed=st.integers(0, 1000), mask=st.lists(st.integers(0, 1), min_size=1, max_size=7))
def test_every_probe_of_every_config_equals_the_float64_oracle(config: BlockConfig, seed: int, mask: list[int]) -> None:
    block = random.load(StackConfig(layers=(config,)), seed).layers[0].module.double()
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((len(mask), config.hidden_size))
    positions = generator.integers(0, LONGEST, len(mask)) if seed % 2 else np.arange(len(mask))
    given_positions = [torch.from_numpy(positions)[None]] if seed % 2 else []
    got = run(block, torch.from_numpy(x)[None], torch.tensor([mask]), *given_positions)
    state = {name: tensor.numpy() for name, tensor in block.state_dict().items()}
    want = oracle.block(config, state, x, np.array(mask), positions)
    # A frequency is a float32, whose last bit depends on who computes the power.
    close = 1e-5 if config.rotary else 1e-9
    lowest = float(np.finfo(np.float32).min)
    assert list(got) == list(want) == [probe.name for probe in block_probes(config)]
    for probe in block_probes(config):
        size = {"sequence": len(mask), "query": len(mask), "key": len(mask)}
        shape = tuple(size.get(axis, extent) for axis, extent in zip(probe.axes[1:], probe.shape[1:], strict=True))
        assert got[probe.name].shape == shape, probe.name
        assert np.allclose(np.maximum(got[probe.name], lowest), want[probe.name], rtol=close, atol=close), probe.name


def test_only_a_final_norm_makes_block_output_a_tensor_of_the_last_layer() -> None:
    fields = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_layers": 2}
    for final_norm, layer in itertools.product(("none", "layer"), (0, 1)):
        names = [
            spec.name for spec in layer_outputs(StackConfig.from_dict({**fields, "final_norm": final_norm}), layer)
        ]
        assert ("block_output" in names) == (final_norm == "layer" and layer == 1)
        assert names.index("layer_output") == 15


@pytest.mark.long
def test_shapes_are_what_the_types_say() -> None:
    """In a process of its own: the import hook would otherwise stand inside every traced module."""
    script = """
from jaxtyping import install_import_hook
parts = ("attention", "block", "feed_forward", "linear", "norm", "position", "sources.text_front")
with install_import_hook([f"export.{part}" for part in parts], "beartype.beartype"):
    import torch
    from export.config import StackConfig
    from export.sources import random
    from export.sources.family import Text
    from export.sources.text_front import Embeddings
fields = {"hidden_size": 6, "num_attention_heads": 2, "head_dim": 130, "value_head_dim": 5, "intermediate_size": 7}
rotary = {"rotary": {"max_position_embeddings": 9, "dims": 4}}
grouped = {**rotary, "num_key_value_heads": 1, "norm": "rms", "qk_norm": "rms", "ffn": "glu", "final_norm": "rms"}
parallel = {"parallel": "one_norm", "relative_bias": {}}
for more in ({}, {"mask": "causal", "placement": "post"}, {"norm": "none", "final_norm": "layer"}, grouped, parallel):
    source = random.load(StackConfig.from_dict({**fields, "num_layers": 2, **more}))
    x, mask = torch.randn(3, 4, 6), torch.ones(3, 4, dtype=torch.int64)
    assert source.model(x, mask).shape == x.shape
    for layer in source.layers:
        layer.module(x, mask)
for more in ({}, {"padding": 1, "token_type": "t", "token_types": 2, "norm": "n", "projection": "p", "width": 5}):
    text = Text(word="w", vocab_size=11, position="p", positions=9, **more)
    Embeddings(text, 6, 1e-12)(torch.ones(2, 3, dtype=torch.int64))
try:
    source.layers[0].module(x, mask.float())
except Exception as error:
    print("refused", type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=artifacts.ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused TypeCheckError\n"), done.stderr


def test_a_block_gives_its_probes_in_the_order_of_the_contract() -> None:
    config = StackConfig.from_dict({"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}).layers[0]
    probes = run(TransformerBlock(config), torch.zeros(1, 2, 8))
    assert list(probes) == [probe.name for probe in block_probes(config)]
