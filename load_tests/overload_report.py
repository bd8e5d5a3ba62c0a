"""What `make overload` found, as a table in Markdown and as a picture."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = (
    "offered, of the peak", "goodput, of the peak", "p50 of 200, s", "p99 of 200, s", "p99 of 429, ms",
    "p99 of probes, ms", "alone afterwards, of before", "answers",
)  # fmt: skip
Figure = Callable[[dict[str, Any]], float | None]


def _latency(outcome: str, percentile: str) -> Figure:
    return lambda step: step["offered"]["latency_ms"].get(outcome, {}).get(percentile)


_FIGURES: tuple[tuple[Figure, str, float], ...] = (
    (lambda step: step["goodput_share"], "{:.0%}", 1),
    (_latency("200", "p50"), "{:.2f}", 1e-3),
    (_latency("200", "p99"), "{:.2f}", 1e-3),
    (_latency("429", "p99"), "{:.0f}", 1),
    (lambda step: step["offered"]["probe_p99_ms"], "{:.0f}", 1),
    (lambda step: step["slower_alone"], "{:.2f}", 1),
)


def _factors(figures: dict[str, Any]) -> dict[float, list[dict[str, Any]]]:
    """Its steps by each factor that has any, the least factor first."""
    found: dict[float, list[dict[str, Any]]] = {}
    for step in sorted(figures["steps"], key=lambda step: step["factor"]):
        found.setdefault(step["factor"], []).append(step)
    return found


def _values(steps: list[dict[str, Any]], figure: Figure, unit: float = 1) -> list[float]:
    return [value * unit for value in map(figure, steps) if value is not None]


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """A Markdown table: for each factor the median over its rounds, with the range where there are several."""
    yield "| " + " | ".join(_COLUMNS) + " |"
    yield "|" + "--:|" * (len(_COLUMNS) - 1) + "---|"
    for factor, steps in _factors(figures).items():
        cells = [_cell(_values(steps, figure, unit), form) for figure, form, unit in _FIGURES]
        answers: dict[str, int] = {}
        for step in steps:
            for outcome, count in step["offered"]["outcomes"].items():
                answers[outcome] = answers.get(outcome, 0) + count
        said = ", ".join(f"{count:,} of {outcome}" for outcome, count in sorted(answers.items()))
        yield f"| {factor:g} | {' | '.join(cells)} | {said} |"


def _cell(values: list[float], form: str) -> str:
    if not values:
        return ""
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Writes a PNG: goodput, and p50 and p99 of good answers, against the load offered; medians, and their range."""
    from matplotlib import figure as drawing  # noqa: PLC0415 - half a second, which only a picture is worth

    figure = drawing.Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2)
    factors = _factors(figures)
    if factors:
        _draw_goodput(left, factors)
        _draw_latencies(right, factors)
    for axis in (left, right):
        axis.set_xlabel("requests offered, of the peak", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _draw_goodput(axis: "Axes", factors: dict[float, list[dict[str, Any]]]) -> None:
    _line(axis, factors, lambda step: step["goodput_share"], 1, "answered with 200")
    most = max(factors)
    axis.plot([0, 1, most], [0, 1, 1], color="black", linewidth=1, linestyle=":", label="all that could be")
    axis.set_title("goodput, of the peak", fontsize=9)
    axis.legend(fontsize=8, loc="lower right")


def _draw_latencies(axis: "Axes", factors: dict[float, list[dict[str, Any]]]) -> None:
    _line(axis, factors, _latency("200", "p99"), 1e-3, "99th percentile")
    _line(axis, factors, _latency("200", "p50"), 1e-3, "median")
    waits = [step["longest_wait_ms"] * 1e-3 for steps in factors.values() for step in steps]
    label = "as many as may be under way, at the peak"
    axis.axhline(statistics.median(waits), color="black", linewidth=1, linestyle=":", label=label)
    axis.set_title("latency of answers with 200, s", fontsize=9)
    axis.legend(fontsize=8, loc="lower right")


def _line(axis: "Axes", factors: dict[float, list[dict[str, Any]]], figure: Figure, unit: float, label: str) -> None:
    found = {factor: values for factor, steps in factors.items() if (values := _values(steps, figure, unit))}
    middles = [statistics.median(values) for values in found.values()]
    below = [middle - min(values) for middle, values in zip(middles, found.values(), strict=True)]
    above = [max(values) - middle for middle, values in zip(middles, found.values(), strict=True)]
    axis.errorbar(list(found), middles, yerr=[below, above], marker="o", markersize=4, capsize=3, label=label)
