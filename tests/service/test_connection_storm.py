"""Thousands of connections within a second or so, more than there may be (fault O3)."""

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import Server, link_models, running
from tests.service.refusal import GOOD, post
from tests.service.wire import connect, until_served


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """This process may open so many and some more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def storm(server: Server, count: int) -> list[socket.socket]:
    """So many connections, one after the other, none of which says anything; those that are refused are left out."""
    opened = []
    for _ in range(count):
        with contextlib.suppress(ConnectionError):
            opened.append(connect(server))
    return opened


@pytest.mark.parametrize(
    ("count", "most"), [(2_000, 200), pytest.param(10_000, 4096, marks=pytest.mark.long)], ids=["2,000", "10,000"]
)
def test_a_storm_of_connections_harms_nobody_who_is_there_and_passes(
    artifact: Callable[[str], Path], tmp_path: Path, count: int, most: int
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, max_connections=most) as server, server.client() as client, descriptors(count):
        assert post(client, GOOD).status_code == 200
        opened = storm(server, count)
        assert len(opened) > most
        assert post(client, GOOD).status_code == 200  # over the connection that was there before
        for connection in opened:
            connection.close()
        assert until_served(server) < 2
