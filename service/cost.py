"""What a run costs here: measured at warm-up, and from it which batches pay."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MEASURE_S = 0.15  # of measuring, after which no further shape is run: a start waits for it
_ROUNDS = 3
_SHORT, _SIZES, _LONG = 16, (1, 2, 4, 8, 16, 32), (128, 512)  # lengths in batches of these sizes, and alone
_PAYS = 0.99  # of the best rate: a batch that reaches it is large enough
_HAND_OFF_S = 0.0002  # taking, padding and answering a batch, beside its run
_LEAST_TOKENS = 256  # of a batch: the rate still rises there wherever it was measured


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a run as start + batch · (length · token + length² · pair), and the largest batch that pays.

    Attributes:
        start_s: of any run.
        token_s: of each position, padding counted.
        pair_s: of each pair of positions of a sequence.
        batch_tokens: padded positions of a batch, beyond which a larger one is no faster than two.
    """

    start_s: float
    token_s: float
    pair_s: float
    batch_tokens: int

    def seconds(self, batch_size: int, length: int) -> float:
        """Of a run of so many sequences, padded to `length` positions."""
        return self.start_s + batch_size * length * (self.token_s + length * self.pair_s)


def measure(run: Callable[[int, int], None], longest: int | None, most_tokens: int) -> Cost:
    """Runs a few shapes in turn, several times over, and fits their least times.

    Args:
        run: a batch of so many sequences of so many positions.
        longest: positions of a sequence that the model takes; None: any.
        most_tokens: padded positions of the largest batch that may be formed.
    """
    stop_s = time.perf_counter() + MEASURE_S
    longest = min(longest or max(_LONG), most_tokens)
    short = min(_SHORT, longest)
    together = [(size, short) for size in _SIZES if size * short <= most_tokens]
    alone = [(1, length) for length in _LONG if short < length <= longest]
    times: dict[tuple[int, int], float] = {}
    for shape in _ROUNDS * (*together[:3], *alone[:1], *together[3:], *alone[1:]):
        if len(times) > 1 and time.perf_counter() > stop_s:
            break
        times[shape] = min(_clock(run, shape), times.get(shape, math.inf))
    rates = {size * length: size * length / times[size, length] for size, length in together if (size, length) in times}
    enough = next(tokens for tokens, rate in rates.items() if rate >= _PAYS * max(rates.values()))
    start_s, token_s, pair_s = _fit(times)
    return Cost(start_s + _HAND_OFF_S, token_s, pair_s, batch_tokens=min(max(enough, _LEAST_TOKENS), most_tokens))


def _clock(run: Callable[[int, int], None], shape: tuple[int, int]) -> float:
    start_s = time.perf_counter()
    run(*shape)
    return time.perf_counter() - start_s


def _fit(times: dict[tuple[int, int], float]) -> tuple[float, float, float]:
    """The least squares of relative errors, without negative parts."""
    rows = np.asarray([(1, size * length, size * length**2) for size, length in times], np.float64)
    rows /= np.asarray(list(times.values()))[:, None]
    # Pairs show in long sequences alone; guessed from short ones they would be off by much where it matters.
    parts = [0, 1, 2] if any(length >= _LONG[-1] for _, length in times) else [0, 1] if len(times) > 2 else [1]
    while True:
        found, *_ = np.linalg.lstsq(rows[:, parts], np.ones(len(rows)), rcond=None)
        if (found >= 0).all() or len(parts) == 1:
            cost = dict(zip(parts, map(abs, map(float, found)), strict=True))
            return cost.get(0, 0.0), cost.get(1, 0.0), cost.get(2, 0.0)
        parts.pop(int(found.argmin()))
