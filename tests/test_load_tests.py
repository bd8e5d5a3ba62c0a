"""The measurements themselves, on a tiny block against real servers: what they count, check and write."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest

from load_tests import bench_peers, drawing, peer_servers, report, usage
from load_tests.bench import ours
from load_tests.ceiling import Ceiling, lay_out_graphs
from load_tests.formats import GlassblockJson
from load_tests.generator import Counted, Job, generator, run_job
from load_tests.goals import BINARY, FLAT, NESTED
from load_tests.measure import Bench, Subject
from load_tests.rounds import run_rounds
from load_tests.scenarios import SCENARIOS
from load_tests.server import RunningServer, running_server
from tests.server import link_models

pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent
MODEL, OTHER_WEIGHTS = "encoder-pre-gelu", "encoder-post-relu"
FIGURES = {
    "requests_per_s", "tokens_per_s", "of_ceiling", "of_ceiling_range", "p50_over_raw", "p50_ms", "p99_ms", "requests",
    "failed", "cpu_s_per_1000", "cpu_outside_run_s_per_1000", "client_cpu_s_per_1000", "peak_rss_mib", "pss_mib",
    "reason",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models` to serve and `graphs` to run raw."""
    made = tmp_path_factory.mktemp("bench")
    link_models(made / "models", {name: artifact(name) for name in (MODEL, OTHER_WEIGHTS)})
    lay_out_graphs(artifact(MODEL), made / "graphs")
    return made


@pytest.fixture(scope="module")
def bench(folder: Path) -> Iterator[Bench]:
    with generator() as run:
        yield Bench(Ceiling(folder / "graphs"), run, window_s=0.2, warm_s=0.05, raw_s=0.05)


@pytest.fixture(scope="module")
def measured(bench: Bench, folder: Path) -> dict[str, Any]:
    """One round of this server in its three formats, of a peer, and of servers that answer wrongly or do not start."""
    wrong = partial(running_server, folder / "models", folder)
    naive, _, _, kserve, *_ = peer_servers.PEERS
    subjects = [
        *ours(folder / "models", folder, MODEL),
        naive.subject(Path(sys.executable), folder, bench.ceiling.hidden_size),
        kserve.subject(Path(sys.executable), folder, bench.ceiling.hidden_size),
        Subject("other", "Other weights", GlassblockJson(), lambda _: f"/v1/models/{OTHER_WEIGHTS}/forward", wrong),
        Subject("nowhere", "No such model", GlassblockJson(), lambda _: "/v1/models/nowhere/forward", wrong),
    ]
    found = report.describe(run_rounds(bench, subjects, 1), subjects, bench, 1, "make bench")
    return found | {"peers": {"fastapi": bench_peers.pins("fastapi")}}


def test_the_scenarios_are_those_documented() -> None:
    described = {(s.name, s.connections, len(s.lengths), s.attention) for s in SCENARIOS}
    assert described == {("S1", 1, 4, False), ("S2", 16, 32, False), ("S3", 32, 64, False), ("S4", 4, 4, True)}
    lengths = {s.name: s.lengths for s in SCENARIOS}
    assert [set(lengths[name]) for name in ("S1", "S2", "S4")] == [{128}, {16}, {64}]
    assert lengths["S3"][:8] == (13, 40, 5, 7, 10, 100, 52, 62)
    assert (min(lengths["S3"]), max(lengths["S3"]), sum(lengths["S3"])) == (4, 125, 2290)
    table = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (S\d) \| (\d+) \| 1.(\w+)", table, re.MULTILINE)
    assert rows == [("S1", "1", "128"), ("S2", "16", "16"), ("S3", "32", "T"), ("S4", "4", "64")]


@pytest.mark.parametrize("name", [NESTED, FLAT, BINARY])
def test_a_report_has_every_figure_of_every_scenario(name: str, measured: dict[str, Any], tmp_path: Path) -> None:
    report.save(measured, tmp_path / "bench.json")
    document = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert list(document["scenarios"]) == ["S1", "S2", "S3", "S4"]
    for scenario in document["scenarios"].values():
        row = scenario["servers"][name]
        assert row.keys() == FIGURES
        assert row["requests"] > 0
        assert (row["failed"], row["reason"]) == (0, "")
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["of_ceiling"] > 0
        assert row["cpu_s_per_1000"] > 0
        assert row["peak_rss_mib"] >= row["pss_mib"] > 10
        assert str(scenario["ceiling_batch"]) in scenario["ceiling"]
    assert report.faults(document, [name]) == []


