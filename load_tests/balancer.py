"""Debian's haproxy before several servers, as a cluster's ingress would be: it asks each whether it is ready."""

import csv
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECK_EVERY_MS = 200
UP_TIMEOUT_S = 20
# A request is tried again only where no connection came about, so nothing is sent twice, and a lost request shows.
_CONFIGURATION = """
defaults
  mode http
  timeout connect 2s
  timeout check 2s
  timeout client 30s
  timeout server 30s
  retries 3
  retry-on conn-failure
  option redispatch 1
frontend clients
  bind {address}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter {check_every_ms}ms fall 1 rise 1
{servers}
frontend state
  bind {state}
  stats enable
  stats uri /
"""


@dataclass(frozen=True, slots=True)
class Balancer:
    """A running haproxy.

    Attributes:
        address: where clients ask, host:port.
        state: where it tells how its servers are, host:port.
    """

    address: str
    state: str

    def served(self) -> dict[str, int]:
        """How many requests each server was given."""
        return {row["svname"]: int(row["stot"]) for row in self._rows()}

    def wait_until_all_are_up(self) -> None:
        """Returns once every server has been found ready.

        Raises:
            TimeoutError: one was not in time.
        """
        deadline_s = time.monotonic() + UP_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if all(row["status"] == "UP" for row in self._rows()):
                return
            time.sleep(CHECK_EVERY_MS / 1e3)
        raise TimeoutError(f"expected every replica to be found ready in {UP_TIMEOUT_S} s, got one that was not")

    def _rows(self) -> list[dict[str, str]]:
        with urllib.request.urlopen(f"http://{self.state}/;csv", timeout=10) as answer:
            lines = answer.read().decode().lstrip("# ").splitlines()
        own = {"FRONTEND", "BACKEND"}
        return [row for row in csv.DictReader(lines) if row["svname"] not in own]


def find_haproxy() -> str | None:
    """The program's path; Debian keeps it where only root looks."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def balancing(haproxy: str, folder: Path, balancer: Balancer, servers: list[str]) -> Iterator[None]:
    """A haproxy before these servers, once it listens and has found all of them ready.

    Args:
        haproxy: the program.
        folder: where its configuration and what it says are kept.
        balancer: where it is to listen.
        servers: the address of each, host:port.
    """
    lines = "\n".join(f"  server replica{number} {address}" for number, address in enumerate(servers))
    text = _CONFIGURATION.format(
        address=balancer.address, state=balancer.state, check_every_ms=CHECK_EVERY_MS, servers=lines
    )
    (folder / "haproxy.cfg").write_text(text)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([haproxy, "-db", "-f", folder / "haproxy.cfg"], stdout=log, stderr=log)
    try:
        _wait_until_it_listens(process, balancer, folder / "haproxy.log")
        balancer.wait_until_all_are_up()
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_it_listens(process: subprocess.Popen[bytes], balancer: Balancer, log: Path) -> None:
    while process.poll() is None:
        try:
            balancer.served()
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"haproxy did not start: {log.read_text()}")
