"""Fixtures that every test may use; how long property tests look, and which tests run in one process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests import artifacts
from tests.server import Server, link_models, running

SERVED = (
    "minilm",
    "minilm-2-5",
    "textbook-projections",
    "textbook-attention",
    "textbook-feed-forward-relu",
    "textbook-feed-forward-gelu",
    "textbook-feed-forward-gelu-tanh",
    "textbook-multi-head",
    "encoder-pre-gelu",
    "encoder-post-relu",
    "my-block",
    "tiny",
    "head-256",
    "causal-final-norm",
)
EXPORT = Path(__file__).parent / "export"

# `make test` and, of the same tests, `make test-long`.
settings.register_profile(
    "quick", max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1500)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Tests of a file share a process; the exporter's share one torch, those of `server` one server of all models."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Function) -> str:
    if item.path.is_relative_to(EXPORT):
        return "export"
    if {"server", "client"} & {*item.fixturenames} and not hasattr(item.module, "server"):
        return "server"
    return item.path.stem


@pytest.fixture(scope="session")
def artifact() -> Callable[[str], Path]:
    """The version folder of an exported artifact by its name in tests/artifacts.py; exported on first use."""
    return artifacts.artifact


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every model in SERVED; tests must leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    models = link_models(folder / "models", {name: artifacts.artifact(name) for name in SERVED})
    with running(models, folder) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """A connection pool to `server`."""
    with server.client() as opened:
        yield opened
