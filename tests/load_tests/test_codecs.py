"""Codecs are measured by the server's own account of its stages, and goals are shown beside what was reached."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from load_tests import drawing
from load_tests.bench import ours
from load_tests.codecs import measure_codecs
from load_tests.goals import BINARY, CODECS, FLAT, NESTED, OF_CEILING, P50_OVER_RAW
from load_tests.measure import Subject, WrongAnswerError
from load_tests.server import RunningServer
from tests.server import Server

pytestmark = pytest.mark.long
MODEL, HIDDEN_SIZE = "encoder-post-relu", 32
TITLES = {NESTED: "Glassblock (JSON)", FLAT: "Glassblock (flat JSON)", BINARY: "Glassblock (binary)"}


def subjects(address: str, model: str = MODEL) -> list[Subject]:
    """The ways to speak to a server that runs already."""
    running = RunningServer(address, 0)
    return [replace(way, start=lambda: nullcontext(running)) for way in ours(Path(), Path(), model)]


def test_each_way_to_speak_to_the_server_has_its_goals() -> None:
    ways = ours(Path(), Path())
    assert {way.name: way.title for way in ways} == TITLES
    assert P50_OVER_RAW.keys() == OF_CEILING.keys() == CODECS.keys() == TITLES.keys()


def test_codecs_are_held_against_the_standard_library_and_bytes_against_the_run(server: Server) -> None:
    found = measure_codecs(subjects(urlsplit(server.url).netloc), HIDDEN_SIZE, turns=3)
    assert found.keys() == TITLES.keys()
    against = {name: {stage: stages[stage].pop("against") for stage in stages} for name, stages in found.items()}
    plain = {"decode": "json.loads + np.array", "encode": "json.dumps(tolist())"}
    assert against == {NESTED: plain, FLAT: plain, BINARY: {"decode": "the run", "encode": "the run"}}
    for stages in found.values():
        for figures in stages.values():
            assert figures.keys() == {"ms", "against_ms", "ratio"}
            assert all(value > 0 for value in figures.values())
    assert found[BINARY]["decode"]["against_ms"] == found[BINARY]["encode"]["against_ms"]


def test_a_request_that_is_refused_is_no_measurement_of_a_codec(server: Server) -> None:
    sentence = r"^expected status 200 of a single request, got 404 - at Glassblock \(JSON\)$"
    with pytest.raises(WrongAnswerError, match=sentence):
        measure_codecs(subjects(urlsplit(server.url).netloc, "nowhere"), HIDDEN_SIZE, turns=1)


def test_goals_stand_beside_what_was_reached_and_none_where_nothing_was(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"of_ceiling": 0.7, "p50_over_raw": 1.25}
    servers: dict[str, dict[str, Any]] = {NESTED: row, FLAT: row, BINARY: {"reason": "it did not start"}}
    drawing.print_goals({"titles": TITLES, "scenarios": {s: {"servers": servers} for s in ("S1", "S2", "S3", "S4")}})
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    title = TITLES[NESTED]
    assert [cells[1:] for cells in rows if cells and cells[0] == title] == [
        ["S1, p50 over raw p50", "<= 1.60", "1.25"],
        ["S2, share of the ceiling", ">= 0.60", "0.70"],
        ["S3, share of the ceiling", ">= 0.60", "0.70"],
    ]
    assert [cells[2:] for cells in rows if cells and cells[0] == TITLES[BINARY]] == [
        ["<= 1.15", "none"],
        *[[">= 0.80", "none"]] * 3,
    ]


def test_a_codecs_line_has_times_ratio_and_goal(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"ms": 1.5, "against": "json.loads + np.array", "against_ms": 20.0, "ratio": 0.075}
    drawing.print_codecs({"titles": TITLES, "codecs": {FLAT: {"decode": figures}}})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if TITLES[FLAT] in line]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == [TITLES[FLAT], "decode", "1.500", "json.loads + np.array", "20.00", "0.0750", "<= 0.12"]
