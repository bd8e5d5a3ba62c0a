"""Tensors that no graph would hold are refused, and a final norm keeps its own epsilon."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export import ExportError
from export.sources import torch_encoder
from tests import artifacts

TOLD = {"num_attention_heads": 2}
DECODER = "it is a decoder layer's, whose cross-attention this source does not compute"


def encoder(**more: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8, **more), enable_nested_tensor=False).eval()


def refused(path: Path, layers: str | None = None) -> str:
    with pytest.raises(ExportError) as error:
        torch_encoder.load(path, TOLD, layers)
    return str(error.value)


def test_a_decoder_is_refused_for_its_cross_attention(tmp_path: Path) -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16)
    path = artifacts.save_state(tmp_path, layer)
    assert refused(path) == f"{path}: multihead_attn.in_proj_bias would be left out; {DECODER}"
    artifacts.save_state(tmp_path, nn.TransformerDecoder(layer, 2))
    assert refused(path) == f"{path}: layers.0.multihead_attn.in_proj_bias would be left out; {DECODER}"
    assert refused(path, "1:2") == f"{path}: layers.1.multihead_attn.in_proj_bias would be left out; {DECODER}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("layers.1.self_attn.bias_k", "an encoder layer has no such tensor"),
        ("layers.1.norm3.weight", DECODER),
        ("position", "an encoder has no such tensor"),
    ],
)
def test_a_tensor_that_is_not_read_is_refused_where_it_would_be_left_out(name: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({**encoder().state_dict(), name: torch.zeros(8)}, path)
    assert refused(path) == f"{path}: {name} would be left out; {why}"
    if name.startswith("layers.1."):
        torch_encoder.load(path, TOLD, "0:1")  # another layer's tensors do not matter, nor does the final norm


def test_the_final_norms_epsilon_is_its_own(tmp_path: Path) -> None:
    path = artifacts.save_state(tmp_path, encoder())
    for told, want in (({"norm_eps": 0.1}, 1e-5), ({"norm_eps": 0.1, "final_norm_eps": 0.5}, 0.5)):
        config = torch_encoder.load(path, {**TOLD, **told}).config
        assert config
        assert (config.layers[0].norm_eps, config.final_norm_eps) == (0.1, want)


def test_a_final_norm_of_another_epsilon_equals_pytorchs(tmp_path: Path) -> None:
    reference = encoder(eps=0.5)
    source = torch_encoder.load(artifacts.save_state(tmp_path, reference), {**TOLD, "final_norm_eps": 0.5})
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.int64)
    with torch.inference_mode():
        assert torch.allclose(source.model(x, mask), reference(x), atol=1e-5)


@pytest.mark.parametrize("place", ["norm", "layers.1.norm1", "layers.1.norm2"])
def test_a_norm_without_a_bias_beside_products_with_biases_is_refused(place: str, tmp_path: Path) -> None:
    reference = encoder()
    parent, _, name = place.rpartition(".")
    setattr(reference.get_submodule(parent), name, nn.RMSNorm(8))
    path = artifacts.save_state(tmp_path, reference)
    assert refused(path) == (
        f"{path}: {place} must be an nn.LayerNorm with a bias, as linear1 has one; it has a weight alone, as an "
        "nn.RMSNorm has"
    )
    torch_encoder.load(path, TOLD, "0:1")


def test_norms_without_a_bias_beside_products_without_are_layer_norms(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, bias=False, batch_first=True)
    norm = nn.LayerNorm(8, bias=False)
    reference = nn.TransformerEncoder(layer, 2, norm=norm, enable_nested_tensor=False).eval()
    source = torch_encoder.load(artifacts.save_state(tmp_path, reference), TOLD)
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.int64)
    with torch.inference_mode():
        assert torch.allclose(source.model(x, mask), reference(x), atol=1e-5)


def test_heads_that_do_not_divide_are_refused_without_a_hint_that_no_option_takes(tmp_path: Path) -> None:
    path = artifacts.save_state(tmp_path, encoder())
    with pytest.raises(ExportError) as error:
        torch_encoder.load(path, {"num_attention_heads": 3})
    assert str(error.value) == f"{path}: hidden_size 8 does not divide into 3 heads"
