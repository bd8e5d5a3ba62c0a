"""S1 to S4: what is sent, by how many connections. Seeded, so that every server and every run gets the same numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

SEED = 20
SHORTEST, LONGEST = 4, 128
RAGGED_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load: each connection sends the next request of one common cycle as soon as its last one is answered.

    Attributes:
        name: S1 to S4.
        connections: kept open, one request under way on each.
        lengths: positions of each request of the cycle; every request holds one sequence.
        attention: whether the attention weights are asked for beside the block's output.
        raw_batches: batch sizes among which the ceiling is sought; sequences of one batch are of one length, or sorted
            by length and padded.
    """

    name: str
    connections: int
    lengths: tuple[int, ...]
    attention: bool = False
    raw_batches: tuple[int, ...] = (1,)

    @property
    def title(self) -> str:
        """One line for tables."""
        even = len(set(self.lengths)) == 1
        shape = f"1×{self.lengths[0]}" if even else f"1×{SHORTEST}…{LONGEST} log-uniform"
        plural = "" if self.connections == 1 else "s"
        return f"{self.name}: {self.connections} connection{plural} of {shape}{' + attention' * self.attention}"

    def sequences(self, hidden_size: int) -> list[Float32Array]:
        """The hidden states of each request, [S, D] float32, standard normal."""
        generator = np.random.default_rng([SEED, self.connections])
        return [generator.standard_normal((length, hidden_size)).astype(np.float32) for length in self.lengths]


def _ragged() -> tuple[int, ...]:
    """The quantiles of the log-uniform distribution, shuffled: 64 draws could miss its mean by a fifth."""
    shares = (np.arange(RAGGED_REQUESTS) + 0.5) / RAGGED_REQUESTS
    lengths = np.rint(SHORTEST * (LONGEST / SHORTEST) ** shares).astype(int)
    return tuple(np.random.default_rng(SEED).permutation(lengths).tolist())


SCENARIOS = (
    Scenario("S1", 1, (128,) * 4),
    Scenario("S2", 16, (16,) * 32, raw_batches=(1, 2, 4, 8, 16, 32)),
    Scenario("S3", 32, _ragged(), raw_batches=(1, 2, 4, 8, 16)),
    Scenario("S4", 4, (64,) * 4, attention=True, raw_batches=(1, 2, 4)),
)
