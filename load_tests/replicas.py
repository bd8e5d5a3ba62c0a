"""Servers that are stopped, killed and started again on the same port."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from load_tests.server import start_server, wait_until_ready

STOP_TIMEOUT_S = 40


class Replica:
    """A server on a port that it comes back to.

    Args:
        models: the models folder.
        banner: a file for what it says.
        drain_delay_s: for how long it serves after SIGTERM.

    Attributes:
        address: host:port.
    """

    def __init__(self, models: Path, banner: Path, drain_delay_s: float) -> None:
        self.address = free_address()
        self._models, self._banner, self._drain_delay_s = models, banner, drain_delay_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and returns once it is ready."""
        port = self.address.rpartition(":")[2]
        self._process = start_server(self._models, self._banner, http_port=port, drain_delay_s=self._drain_delay_s)
        wait_until_ready(self._process, self._banner)

    def send(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code; one that does not end in time is killed."""
        assert self._process is not None
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self) -> None:
        """Kills it if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self, number: int) -> int:
        """Ends it by this signal, starts it again, and returns the exit code."""
        self.send(number)
        code = self.wait()
        self.start()
        return code


@contextmanager
def replicas_of(folder: Path, drain_delay_s: float, *models: Path) -> Iterator[list[Replica]]:
    """A replica of each models folder, not yet started; those that run at the end are killed.

    Args:
        folder: where their banners are kept.
        drain_delay_s: for how long each serves after SIGTERM.
        models: a models folder for each.
    """
    replicas = [Replica(one, folder / f"banner{number}", drain_delay_s) for number, one in enumerate(models)]
    try:
        yield replicas
    finally:
        for replica in replicas:
            replica.end()


def free_address() -> str:
    """An address of this machine at which nobody listens yet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"
