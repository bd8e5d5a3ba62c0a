"""Real servers for tests: a process of its own on a loopback port, stopped by its pid."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_TIMEOUT_S = 60.0
_URL = re.compile(r"ready +(http://\S+)/readyz")


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: its base, such as http://127.0.0.1:40123.
        process: `python -m service`.
        stdout: file that holds its log.
        stderr: file that holds its banner.
    """

    url: str
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    @property
    def grpc(self) -> str:
        """Where gRPC listens, such as 127.0.0.1:40124."""
        return str(re.findall(r"gRPC +(\S+)\n", self.stderr.read_text())[0])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def running(
    models: Path, folder: Path, program: Sequence[str] = ("-m", "service"), **settings: object
) -> Iterator[Server]:
    """Starts the service on a free port and waits until it is ready.

    Args:
        models: the models folder to serve.
        folder: where its output is kept.
        program: what Python runs.
        settings: fields of `service.settings.Settings`.
    """
    stdout, stderr = folder / "stdout", folder / "stderr"
    named = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    flags = [flag if value is True else f"{flag}={value}" for flag, value in named.items()]
    command = [sys.executable, *program, "serve", f"--models={models}", "--http-port=0", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GLASSBLOCK_")}
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
    try:
        yield Server(_wait_for_url(process, stderr), process, stdout, stderr)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], stderr: Path) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        found = _URL.search(stderr.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not become ready: {stderr.read_text()}")


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
