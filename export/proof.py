"""What a proof is: the rule, what was found, and the error where the rule is broken."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import ExportError

RULE = "|ours - f64| <= 2 * max|eager float32 - f64| + 1e-5 * max(1, |f64|), where the mask is 1 on every sequence axis"
ORACLE = "PyTorch eager in float64, each sequence alone and unpadded"


def tolerance(eager_error: float, truth: NDArray[Any]) -> NDArray[Any]:
    """The rule's right side, cell by cell: float32's own error, twice, and what a reordered sum may add."""
    bound: NDArray[Any] = 2 * eager_error + 1e-5 * np.maximum(1, np.abs(truth))
    return bound


@dataclass(slots=True)
class Accuracy:
    """How far an output ever was from float64, and how far PyTorch's own float32 was."""

    max_error: float = 0.0
    eager_float32_max_error: float = 0.0
    breach: str | None = None


@dataclass(slots=True)
class Proof:
    """What the comparison found.

    Attributes:
        cases: How many batches were compared.
        outputs: By full name, block_output and layers.{i}.{probe}.
        padded_equals_alone: Every padded answer was bit-equal to the same sequence alone.
        layers_equal_model: The chain of layers was bit-equal to model.onnx.
        overridden_sites: Probes that were overridden, one after another, and went on as in PyTorch.
    """

    cases: int
    outputs: dict[str, Accuracy] = field(default_factory=dict)
    padded_equals_alone: bool = True
    layers_equal_model: bool = True
    overridden_sites: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The manifest's `parity`."""
        return {
            "rule": RULE,
            "oracle": ORACLE,
            "cases": self.cases,
            "padded_equals_alone": self.padded_equals_alone,
            "layers_equal_model": self.layers_equal_model,
            "overridden_sites": self.overridden_sites,
            "outputs": {
                name: {"max_error": found.max_error, "eager_float32_max_error": found.eager_float32_max_error}
                for name, found in self.outputs.items()
            },
        }


class ParityError(ExportError):
    """The graphs do not compute what PyTorch computes; `proof` has every number."""

    def __init__(self, sentence: str, proof: Proof) -> None:
        super().__init__(sentence)
        self.proof = proof


def largest(error: NDArray[Any]) -> float:
    """max|error|, 0 where there is nothing to compare, NaN where there is a NaN."""
    return float(np.max(np.abs(error), initial=0.0))


def same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two float32 arrays are equal to the last bit, NaN and the sign of zero included."""
    return first.tobytes() == second.tobytes()
