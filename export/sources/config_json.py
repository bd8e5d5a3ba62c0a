"""config.json, read key by key; a key that nobody reads and that may change the mathematics is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from export import ExportError
from export.config import Activation
from export.fields import MAX_SIZE

# Hugging Face's names of activations, and ours. Its "gelu" is the exact one.
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}
# Keys of every config that ask for what no family here computes, each with the only value that does not.
_ONLY: dict[str, Any] = {
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "pruned_heads": {},
    "quantization_config": None,
}
# Keys that every config may have and that change no tensor of a block: names, training, tokens, heads, generation.
_HARMLESS = frozenset({
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "name_or_path",
    "_commit_hash", "finetuning_task", "tokenizer_class", "prefix", "task_specific_params", "problem_type",
    "id2label", "label2id", "num_labels", "_num_labels", "classifier_dropout", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "attention_dropout", "dropout", "initializer_range", "initializer_factor",
    "gradient_checkpointing", "use_cache", "chunk_size_feed_forward", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "tie_word_embeddings", "tie_encoder_decoder", "return_dict", "output_hidden_states", "output_attentions",
    "output_past", "_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "bos_token_id",
    "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "xla_device", "is_composition", "transformers.js_config",
})  # fmt: skip


class Config:
    """The fields of config.json, or of one part of it; a missing key has the default that transformers gives it.

    Args:
        path: The file, for messages.
        fields: What it holds.
        part: The part's key, for messages; empty for the file as a whole.
    """

    def __init__(self, path: Path, fields: Mapping[str, Any], part: str = "") -> None:
        self._path, self._fields, self._part = path, fields, part
        self._read: set[str] = set()

    def size(self, key: str, default: int, least: int = 1, most: int = MAX_SIZE) -> int:
        """An integer from `least` to `most`.

        Raises:
            ExportError: It is none.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refusal(f"{key} must be an integer of at least {least}, got {value!r}")
        if value > most:
            raise self.refusal(f"{key} must be an integer of at most {most}")
        return value

    def size_or_none(self, key: str) -> int | None:
        """An integer from 1 to MAX_SIZE, or None where the key is missing or null.

        Raises:
            ExportError: It is neither.
        """
        return None if self._get(key, None) is None else self.size(key, 1)

    def value(self, key: str, default: object) -> Any:
        """What stands there, for others to check."""
        return self._get(key, default)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            ExportError: It is neither.
        """
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(f"{key} must be true or false, got {value!r}")
        return value

    def activation(self, key: str, default: str) -> Activation:
        """An activation, in our words.

        Raises:
            ExportError: It is one that the block does not have.
        """
        value = self._get(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.refusal(f"{key} is {value!r}, and only {', '.join(ACTIVATIONS)} are supported")
        return ACTIVATIONS[value]

    def only(self, values: Mapping[str, Any]) -> None:
        """Holds keys that change the mathematics to the one value that is computed here; null and missing pass.

        Raises:
            ExportError: A key has another value.
        """
        for key, only in values.items():
            if self._get(key, None) not in (only, None):
                raise self.refusal(f"{key} is {self._fields[key]!r}, and only {only!r} is supported")

    def hold_common(self, harmless: frozenset[str] = frozenset()) -> None:
        """Refuses what no family here computes, by the keys that every config may have, but those that are harmless.

        Raises:
            ExportError: The model has code of its own, is quantised, or the like.
        """
        if self._get("auto_map", None):
            raise self.refusal("auto_map names the model's own code, and code that comes with a model is never run")
        self.only({key: only for key, only in _ONLY.items() if key not in harmless})

    def finish(self, kind: str, harmless: frozenset[str]) -> None:
        """Refuses what is left: keys that nobody read, whose value is not null, and of which nobody knows what they do.

        Raises:
            ExportError: There is such a key.
        """
        self.hold_common(harmless)
        for key in sorted(self._fields.keys() - self._read - _HARMLESS - harmless):
            if self._fields[key] is not None:
                why = f"{key} is no key of {kind} that is known here, and may change what it computes"
                raise self.refusal(f"{why}; where it does not, take it out of the file")

    def part(self, key: str) -> Self:
        """The object under a key; an empty one where the key is missing or null.

        Raises:
            ExportError: It is no object.
        """
        fields = self._get(key, None) or {}
        if not isinstance(fields, dict):
            raise self.refusal(f"{key} must be an object, got {fields!r}")
        return type(self)(self._path, fields, key)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._get(key, None) is not None

    def refusal(self, why: str) -> ExportError:
        """The error to raise, with the place in front; what no terminal could show, as half a surrogate, is a ?."""
        where = f"{self._path}: {self._part}." if self._part else f"{self._path}: "
        return ExportError(f"{where}{why}".encode("utf-8", "replace").decode())

    def _get(self, key: str, default: object) -> Any:
        self._read.add(key)
        return self._fields.get(key, default)
