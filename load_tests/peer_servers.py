"""The peers: what is installed where, how each is started, and where its requests go."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

import psutil

from load_tests.ceiling import THREADS, output_names
from load_tests.formats import Body, Format, InferenceBinary, InferenceJson, NestedJson
from load_tests.measure import Subject, ask
from load_tests.scenarios import SCENARIOS, Scenario
from load_tests.server import RunningServer

PROGRAMS = Path(__file__).parent / "peers"
_INSTALL_TIMEOUT_S, _START_TIMEOUT_S, _STOP_TIMEOUT_S = 900, 90, 15


class PeerError(RuntimeError):
    """A peer could not be installed or started; says why."""


def install(pins: Path, folder: Path) -> Path:
    """A virtual environment with these packages, made in `folder` anew only when they change; returns its Python.

    Raises:
        PeerError: pip could not.
    """
    place, stamp = folder / pins.stem, folder / pins.stem / "installed"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    python = place / "bin" / "python"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    shutil.rmtree(place, ignore_errors=True)
    commands = [sys.executable, "-m", "venv", str(place)], [str(python), "-m", "pip", "install", "-q", "-r", str(pins)]
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
        except (subprocess.SubprocessError, OSError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else str(error)
            raise PeerError(f"not installed: {said.strip().splitlines()[-1][:300]}") from None
    stamp.write_text(digest)
    return python


@contextmanager
def started(name: str, python: Path, folder: Path, requests: dict[str, Body]) -> Iterator[RunningServer]:
    """A peer that has answered a first request on every path; it and all its processes are ended at the end.

    Args:
        name: of its program.
        python: of its virtual environment.
        folder: `graphs` in it are served; its log is written there.
        requests: one for each path.

    Raises:
        PeerError: a path had no good answer in time; quotes the last answer, or the log.
    """
    ports = _free_ports(3)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "PEER_FOLDER": str(folder), "PEER_THREADS": str(THREADS), "PEER_PORTS": ",".join(map(str, ports)),
    }  # fmt: skip
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [python, PROGRAMS / f"{name}_server.py"],
            stdout=file, stderr=file, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        address = f"127.0.0.1:{ports[0]}"
        _wait(process, address, requests, log)
        yield RunningServer(address, process.pid)
    finally:
        _stop(process)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _wait(process: subprocess.Popen[bytes], address: str, requests: dict[str, Body], log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    left, said = dict(requests), ""
    while time.monotonic() < deadline_s and process.poll() is None:
        for path, body in list(left.items()):
            status, _, data = ask(address, path, body)
            if status == HTTPStatus.OK:
                del left[path]
            elif status:
                said = f"{path} answered {status}: {data[:200].decode(errors='replace')}"
        if not left:
            return
        time.sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise PeerError(f"not started: {said or (lines[-1][:300] if lines else 'it said nothing')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the peer, then an end to what is left of it and of its children."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=2)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _same(path: str) -> Callable[[Scenario], str]:
    return lambda _scenario: path


def _litserve(scenario: Scenario) -> str:
    return "/attention" if scenario.attention else "/predict"


def _inference(scenario: Scenario) -> str:
    return f"/v2/models/{'attention' if scenario.attention else 'block'}/infer"


def _mlserver(scenario: Scenario) -> str:
    return "/v2/models/ragged/infer" if len(set(scenario.lengths)) > 1 else _inference(scenario)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server of others: its row's name and title, its program, how it is spoken to and where."""

    name: str
    title: str
    program: str
    format: Format
    path: Callable[[Scenario], str]

    def subject(self, python: Path, folder: Path, hidden_size: int) -> Subject:
        """The peer, ready to be measured."""
        requests = {self.path(s): self.format.write(s.sequences(hidden_size)[0], output_names(s)) for s in SCENARIOS}
        start = partial(started, self.program, python, folder, requests)
        return Subject(self.name, self.title, self.format, self.path, start)


def failing(peer: Peer, reason: PeerError) -> Subject:
    """A peer that is not there: each start says why."""

    @contextmanager
    def start() -> Iterator[RunningServer]:
        raise reason
        yield

    return Subject(peer.name, peer.title, peer.format, peer.path, start)


PEERS = (
    Peer("naive", "FastAPI, naive (JSON)", "fastapi", NestedJson(), _same("/naive")),
    Peer("response-model", "FastAPI, response model (JSON)", "fastapi", NestedJson(), _same("/declared")),
    Peer("mlserver", "MLServer (JSON)", "mlserver", InferenceJson(), _mlserver),
    Peer("kserve-json", "KServe SDK (JSON)", "kserve", InferenceJson(), _inference),
    Peer("kserve-binary", "KServe SDK (binary)", "kserve", InferenceBinary(), _inference),
    Peer("litserve", "LitServe (JSON)", "litserve", NestedJson(), _litserve),
    Peer("pytriton-json", "PyTriton (JSON)", "pytriton", InferenceJson(), _inference),
    Peer("pytriton-binary", "PyTriton (binary)", "pytriton", InferenceBinary(), _inference),
)
