"""A report as tables for the terminal, as Markdown, and as a picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from load_tests.goals import CODECS, OF_CEILING, P50_OVER_RAW

COLUMNS = ("", "req/s", "tokens/s", "of ceiling", "p50 ms", "p99 ms", "CPU s/1000", "outside run", "RSS (PSS) MiB")


def ceiling_sentence(scenario: dict[str, Any]) -> str:
    """Which raw runs are the ceiling, and what the other batch sizes gave."""
    others = ", ".join(f"{size}: {raw['tokens_per_s']:,.0f}" for size, raw in scenario["ceiling"].items())
    return f"raw session.run by batch size, tokens/s: {others}" if others else "no raw runs"


def lines(scenario: dict[str, Any], titles: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """The cells of a scenario's table: the ceiling, then each server, the largest share of it first."""
    if scenario["ceiling"]:
        raw = scenario["ceiling"][scenario["ceiling_batch"]]
        yield (
            f"raw, batches of {scenario['ceiling_batch']}",
            f"{raw['requests_per_s']:.1f}", f"{raw['tokens_per_s']:,.0f}", "1",
            f"{raw['call_p50_ms']:.1f}", f"{raw['call_p99_ms']:.1f}", f"{raw['cpu_s_per_1000']:.2f}", "0", "",
        )  # fmt: skip
    servers = scenario["servers"].items()
    for name, row in sorted(servers, key=lambda item: -item[1].get("of_ceiling", 0)):
        yield _cells(titles[name], row)


def _cells(title: str, row: dict[str, Any]) -> tuple[str, ...]:
    if "tokens_per_s" not in row:
        return (title, row["reason"], *[""] * (len(COLUMNS) - 2))
    low, high = row["of_ceiling_range"]
    flaws = [f"{row['failed']} failed"] if row["failed"] else []
    flaws += [row["reason"]] if row["reason"] else []
    return (
        f"{title} ({'; '.join(flaws)})" if flaws else title,
        f"{row['requests_per_s']:.1f}",
        f"{row['tokens_per_s']:,.0f}",
        f"{row['of_ceiling']:.2f} ({low:.2f} to {high:.2f})",
        f"{row['p50_ms']:.1f}",
        f"{row['p99_ms']:.1f}",
        f"{row['cpu_s_per_1000']:.2f}",
        f"{row['cpu_outside_run_s_per_1000']:.2f}",
        f"{row['peak_rss_mib']:,.0f} ({row['pss_mib']:,.0f})",
    )


def print_tables(report: dict[str, Any]) -> None:
    """The scenarios one after another."""
    console = Console(width=140)
    for scenario in report["scenarios"].values():
        table = Table(*COLUMNS, title=scenario["title"], caption=ceiling_sentence(scenario), title_justify="left")
        for cells in lines(scenario, report["titles"]):
            table.add_row(*map(Text, cells))  # a reason may hold what looks like markup
        console.print(table)


def print_goals(report: dict[str, Any]) -> None:
    """What each way to speak to this project's server is held to in the loads, and what it reached."""
    table = Table("", "goal", "wanted", "measured", title="Goals", title_justify="left")
    for name, most in P50_OVER_RAW.items():
        title, rows = report["titles"][name], {s: found["servers"][name] for s, found in report["scenarios"].items()}
        table.add_row(title, "S1, p50 over raw p50", f"<= {most:.2f}", _figure(rows["S1"], "p50_over_raw"))
        for scenario, least in OF_CEILING[name].items():
            cells = f"{scenario}, share of the ceiling", f">= {least:.2f}", _figure(rows[scenario], "of_ceiling")
            table.add_row(title, *cells)
    Console(width=140).print(table)


def _figure(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f}" if name in row else "none"


def print_codecs(report: dict[str, Any]) -> None:
    """What decoding and encoding cost, beside what they are held against."""
    table = Table("", "stage", "ms", "against", "its ms", "ratio", "wanted", title="Codecs", title_justify="left")
    for name, stages in report["codecs"].items():
        for stage, found in stages.items():
            times = f"{found['ms']:.3f}", found["against"], f"{found['against_ms']:.2f}"
            goal = f"{found['ratio']:.4f}", f"<= {CODECS[name][stage]:.2f}"
            table.add_row(report["titles"][name], stage, *times, *goal)
    Console(width=140).print(table)


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """The same tables for docs/benchmarks.md."""
    for scenario in report["scenarios"].values():
        yield f"### {scenario['title']}\n"
        yield f"{ceiling_sentence(scenario)[0].upper()}{ceiling_sentence(scenario)[1:]}.\n"
        yield "| server | " + " | ".join(COLUMNS[1:]) + " |"
        yield "|---|" + "--:|" * (len(COLUMNS) - 1)
        for cells in lines(scenario, report["titles"]):
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        yield ""


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: a panel a scenario, a bar a server, its length the share of the ceiling."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second, which only a picture is worth

    scenarios = list(report["scenarios"].values())
    height = 1.2 + 0.35 * len(report["titles"])
    figure = Figure(figsize=(4 * len(scenarios), height))
    axes = figure.subplots(1, len(scenarios), sharey=True, squeeze=False)
    names = list(reversed(report["titles"]))
    for axis, scenario in zip(axes[0], scenarios, strict=True):
        shares = [scenario["servers"][name].get("of_ceiling", 0) for name in names]
        bars = axis.barh([report["titles"][name] for name in names], shares)
        axis.bar_label(bars, [f"{share:.2f}" if share else "none" for share in shares], padding=3)
        axis.set_xlim(0, 1.15)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_title(scenario["title"], fontsize=9)
        axis.set_xlabel("tokens/s, share of raw session.run", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
