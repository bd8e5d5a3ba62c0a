"""Small seeded models by `transformers`, saved as it saves them, and what its eager attention computes on the way."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from export.proof import tolerance

Array = NDArray[Any]

LAYERS, LONGEST = 3, 64
# Of a layer's probes those that transformers' modules do not pass on.
NOT_PASSED = frozenset({"attention_scores", "resid_mid", "resid_post"})
SIZES = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20, "num_hidden_layers": LAYERS}
WORDS = {"vocab_size": 40, "max_position_embeddings": LONGEST + 6}
PATCHES = {"image_size": 8, "patch_size": 4}
DINO = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": LAYERS, **PATCHES}
DISTIL = {"dim": 24, "n_heads": 3, "hidden_dim": 20, "n_layers": LAYERS, **WORDS}
GPT2 = {"n_embd": 24, "n_head": 3, "n_layer": LAYERS, "n_positions": LONGEST + 6, "vocab_size": 40,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
ROTARY = {**SIZES, **WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {**ROTARY, "num_attention_heads": 6, "num_key_value_heads": 2}  # heads of 4
MIXED = [f"{kind}_attention" for kind in ("sliding", "full", "sliding")]
OTHER = {"hidden_act": "gelu_new", "rms_norm_eps": 0.01, "num_attention_heads": 4, "num_key_value_heads": 1}
MODERN = {**ROTARY, "cls_token_id": 1, "sep_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
CLIP_TEXT = {**SIZES, **WORDS, "bos_token_id": 1, "eos_token_id": 2}
PAIR = {"text_config": CLIP_TEXT, "vision_config": {**SIZES, **PATCHES}}

# query, key, value, output, first and second product of a layer; one name for the first three where they are packed.
BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense")  # fmt: skip
DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")
PACKED = ("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
WI = (*["attn.Wqkv"] * 3, "attn.Wo", "mlp.Wi", "mlp.Wo")
NEOX = (*["attention.query_key_value"] * 3, "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
LLAMA = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
)
QWEN3 = ("self_attn.q_norm", "self_attn.k_norm", *LLAMA[2:])
PHI3 = (*["self_attn.qkv_proj"] * 3, "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
VIT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
SWIGLU = (*VIT[:4], "mlp.gate_proj", "mlp.down_proj")
CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Case:
    """One config of a family.

    Attributes:
        family: The model_type, as the support table names it.
        saved: The class that is saved.
        config: The class of its config.
        fields: What it is given.
        modules: Where a layer has its six products.
        base: The attribute of the saved model that is the oracle; empty where it is the model itself.
        tower: Which tower of a pair.
    """

    family: str
    saved: str
    config: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = BERT
    base: str = ""
    tower: str | None = None


def _bert(family: str, name: str, config: str, **more: Any) -> tuple[Case, Case]:
    base = {"xlm-roberta": "roberta"}.get(family, family)
    other = {"hidden_act": "relu", "layer_norm_eps": 0.01, "num_attention_heads": 2, "type_vocab_size": 3}
    return (
        Case(family, f"{name}Model", config, {**SIZES, **WORDS, **more}),
        Case(family, f"{name}ForMaskedLM", config, {**SIZES, **WORDS, **more, **other}, base=base),
    )


def _vit(family: str, name: str) -> tuple[Case, Case]:
    other = {"qkv_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 0.01}
    return (
        Case(family, f"{name}Model", f"{name}Config", {**SIZES, **PATCHES}, VIT),
        Case(family, f"{name}ForImageClassification", f"{name}Config", {**SIZES, **PATCHES, **other}, VIT, family),
    )


def _tower(kind: str, name: str, own: Mapping[str, Any]) -> tuple[Case, ...]:
    """A tower alone, and with other words in its config; then the same as one of two."""
    family, tower = f"{kind}_{name.lower()}_model", name.lower()
    cls = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    other = {"hidden_act": "gelu", "layer_norm_eps": 0.01, "num_attention_heads": 2}
    pair = {**PAIR, f"{tower}_config": {**own, **other}}
    return (
        Case(family, f"{cls}{name}Model", f"{cls}{name}Config", own, CLIP),
        Case(family, f"{cls}Model", f"{cls}Config", pair, CLIP, f"{tower}_model", tower),
    )


CASES: dict[str, Case] = {
    f"{case.family}-{number}": case
    for cases in (
        _bert("bert", "Bert", "BertConfig"),
        _bert("roberta", "Roberta", "RobertaConfig"),
        _bert("xlm-roberta", "XLMRoberta", "XLMRobertaConfig", pad_token_id=3),
        _bert("electra", "Electra", "ElectraConfig", embedding_size=8),
        (
            Case("distilbert", "DistilBertModel", "DistilBertConfig", DISTIL, DISTILBERT),
            Case("distilbert", "DistilBertForMaskedLM", "DistilBertConfig",
                 {**DISTIL, "activation": "relu", "sinusoidal_pos_embds": True}, DISTILBERT, "distilbert"),
        ),
        (
            Case("modernbert", "ModernBertModel", "ModernBertConfig", {**MODERN, "local_attention": 6}, WI),
            Case("modernbert", "ModernBertForMaskedLM", "ModernBertConfig",
                 {**MODERN, "local_attention": 9, "norm_bias": True, "attention_bias": True, "mlp_bias": True,
                  "norm_eps": 0.01, "hidden_activation": "silu", "num_attention_heads": 2,
                  "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                  "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 20.0},
                                      "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}}, WI, "model"),
        ),
        (
            Case("gpt2", "GPT2Model", "GPT2Config", GPT2, PACKED),
            Case("gpt2", "GPT2LMHeadModel", "GPT2Config",
                 {**GPT2, "n_inner": 20, "activation_function": "gelu", "layer_norm_epsilon": 0.01}, PACKED,
                 "transformer"),
            Case("gpt2", "GPT2Model", "GPT2Config", {**GPT2, "n_embd": 256, "n_head": 1, "n_inner": 20}, PACKED),
        ),
        (
            Case("gpt_neox", "GPTNeoXModel", "GPTNeoXConfig", ROTARY, NEOX),
            Case("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig",
                 {**ROTARY, "use_parallel_residual": False, "attention_bias": False, "hidden_act": "relu",
                  "layer_norm_eps": 0.01,
                  "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0,
                                      "partial_rotary_factor": 0.5}}, NEOX, "gpt_neox"),
        ),
        (
            Case("llama", "LlamaModel", "LlamaConfig", GROUPED, LLAMA),
            Case("llama", "LlamaForCausalLM", "LlamaConfig",
                 {**ROTARY, **OTHER, "head_dim": 10, "attention_bias": True, "mlp_bias": True,
                  "rope_parameters": LLAMA3}, LLAMA, "model"),
            Case("llama", "LlamaModel", "LlamaConfig",
                 {**GROUPED, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256}, LLAMA),
        ),
        (
            Case("mistral", "MistralModel", "MistralConfig", {**GROUPED, "sliding_window": None}, LLAMA),
            Case("mistral", "MistralForCausalLM", "MistralConfig",
                 {**ROTARY, **OTHER, "sliding_window": 5, "head_dim": 8,
                  "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, LLAMA, "model"),
        ),
        (
            Case("qwen2", "Qwen2Model", "Qwen2Config", GROUPED, LLAMA),
            Case("qwen2", "Qwen2ForCausalLM", "Qwen2Config",
                 {**ROTARY, **OTHER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
                  "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, LLAMA, "model"),
        ),
        (
            Case("qwen3", "Qwen3Model", "Qwen3Config", {**GROUPED, "head_dim": 8}, QWEN3),
            Case("qwen3", "Qwen3ForCausalLM", "Qwen3Config",
                 {**ROTARY, **OTHER, "head_dim": 12, "attention_bias": True, "use_sliding_window": True,
                  "sliding_window": 3, "layer_types": MIXED}, QWEN3, "model"),
        ),
        (
            Case("phi3", "Phi3Model", "Phi3Config", GROUPED, PHI3),
            Case("phi3", "Phi3ForCausalLM", "Phi3Config",
                 {**ROTARY, **OTHER, "num_attention_heads": 3, "num_key_value_heads": 3, "sliding_window": 3,
                  "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, PHI3, "model"),
        ),
        (
            Case("gemma", "GemmaModel", "GemmaConfig", {**ROTARY, "num_key_value_heads": 1, "head_dim": 256}, LLAMA),
            Case("gemma", "GemmaForCausalLM", "GemmaConfig",
                 {**ROTARY, **OTHER, "hidden_act": "gelu", "head_dim": 10, "attention_bias": True,
                  "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}, LLAMA, "model"),
        ),
        (
            Case("gemma2", "Gemma2Model", "Gemma2Config", {**GROUPED, "head_dim": 256, "sliding_window": 5}, LLAMA),
            Case("gemma2", "Gemma2ForCausalLM", "Gemma2Config",
                 {**GROUPED, "rms_norm_eps": 0.01, "hidden_activation": "silu", "head_dim": 8, "attention_bias": True,
                  "query_pre_attn_scalar": 3, "attn_logit_softcapping": 0.7, "sliding_window": 1,
                  "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}, LLAMA, "model"),
            Case("gemma2", "Gemma2Model", "Gemma2Config",
                 {**ROTARY, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4,
                  "sliding_window": 70, "attn_logit_softcapping": None}, LLAMA),
        ),
        _vit("vit", "ViT"),
        _vit("deit", "DeiT"),
        (
            Case("dinov2", "Dinov2Model", "Dinov2Config", DINO, VIT),
            Case("dinov2", "Dinov2ForImageClassification", "Dinov2Config",
                 {**DINO, "use_swiglu_ffn": True, "qkv_bias": False, "layer_norm_eps": 0.01, "mlp_ratio": 1}, SWIGLU,
                 "dinov2"),
            Case("dinov2", "Dinov2Model", "Dinov2Config", {**DINO, "hidden_act": "relu", "mlp_ratio": 2}, VIT),
        ),
        _tower("clip", "Text", CLIP_TEXT),
        _tower("clip", "Vision", {**SIZES, **PATCHES}),
        _tower("siglip", "Text", CLIP_TEXT),
        _tower("siglip", "Vision", {**SIZES, **PATCHES}),
    )
    for number, case in enumerate(cases, start=1)
}  # fmt: skip
FAMILIES = tuple(dict.fromkeys(case.family for case in CASES.values()))


@cache
def make(name: str) -> Any:
    """A case's model, eval, eager, float32; every weight by seed, so that none of them can be lost unnoticed."""
    import transformers

    case = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        config = getattr(transformers, case.config)(**case.fields)
        model = getattr(transformers, case.saved)(config)
        model.set_attn_implementation("eager")
        usual = 0.0 if case.family.startswith("gemma") else 1.0  # Gemma's norms multiply by 1 + weight
        for label, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.data = scale * noise + (usual if parameter.ndim == 1 and label.endswith("weight") else 0.0)
    return model.eval()


