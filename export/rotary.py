"""How a block turns queries and keys by their positions: a frozen value, checked when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from export.fields import check_fields, refuse_unknown

Pairs = Literal["half", "interleaved"]
Scaling = Literal["none", "linear", "llama3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """How queries and keys are turned by their positions, in Hugging Face's words (Su et al. 2021, arXiv:2104.09864).

    Attributes:
        dims: How many of a head's first numbers are turned, two by two; all of head_dim in Llama, a quarter in Pythia.
        max_position_embeddings: Positions there are, from 0; so many rows has the table of angles.
        theta: The base: pair i turns by theta^(-2i/dims) a position. 10,000 in the original, more for long texts.
        pairs: "half" pairs number i with i + dims/2 (Hugging Face's Llama, GPT-NeoX), "interleaved" neighbours (GPT-J,
            Cohere, Meta's own Llama files).
        scaling: "none", "linear" (every pair turns factor times slower) or "llama3" (slow pairs do, fast ones do not).
        factor: Of the scaling.
        low_freq_factor: Of llama3: a pair is slow if it turns less often than this in the original length.
        high_freq_factor: Of llama3: a pair is fast if it turns more often than this in it.
        original_max_position_embeddings: Of llama3: positions before the scaling.

    Raises:
        ValueError: A size below 1, dims that are not even, a number that is not positive, or a word outside its list.
    """

    dims: int
    max_position_embeddings: int
    theta: float = 10_000.0
    pairs: Pairs = "half"
    scaling: Scaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        check_fields(self, "rotary.")
        if self.dims % 2:
            raise ValueError(f"rotary.dims must be even, got {self.dims}")
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"rotary.low_freq_factor must be below high_freq_factor {self.high_freq_factor}, "
                f"got {self.low_freq_factor}"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], head_dim: int) -> Self:
        """From JSON's words; dims may be left out (head_dim).

        Raises:
            ValueError: An unknown or missing field, or a value it cannot have.
        """
        refuse_unknown(cls, fields)
        if "max_position_embeddings" not in fields:
            raise ValueError("rotary needs max_position_embeddings")
        return cls(**{"dims": head_dim, **fields})
