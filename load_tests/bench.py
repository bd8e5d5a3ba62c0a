"""`make bench`: what the server adds to onnxruntime, measured side by side in one run.

S1: one connection, one sequence of 128 positions on a 768/12/3072 block, the whole hidden state in and out as JSON. The
body is prepared and the answer is not parsed, so the client costs next to nothing. Raw `session.run` of the same
model.onnx on the same input is timed in this process, in turn with the server, since the machine's speed drifts.
"""

import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
import orjson
from rich.console import Console
from rich.table import Table

from load_tests.server import MODEL, SIZES, export_model, running_server

HIDDEN_SIZE = SIZES["hidden-size"]
LENGTH = 128
THREADS = len(os.sched_getaffinity(0))  # of a run, for both sides
ROUNDS = 15
REQUESTS_A_ROUND = 20
JSON_S1_GOAL = 1.8


class Connection:
    """One keep-alive connection that sends the same request again and again and reads answers without parsing them."""

    def __init__(self, address: str, path: str, body: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = [f"POST {path} HTTP/1.1", f"Host: {address}", "Content-Type: application/json"]
        head.append(f"Content-Length: {len(body)}")
        self._request = "\r\n".join([*head, "", ""]).encode() + body
        self._buffer = bytearray(4 * 2**20)

    def ask(self) -> memoryview:
        """Sends the request; returns the answer's body once all of it has come, valid until the next call."""
        self._socket.sendall(self._request)
        view, filled, total, start = memoryview(self._buffer), 0, sys.maxsize, 0
        while filled < total:
            got = self._socket.recv_into(view[filled:])
            if not got:
                raise ConnectionError("the server closed the connection")
            filled += got
            if total == sys.maxsize and (end := self._buffer.find(b"\r\n\r\n", 0, filled)) >= 0:
                start = end + 4
                total = start + int(re.search(rb"content-length: (\d+)", self._buffer[:end].lower())[1])  # type: ignore[index]
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not 200: {bytes(self._buffer[:400])!r}")
        return view[start:total]

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


def raw_runner(folder: Path, hidden_states: Any) -> Callable[[], Any]:
    """The ceiling: `session.run` of model.onnx with as many threads as the server takes, and no HTTP."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else it would slow the server's turns
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {"hidden_states": hidden_states, "attention_mask": np.ones(hidden_states.shape[:2], np.int64)}
    return lambda: session.run(["block_output"], feeds)[0]


def measure(function: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    seconds = []
    for _ in range(count):
        start_s = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start_s)
    return seconds


def measure_s1(run: Callable[[], Any], ask: Callable[[], Any]) -> dict[str, float]:
    """Raw and served in turn; the ratio is of each round's medians, so that a drift of the machine falls on both."""
    raw: list[float] = []
    served: list[float] = []
    ratios = []
    for _ in range(ROUNDS):
        raw_round, served_round = measure(run, REQUESTS_A_ROUND), measure(ask, REQUESTS_A_ROUND)
        ratios.append(statistics.median(served_round) / statistics.median(raw_round))
        raw += raw_round
        served += served_round
    figures = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    for name, seconds in (("raw", raw), ("served", served)):
        for share in (50, 99):
            figures[f"{name}_p{share}_ms"] = float(np.percentile(seconds, share) * 1e3)
    return figures


def print_figures(figures: dict[str, float]) -> None:
    """The table for people, then the figures as JSON."""
    table = Table("S1: JSON, 1x128x768, one connection", "p50 ms", "p99 ms", "p50 / raw", "goal")
    table.add_row("raw session.run", f"{figures['raw_p50_ms']:.2f}", f"{figures['raw_p99_ms']:.2f}", "1", "")
    ratio = f"{figures['ratio']:.2f} ({figures['ratio_min']:.2f} to {figures['ratio_max']:.2f})"
    served = f"{figures['served_p50_ms']:.2f}", f"{figures['served_p99_ms']:.2f}"
    table.add_row("served", *served, ratio, f"<= {JSON_S1_GOAL}")
    console = Console()
    console.print(table)
    console.print_json(data={"s1_json": figures})


def main() -> None:
    """Measures and prints; exits with 1 if the answers differ."""
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        version_folder = export_model(temporary / "models")
        numbers = np.random.default_rng(0).standard_normal((1, LENGTH, HIDDEN_SIZE)).astype(np.float32)
        body = orjson.dumps({"hidden_states": numbers}, option=orjson.OPT_SERIALIZE_NUMPY)
        run = raw_runner(version_folder, numbers)
        with running_server(temporary / "models", temporary, threads=THREADS) as server:
            connection = Connection(server.address, f"/v1/models/{MODEL}/forward", body)
            answer = np.asarray(orjson.loads(connection.ask())["outputs"]["block_output"], np.float32)
            if not np.allclose(answer, run(), rtol=0, atol=1e-5):
                sys.exit("the server's answer is not session.run's")
            figures = measure_s1(run, connection.ask)
            connection.close()
    print_figures(figures)


if __name__ == "__main__":
    main()
