"""From slices to figures: one document for the JSON file, from which the tables and the plot are drawn."""

import json
import os
import platform
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from load_tests.ceiling import THREADS, VERSION, Raw
from load_tests.measure import Bench, Slice, Subject
from load_tests.rounds import Row, Rows
from load_tests.scenarios import SCENARIOS, Scenario

_LOAD_AVERAGE = round(os.getloadavg()[0], 2)  # when the run begins: what others do to the machine
_VERSIONS = ("numpy", "fastapi", "uvicorn", "orjson")


def describe(rows: Rows, subjects: Iterable[Subject], bench: Bench, rounds: int, command: str) -> dict[str, Any]:
    """The report of a run.

    Args:
        rows: what was measured.
        subjects: the servers.
        bench: its lengths of time.
        rounds: of each server and scenario.
        command: that made it.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "machine": machine(),
        "versions": {"python": platform.python_version(), "onnxruntime": VERSION}
        | {name: version(name) for name in _VERSIONS},
        "rounds": rounds,
        "window_s": bench.window_s,
        "titles": {subject.name: subject.title for subject in subjects},
        "scenarios": {s.name: _scenario(s, rows[s.name]) for s in SCENARIOS if s.name in rows},
    }


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, and how busy it was before the run."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(cpuinfo) if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": THREADS,
        "memory_gib": round(pages / 2**30, 1),
        "load_average": _LOAD_AVERAGE,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _scenario(scenario: Scenario, rows: dict[str, Row]) -> dict[str, Any]:
    slices = [part for row in rows.values() for part in row.slices]
    candidates = {size: _raw([part.raw[size] for part in slices]) for size in scenario.raw_batches} if slices else {}
    best = max(candidates, key=lambda size: candidates[size]["tokens_per_s"], default=1)
    return {
        "title": scenario.title,
        "ceiling_batch": best,
        "ceiling": candidates,
        "servers": {name: _server(scenario, row, best) for name, row in rows.items()},
    }


def _raw(slices: list[Raw]) -> dict[str, float]:
    return {
        "requests_per_s": statistics.median(raw.requests / raw.seconds for raw in slices),
        "tokens_per_s": statistics.median(raw.tokens / raw.seconds for raw in slices),
        "cpu_s_per_1000": statistics.median(1000 * raw.cpu_s / raw.requests for raw in slices),
        "call_p50_ms": _percentile([s for raw in slices for s in raw.calls_s], 50),
        "call_p99_ms": _percentile([s for raw in slices for s in raw.calls_s], 99),
    }


def _server(scenario: Scenario, row: Row, best: int) -> dict[str, Any]:
    """Medians over the slices; ratios are of each slice's own raw runs, so that the machine's drift falls on both."""
    if not row.slices:
        return {"reason": row.reason}
    latencies_s = [s for part in row.slices for s in part.served.latencies_s]
    figures = {
        "requests_per_s": [len(part.served.answered) / part.served.window_s for part in row.slices],
        "tokens_per_s": [_tokens_per_s(scenario, part) for part in row.slices],
        "of_ceiling": [
            _tokens_per_s(scenario, part) * part.raw[best].seconds / part.raw[best].tokens for part in row.slices
        ],
        "p50_over_raw": [_p50_over_raw(part, best) for part in row.slices],
        "cpu_s_per_1000": [_per_1000(part.served.server_cpu_s, part) for part in row.slices],
        "cpu_outside_run_s_per_1000": [
            _per_1000(part.served.server_cpu_s, part) - 1000 * part.raw[best].cpu_s / part.raw[best].requests
            for part in row.slices
        ],
        "client_cpu_s_per_1000": [_per_1000(part.served.client_cpu_s, part) for part in row.slices],
    }
    return {
        **{name: statistics.median(values) for name, values in figures.items()},
        "of_ceiling_range": [min(figures["of_ceiling"]), max(figures["of_ceiling"])],
        "p50_ms": _percentile(latencies_s, 50),
        "p99_ms": _percentile(latencies_s, 99),
        "requests": sum(len(part.served.answered) for part in row.slices),
        "failed": sum(part.served.failed for part in row.slices),
        "peak_rss_mib": max(part.peak_rss_mib for part in row.slices),
        "pss_mib": max(part.pss_mib for part in row.slices),
        "reason": row.reason,
    }


def _tokens_per_s(scenario: Scenario, part: Slice) -> float:
    return sum(scenario.lengths[index] for index in part.served.answered) / part.served.window_s


def _p50_over_raw(part: Slice, best: int) -> float:
    return statistics.median(part.served.latencies_s) / statistics.median(part.raw[best].calls_s)


def _per_1000(seconds: float, part: Slice) -> float:
    return 1000 * seconds / max(len(part.served.answered), 1)


def _percentile(seconds: Iterable[float], share: float) -> float:
    return float(np.percentile(list(seconds), share) * 1e3)


def faults(report: dict[str, Any], names: Iterable[str]) -> list[str]:
    """What a run of these servers must not have: wrong or missing answers."""
    return [
        f"{report['titles'][name]}, {scenario}: {row['reason'] or str(row['failed']) + ' requests failed'}"
        for name in names
        for scenario, found in report["scenarios"].items()
        if (row := found["servers"][name])["reason"] or row["failed"]
    ]


def save(report: dict[str, Any], path: Path) -> None:
    """Writes the report as JSON; its keys are those of `describe`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
