"""How a block favours keys by their distance from the query: a frozen value, checked when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from export.fields import check_fields, refuse_unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeBias:
    """What is added to a score for the distance of key and query, in Hugging Face's words (Raffel et al. 2020, T5).

    Each head has a learnt number a bucket (arXiv:1910.10683, section 2.1). Near distances have a bucket of their own,
    farther ones share one with more and more of their neighbours. Positions are counted as sent, hidden ones too.

    Attributes:
        num_buckets: Rows of the table. A block that looks to both sides has half of them for the keys after the query.
        max_distance: Distances from here on share the last bucket.

    Raises:
        ValueError: A size below 1.
    """

    num_buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        check_fields(self, "relative_bias.")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From JSON's words; what is left out is as in T5.

        Raises:
            ValueError: An unknown field, or a value it cannot have.
        """
        refuse_unknown(cls, fields)
        return cls(**fields)

    def side(self, *, causal: bool) -> tuple[int, int]:
        """Buckets of the keys on one side, and how many of them are of one distance each, from 0.

        Args:
            causal: Whether a query sees no key after it, and so needs no buckets there.
        """
        buckets = self.num_buckets if causal else self.num_buckets // 2
        return buckets, buckets // 2

    def hold(self, *, causal: bool) -> None:
        """Holds both sizes to what the logarithm between near and far can divide.

        Raises:
            ValueError: So few buckets that no distance has one of its own, or a max_distance among those that have.
        """
        _, exact = self.side(causal=causal)
        if exact < 1:
            mask, least = ("causal", 2) if causal else ("bidirectional", 4)
            raise ValueError(
                f"relative_bias.num_buckets must be at least {least} with mask {mask}, got {self.num_buckets}"
            )
        if self.max_distance <= exact:
            raise ValueError(
                f"relative_bias.max_distance must be above {exact}, below which each distance has its own bucket, "
                f"got {self.max_distance}"
            )
