"""Rounds: every server in its turn, every scenario in its turn, so that a drift of the machine falls on all."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from load_tests.measure import Bench, Slice, Subject, WrongAnswerError
from load_tests.scenarios import SCENARIOS, Scenario
from load_tests.server import RunningServer


@dataclass(slots=True)
class Row:
    """All slices of one server in one scenario, and why some or all are missing."""

    slices: list[Slice] = field(default_factory=list)
    reason: str = ""


Rows = dict[str, dict[str, Row]]  # by scenario, then by server


def run_rounds(bench: Bench, subjects: Sequence[Subject], rounds: int) -> Rows:
    """Measures every server `rounds` times, freshly started each time.

    Answers are checked in the first round. A server that does not start, answers wrongly or breaks has the reason in
    its row and is left out of that scenario from then on.
    """
    rows: Rows = {scenario.name: {subject.name: Row() for subject in subjects} for scenario in SCENARIOS}
    for turn in range(1, rounds + 1):
        for subject in subjects:
            mine = {scenario.name: rows[scenario.name][subject.name] for scenario in SCENARIOS}
            if all(row.reason for row in mine.values()):
                continue
            print(f"round {turn} of {rounds}: {subject.title}", file=sys.stderr, flush=True)
            try:
                with subject.start() as server:
                    for scenario in SCENARIOS:
                        _take_slice(bench, subject, server, scenario, mine[scenario.name])
            except RuntimeError as error:
                for row in mine.values():
                    row.reason = row.reason or str(error)
    return rows


def _take_slice(bench: Bench, subject: Subject, server: RunningServer, scenario: Scenario, row: Row) -> None:
    if row.reason:
        return
    try:
        if not row.slices:
            bench.check(subject, server, scenario)
        row.slices.append(bench.measure(subject, server, scenario))
    except (WrongAnswerError, OSError) as error:
        row.reason = str(error)
        print(f"  {scenario.name}: {row.reason}", file=sys.stderr, flush=True)
