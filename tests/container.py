"""Real containers for tests, on the network of the engine's host: an engine may have no bridge."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = os.environ.get("IMAGE", "glassblock")
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")  # noqa: S108
START_TIMEOUT_S = 30.0


def docker(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs docker, whatever its exit code."""
    return subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)


def output_of(*arguments: str) -> str:
    """What docker prints.

    Raises:
        AssertionError: it failed, for the reason in the message.
    """
    done = docker(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container of the image that was started, and may have ended.

    Attributes:
        id: docker's.
        url: its base, such as http://127.0.0.1:40123.
        started_s: the monotonic clock just before `docker run`.
    """

    id: str
    url: str
    started_s: float

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def run(self, program: str) -> str:
        """What a Python program prints inside, as the user that serves."""
        return output_of("exec", self.id, "python", "-c", program)

    def inspect(self, template: str) -> str:
        return output_of("inspect", "--format", template, self.id)

    def wait_until_ready(self) -> None:
        wait_until_ready(self.url)


def wait_until_ready(url: str) -> None:
    """Returns once /readyz says 200.

    Raises:
        AssertionError: time is up.
    """
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.02)
    raise AssertionError("the container did not become ready")


@contextmanager
def started(*options: str, arguments: Sequence[str] = ()) -> Iterator[Container]:
    """Starts the image, hardened, on a free port of loopback; kills and removes what is left of it at the end.

    Args:
        options: of `docker run`.
        arguments: of the image.
    """
    port = free_port()
    where = ("--network", "host", "--env", "GLASSBLOCK_HTTP_HOST=127.0.0.1", "--env", f"GLASSBLOCK_HTTP_PORT={port}")
    started_s = time.monotonic()
    container = output_of("run", "--detach", *where, *HARDENED, *options, IMAGE, *arguments)
    try:
        yield Container(container, f"http://127.0.0.1:{port}", started_s)
    finally:
        docker("rm", "--force", "--volumes", container)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def mount(models: Path) -> tuple[str, ...]:
    """The options that put one's own models folder where the image serves from."""
    return ("--volume", f"{models}:/models:ro")