def save(name: str, folder: Path) -> Path:
    """Writes the model as transformers does, and gives the folder."""
    make(name).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of one word, by which a folder has a text front."""
    Tokenizer(WordLevel({"word": 0}, "word")).save(str(folder / "tokenizer.json"))


class Oracle:
    """What transformers computes in a model's layers, from hidden states that are given to one of them.

    Args:
        name: The case.
        double: In float64.
    """

    def __init__(self, name: str, *, double: bool) -> None:
        case, model = CASES[name], make(name)
        base = getattr(model, case.base) if case.base else model
        self._model = copy.deepcopy(base).double() if double else base
        if double and case.family.startswith("gemma"):
            for module in self._model.modules():
                if hasattr(module, "_norm"):
                    module.register_forward_hook(_norm_in_float64)
        self._modules, self._kind = case.modules, case.family
        self._sees_images = self._model.main_input_name == "pixel_values"
        self._rotary: Any = getattr(self._model, "rotary_emb", None)
        lists = [module for module in self._model.modules() if isinstance(module, nn.ModuleList)]
        (self._layers,) = (found for found in lists if len(found) == LAYERS)

    def __call__(self, hidden: Array, mask: Array, first: int = 0, end: int = LAYERS) -> list[dict[str, Array]]:
        """Each layer's probes with an oracle, of one sequence; the last one's `block_output` is last_hidden_state.

        Args:
            hidden: [sequence, hidden], what enters layer `first`.
            mask: [sequence], 1 = attend.
            first: The layer that takes it.
            end: One after the last layer that is asked for.

        Returns:
            Of each layer tensors without the batch's axis, at the positions where the mask is 1.
        """
        kept = np.flatnonzero(mask)
        positions = np.arange(len(mask))
        if self._sees_images:  # and takes no mask: what is hidden is left out, as only the order counts
            hidden, mask = hidden[kept], mask[kept]
        found: list[dict[str, Any]] = [{} for _ in self._layers]
        with self._hooked(found, torch.from_numpy(hidden)[None].to(self._model.dtype), first), torch.inference_mode():
            answer = self._model(**self._inputs(mask, positions), output_attentions=True)
        for layer, weights in zip(found, answer.attentions, strict=True):
            layer["attention_weights"] = weights
        found[-1]["block_output"] = answer.last_hidden_state
        if self._rotary:
            for index, layer in enumerate(found):
                self._turn(layer, index, torch.from_numpy(positions)[None])
        keep = slice(None) if self._sees_images else kept
        return [{key: _cut(key, value[0].numpy(), keep) for key, value in layer.items()} for layer in found[first:end]]

    def embed(self, ids: Sequence[int]) -> Array:
        """What enters the first layer, [sequence, hidden], for the ids of one sequence."""
        found: list[dict[str, Any]] = [{} for _ in self._layers]
        with self._hooked(found), torch.inference_mode():
            self._model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64))
        values: Array = found[0]["layer_input"][0].numpy()
        return values

    def _inputs(self, mask: Array, positions: Array) -> dict[str, Any]:
        if self._sees_images:
            return {"pixel_values": torch.zeros(1, 3, 8, 8, dtype=self._model.dtype)}
        return {
            "input_ids": torch.full((1, len(mask)), 7),
            "attention_mask": torch.from_numpy(mask)[None],
            **({"position_ids": torch.from_numpy(positions)[None]} if self._rotary else {}),
        }

    def _turn(self, layer: dict[str, Any], index: int, positions: torch.Tensor) -> None:
        """What the modules passed on is not turned yet; the model's own functions turn it."""
        size = _head_dim(self._model.config)
        heads = [layer[name].reshape(*layer[name].shape[:2], -1, size) for name in ("query", "key")]
        layer["query_unrotated"], layer["key_unrotated"] = heads
        turn: Any = vars(sys.modules[type(self._model).__module__])["apply_rotary_pos_emb"]
        kind = (self._model.config.layer_types[index],) if self._kind == "modernbert" else ()
        with torch.inference_mode():
            cos, sin = self._rotary(heads[0], positions, *kind)
            layer["query"], layer["key"] = turn(*heads, cos, sin, unsqueeze_dim=2)

    @contextmanager
    def _hooked(
        self, found: list[dict[str, Any]], hidden: torch.Tensor | None = None, first: int = 0
    ) -> Iterator[None]:
        handles = [layer.register_forward_pre_hook(_hide, with_kwargs=True) for layer in self._layers]
        if hidden is not None:
            handles += [self._layers[first].register_forward_pre_hook(lambda _m, args: (hidden, *args[1:]))]
        for layer, probes in zip(self._layers, found, strict=True):
            handles += _watch(
                layer, self._modules, probes, partial(SPLITS.get(self._kind, _thirds), self._model.config)
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hide(_layer: nn.Module, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    """The mask with float32's minimum.

    Many a float64 model has a softmax of float32, in which float64's minimum becomes -inf, and a row with nothing to
    attend to NaN, which spreads through its value.
    """

    def bound(value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.dtype == torch.float64
        return value.clamp(min=torch.finfo(torch.float32).min) if floats else value

    return (*args[:1], *map(bound, args[1:])), {name: bound(value) for name, value in more.items()}


def _norm_in_float64(norm: Any, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> Any:
    """Gemma's norm without its casts to float32: with four a layer their roundings are as large as what is measured."""
    return norm._norm(inputs[0]) * (1.0 + norm.weight)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _thirds(_config: Any, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return packed.chunk(3, dim=-1)


def _head_by_head(config: Any, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return packed.reshape(*packed.shape[:2], config.num_attention_heads, 3, -1).unbind(-2)


def _by_size(config: Any, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    shared = config.num_key_value_heads * _head_dim(config)
    return packed[..., : -2 * shared], packed[..., -2 * shared : -shared], packed[..., -shared:]


SPLITS = {"gpt_neox": _head_by_head, "phi3": _by_size}  # how queries, keys and values are packed


def _watch(layer: nn.Module, names: tuple[str, ...], probes: dict[str, Any], unpack: Any) -> list[Any]:
    """Hooks that keep what goes in and out of a layer and of its six products."""

    def keep(inside: str, outside: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            probes[inside], probes[outside] = inputs[0], whole.chunk(2, dim=-1)[0] if outside == gated else whole

        return hook

    query, key, value, out, up, down = (layer.get_submodule(name) for name in names)
    gated = (
        "ffn_pre_activation" if names[4].endswith(("gate_up_proj", "Wi")) else None
    )  # the gate, and beside it the other
    pairs = [(layer, "layer_input", "layer_output"), (out, "context", "attention_output"),
             (up, "ffn_input", "ffn_pre_activation"), (down, "ffn_post_activation", "ffn_output")]  # fmt: skip
    if query is key:

        def split(_module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            probes["attention_input"] = inputs[0]
            probes["query"], probes["key"], probes["value"] = unpack(output)

        return [query.register_forward_hook(split), *(m.register_forward_hook(keep(i, o)) for m, i, o in pairs)]
    # The value's hook comes last: what a norm of queries or keys is given is no attention_input.
    pairs += [(module, "attention_input", name) for module, name in ((query, "query"), (key, "key"), (value, "value"))]
    return [module.register_forward_hook(keep(inside, outside)) for module, inside, outside in pairs]


def _cut(name: str, values: Array, keep: Any) -> Array:
    cut: Array = values[:, keep][:, :, keep] if name == "attention_weights" else values[keep]
    return cut


def _ours(probes: Mapping[str, Array], name: str, row: int, keep: Array) -> Array:
    """One of our probes, of one sequence, at the kept positions."""
    if name == "block_output" and name not in probes:
        name = "layer_output"  # no norm comes after it
    return _cut(name, probes[name][row], keep)


Run = Callable[[int, Array, Array], Mapping[str, Array]]  # (layer, hidden_states, attention_mask) → its probes


def chain(run: Run, depth: int, hidden: Array, mask: Array) -> list[Mapping[str, Array]]:
    """The probes of layer after layer, each fed by the one before."""
    answers: list[Mapping[str, Array]] = []
    for index in range(depth):
        answers.append(run(index, hidden, mask))
        hidden = answers[-1]["layer_output"]
    return answers


def make_rows(masks: Sequence[Array], hidden_size: int, seed: int) -> list[Array]:
    """Hidden states for each mask, float32 [sequence, hidden]; zero where it is 0, as the server sends them."""
    generator = np.random.default_rng(seed)
    rows = [generator.standard_normal((len(mask), hidden_size)).astype(np.float32) for mask in masks]
    return [row * mask[:, None].astype(np.float32) for row, mask in zip(rows, masks, strict=True)]


def worst_error(
    oracles: tuple[Oracle, Oracle],
    answers: Sequence[Mapping[str, Array]],
    rows: Sequence[Array],
    masks: Sequence[Array],
    first: int = 0,
) -> float:
    """Holds a batch's probes to the rule, cell by cell, and gives the largest distance from float64.

    Args:
        oracles: transformers in float32 and in float64.
        answers: Ours, a dict a layer.
        rows: What enters layer `first`, a sequence each.
        masks: 1 = attend, a sequence each.
        first: The source's number of the first of these layers.
    """
    worst = 0.0
    for row, (hidden, mask) in enumerate(zip(rows, masks, strict=True)):
        plain, truth = (oracle(hidden, mask, first, first + len(answers)) for oracle in oracles)
        for index, names in enumerate(truth):
            assert names.keys() - {"block_output"} == answers[index].keys() - NOT_PASSED - {"block_output"}
            for name, wanted in names.items():
                ours = _ours(answers[index], name, row, np.flatnonzero(mask))
                error = np.abs(ours - wanted.reshape(ours.shape))
                bound = tolerance(float(np.abs(plain[index][name] - wanted).max(initial=0)), wanted).reshape(ours.shape)
                assert np.all(error <= bound), f"layer {first + index} {name} of {len(mask)} positions, sequence {row}"
                worst = max(worst, float(error.max(initial=0)))
    return worst
