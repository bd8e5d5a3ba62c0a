"""Fixtures that every test may use; how long property tests look, and which tests run in one process."""

import atexit
import functools
import gc
import os
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from execnet import XSpec
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests import artifacts, workers
from tests.server import Server, link_models, running

ROOT = Path(__file__).parent.parent
gc.disable()  # until all tests are collected
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads wait by spinning, on processors that others need

# `make test` and, of the same tests, `make test-long`.
settings.register_profile(
    "quick", max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=200)
settings.load_profile("quick")


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """A file runs in one process, and in `make test` also files that need the same costly thing.

    That is torch, or, in two halves, a `server` with all models; what takes minutes can start it in each process. The
    tests of `make families` run by themselves, and are spread.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file == "tests/export/test_family_graphs.py":
            return nodeid
        return _need(file) if "not long" in self.config.option.markexpr else file


@functools.cache
def _need(file: str) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.startswith("tests/export/") or re.search(r"\bimport torch\b|\btests\.hooked\b", text):
        return "torch"
    asked = re.search(r"^def test_\w+\([^)]*\b(server|client|unharmed):", text, re.MULTILINE)
    own = re.search(r"^def (server|client)\(", text, re.MULTILINE)
    return f"server {zlib.crc32(file.encode()) % 2}" if asked and not own else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[XSpec]) -> None:
    """Has pytest's processes forked, and meanwhile the models made that most tests need."""
    end = ExitStack()
    config.add_cleanup(end.close)
    python = shlex.join(end.enter_context(workers.forking()))
    for spec in specs:
        spec.python = python
    if artifacts.missing():
        sys.stdout.write(f"exporting the models that tests need: {artifacts.store() / 'log'}\n")


def pytest_configure(config: pytest.Config) -> None:
    """Has a worker end at once when it has told all: taking torch apart, object by object, would take seconds."""
    if hasattr(config, "workerinput"):
        atexit.register(os._exit, 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What computes begins in two processes, what starts many servers, and mostly waits, in the third."""
    items.sort(key=_turn)


def pytest_collection_finish() -> None:
    """Lets the garbage collector pass over all that has been loaded, torch among it: each search would take seconds."""
    gc.freeze()
    gc.enable()
    if read := os.environ.get(workers.READ):
        Path(read).touch()


def _turn(item: pytest.Item) -> tuple[int, bool]:
    file = item.nodeid.partition("::")[0]
    need = _need(file)
    servers = {"torch": 99, "server 0": 99, "server 1": 3}.get(need) or _count_servers(file)
    return -servers, item.get_closest_marker("thorough") is None


@functools.cache
def _count_servers(file: str) -> int:
    return (ROOT / file).read_text(encoding="utf-8").count("running(")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Takes the place of `--dist`."""
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def artifact() -> Callable[[str], Path]:
    """The version folder of an exported artifact by its name in tests/artifacts.py; exported on first use."""
    return artifacts.artifact


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every model in artifacts.SERVED; tests must leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    models = link_models(folder / "models", {name: artifacts.artifact(name) for name in artifacts.SERVED})
    with running(models, folder, grpc_port=0) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """A connection pool to `server`."""
    with server.client() as opened:
        yield opened