def test_a_peer_with_right_answers_has_figures(measured: dict[str, Any]) -> None:
    rows = [scenario["servers"]["naive"] for scenario in measured["scenarios"].values()]
    assert [row["reason"] for row in rows] == [""] * 4
    assert all(row["requests"] > 0 for row in rows)


def test_a_peer_that_does_not_start_says_why(measured: dict[str, Any]) -> None:
    reason = {"reason": "not started: ModuleNotFoundError: No module named 'kserve'"}
    assert [scenario["servers"]["kserve-json"] for scenario in measured["scenarios"].values()] == [reason] * 4


def test_a_server_of_wrong_answers_is_not_measured(measured: dict[str, Any]) -> None:
    rows = {name: scenario["servers"]["other"] for name, scenario in measured["scenarios"].items()}
    for name, total in (("S1", 4), ("S2", 32), ("S3", 64), ("S4", 4)):
        assert rows[name].keys() == {"reason"}
        assert re.fullmatch(
            rf"{total} of {total} answers are wrong: block_output is off by [\d.]+", rows[name]["reason"]
        )
    sentence = f"no such model; this server has {OTHER_WEIGHTS}, {MODEL} - at path"
    said = f'{{"error":"{sentence}","code":"unknown_model"'
    faults = [fault.partition(',"at"')[0] for fault in report.faults(measured, ["nowhere"])]
    assert faults == [
        f"No such model, {name}: {total} of {total} answers are wrong: status 404: {said}"
        for name, total in (("S1", 4), ("S2", 32), ("S3", 64), ("S4", 4))
    ]


def test_the_tables_go_between_the_pages_markers(measured: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bench_peers.START}old\n{bench_peers.END}after\n", encoding="utf-8")
    bench_peers.write_page(page, bench_peers.section(measured))
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{bench_peers.START}")
    assert text.endswith(f"{bench_peers.END}after\n")
    assert "old" not in text
    assert text.count("| Glassblock (JSON) |") == 4
    assert text.count("| KServe SDK (JSON) | not started: ModuleNotFoundError: No module named 'kserve' |") == 4
    assert "- fastapi: fastapi==" in text
    with pytest.raises(ValueError, match="has no place for the tables"):
        bench_peers.write_page(ROOT / "README.md", "")


def test_the_plot_is_a_picture(measured: dict[str, Any], tmp_path: Path) -> None:
    drawing.draw(measured, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_server_that_has_ended_is_said_to_have() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=f"^the server's process {ended.pid} has ended$"):
        usage.process_ids(ended.pid)


class _Answers(BaseHTTPRequestHandler):
    """POST /PATH: an answer in chunks, one with its length, a slow one, one of 503, one without its length."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        type(self).bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.5 if self.path == "/slow" else 0)
        data = np.random.default_rng(len(self.bodies)).bytes(300_000)
        self.send_response(503 if self.path == "/refused" else 200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        elif self.path != "/endless":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base's name
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is not worth a traceback."""


@pytest.fixture
def answering() -> Iterator[RunningServer]:
    server = _Server(("127.0.0.1", 0), _Answers)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield RunningServer(f"127.0.0.1:{server.server_port}", 0)
    server.shutdown()
    thread.join()
    server.server_close()


def load(server: RunningServer, path: str) -> Counted:
    body = b"x" * 3_000_000  # more than a socket takes at once
    request = f"POST /{path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return run_job(Job(server.address, (request,), 3, 0.05, 0.3, ()))


@pytest.mark.parametrize("path", ["sized", "chunks"])
def test_the_generator_counts_whole_answers(answering: RunningServer, path: str) -> None:
    _Answers.bodies.clear()
    counted = load(answering, path)
    assert counted.failed == 0
    assert 0 < len(counted.answered) <= len(_Answers.bodies)
    assert len(counted.latencies_s) <= len(_Answers.bodies)
    assert {len(body) for body in _Answers.bodies} == {3_000_000}
    assert 0.3 <= counted.window_s < 1


def test_a_window_lasts_until_an_answer_has_come(answering: RunningServer) -> None:
    counted = load(answering, "slow")
    assert len(counted.answered) >= 1
    assert len(counted.latencies_s) >= 1
    assert counted.window_s >= 0.4  # 0.5 s after what began 0.05 s before the window


def test_the_generator_counts_refusals_apart(answering: RunningServer) -> None:
    counted = load(answering, "refused")
    assert counted.answered == []
    assert counted.failed > 0


def test_an_answer_that_cannot_be_delimited_ends_the_load(answering: RunningServer) -> None:
    with pytest.raises(ConnectionError, match="the answer does not say how long it is, or has too long a head"):
        load(answering, "endless")
