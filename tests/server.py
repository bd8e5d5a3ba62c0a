"""Real servers for tests: a process of its own on a loopback port, stopped by its pid."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx

from tests import forked

START_TIMEOUT_S = 60.0
PROVIDER = os.environ.get("PROVIDER", "cpu")  # `make test-gpu` sets it
_URL = re.compile(r"ready +(http://\S+)/readyz")


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: its base, such as http://127.0.0.1:40123.
        process: what runs it.
        stdout: file that holds its log.
        stderr: file that holds its banner.
    """

    url: str
    process: BaseProcess
    stdout: Path
    stderr: Path

    @property
    def grpc(self) -> str:
        """Where gRPC listens, such as 127.0.0.1:40124."""
        return str(re.findall(r"gRPC +(\S+)\n", self.stderr.read_text())[0])

    def client(self) -> httpx.Client:
        # Over plain HTTP there is no certificate to verify, and to read those it would be verified by takes 40 ms.
        return httpx.Client(base_url=self.url, timeout=60, verify=False)  # noqa: S501

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.process.exitcode is None and self.process.pid:
            os.kill(self.process.pid, number)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, None if it has not ended in this time."""
        self.process.join(timeout_s)
        return self.process.exitcode

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int | None:
        """Sends a signal and returns the exit code."""
        self.send(number)
        return self.wait(timeout_s)


@contextmanager
def running(models: Path, folder: Path, program: str = "service.__main__", **settings: object) -> Iterator[Server]:
    """Starts the service on a free port and waits until it is ready.

    Unless told else, a run has one thread: two of a run wait for each other by spinning, on a processor that the other
    tests need (tests/test_neighbours.py: 22 s instead of 2).

    Args:
        models: the models folder to serve.
        folder: where its output is kept.
        program: the module whose `main` runs.
        settings: fields of `service.settings.Settings`, such as http_port=8000 in place of a free one.
    """
    stdout, stderr = folder / "stdout", folder / "stderr"
    settings = {"http_port": 0, "threads": 1, "provider": PROVIDER, **settings}
    named = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    flags = [flag if value is True else f"{flag}={value}" for flag, value in named.items()]
    words = ["serve", f"--models={models}", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GLASSBLOCK_")}
    process = forked.start(program, words, environment, stdout, stderr)
    try:
        yield Server(_wait_for_url(process, stderr), process, stdout, stderr)
    finally:
        process.terminate()
        process.join(20)
        if process.exitcode is None:
            process.kill()
            process.join()


def _wait_for_url(process: BaseProcess, stderr: Path) -> str:
    said, deadline_s = "", time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        ended = process.exitcode is not None
        said = stderr.read_text() if stderr.exists() else ""
        # The banner's last line is written last: who reads it before that has a part of it.
        if (found := _URL.search(said)) and said.endswith("\n\n"):
            return found[1]
        if ended:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not become ready: {said}")


def link_models(folder: Path, artifacts: dict[str, Path]) -> Path:
    """A models folder that holds these version folders (NAME/VERSION each) by name.

    Args:
        folder: made if missing.
        artifacts: version folders by the model's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, version_folder in artifacts.items():
        (folder / name).symlink_to(version_folder.parent.resolve(), target_is_directory=True)
    return folder
