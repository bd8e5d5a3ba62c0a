"""The text front of a model that has one: tokenizer and embeddings."""

import numpy as np
from tokenizers import Tokenizer

from service.errors import IllegalRequestError, StartError, UnavailableError
from service.manifest import ModelSpec, TensorSpec, TextSpec
from service.session import ERRORS, Session
from service.tensors import BoolArray, Float32Array, Int64Array

# Far beyond any language's mean; a text is held against it before it is tokenized, which takes a second a megabyte.
MAX_CHARACTERS_A_TOKEN = 32


class TextFront:
    """Turns text into ids and ids into hidden states.

    Args:
        spec: vocabulary and positions.
        tokenizer: bytes of tokenizer.json, verified by the caller.
        place: file of the tokenizer, for messages.
        embeddings: input_ids int64 [batch, sequence] → hidden_states float32 [batch, sequence, hidden].

    Raises:
        StartError: the tokenizer cannot be read.
    """

    def __init__(self, spec: TextSpec, tokenizer: bytes, place: str, embeddings: Session) -> None:
        self._spec = spec
        self._embeddings = embeddings
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
        except ValueError as error:
            raise StartError(f"{place}: not a tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def tokenize(
        self, text: tuple[str, ...], max_tokens: int
    ) -> tuple[tuple[Int64Array, ...], tuple[tuple[str, ...], ...]]:
        """Ids (int64 [sequence]) and tokens of each string, special tokens included.

        Args:
            text: one string a sequence.
            max_tokens: of all strings together; held against the numbers of strings and characters.

        Raises:
            IllegalRequestError: more tokens than the model has positions, or so much text that it must have; text is
                never cut.
        """
        if len(text) > max_tokens:
            message = f"expected at most {max_tokens:,} strings, got {len(text):,}"
            raise IllegalRequestError(message, code="too_many_tokens", at="text")
        if longest := self._spec.max_tokens:
            for index, string in enumerate(text):
                _check_characters(len(string), longest, "sequence_too_long", f"text[{index}]")
        _check_characters(sum(map(len, text)), max_tokens, "too_many_tokens", "text")
        encodings = self._tokenizer.encode_batch(list(text))
        for index, encoding in enumerate(encodings):
            if longest and len(encoding.ids) > longest:
                message = f"expected at most {longest} tokens, got {len(encoding.ids)}"
                raise IllegalRequestError(message, code="sequence_too_long", at=f"text[{index}]")
        ids = tuple(np.asarray(encoding.ids, np.int64) for encoding in encodings)
        return ids, tuple(tuple(encoding.tokens) for encoding in encodings)

    def embed(
        self, input_ids: tuple[Int64Array, ...], attention_mask: tuple[BoolArray, ...]
    ) -> tuple[Float32Array, ...]:
        """Hidden states of each sequence; each alone, so none depends on another.

        Args:
            input_ids: int64 [sequence], within the vocabulary.
            attention_mask: bool [sequence].

        Returns:
            float32 [sequence, hidden] a sequence, zero where the mask is False.

        Raises:
            UnavailableError: out of memory.
        """
        try:
            embedded = [self._embeddings.run(["hidden_states"], {"input_ids": ids[None]})[0][0] for ids in input_ids]
        except MemoryError:
            raise UnavailableError("out of memory; ask for less or later", code="out_of_memory") from None
        pairs = zip(embedded, attention_mask, strict=True)
        return tuple(values if mask.all() else np.where(mask[:, None], values, np.float32(0)) for values, mask in pairs)


def _check_characters(count: int, max_tokens: int, code: str, place: str) -> None:
    if count > (limit := MAX_CHARACTERS_A_TOKEN * max_tokens):
        message = f"expected at most {limit:,} characters for {max_tokens:,} tokens, got {count:,}"
        raise IllegalRequestError(message, code=code, at=place)


def check_front(front: TextFront, embeddings: Session, spec: ModelSpec, most_tokens: int, place: str) -> None:
    """Holds the embeddings' tensors, vocabulary and positions, as far as a request may go, against the manifest.

    Args:
        front: of the model.
        embeddings: its graph.
        spec: the manifest.
        most_tokens: of a request.
        place: of the graph, for messages.

    Raises:
        StartError: they are not as it says.
    """
    if spec.text is None:
        return
    axes = ["batch", "sequence"]
    takes = TensorSpec(name="input_ids", dtype="int64", axes=axes, shape=[-1, -1])
    states = TensorSpec(name="hidden_states", dtype="float32", axes=[*axes, "hidden"], shape=[-1, -1, spec.hidden_size])
    embeddings.check_contract([takes], [states], place)
    try:
        length = min(spec.text.max_tokens or most_tokens, most_tokens)
        ids = np.resize(np.asarray([0, spec.text.vocab_size - 1]), length)
        front.embed((ids,), (np.ones(len(ids), np.bool_),))
    except ERRORS as error:
        raise StartError(f"{place}: takes fewer ids or positions than the manifest says") from error
