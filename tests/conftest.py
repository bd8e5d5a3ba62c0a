"""Fixtures that every test may use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

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


@pytest.fixture(scope="session")
def artifact() -> Callable[[str], Path]:
    """The version folder of an exported artifact by its name in tests/artifacts.py; exported on first use."""
    return artifacts.artifact


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every model in SERVED; tests must leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    models = link_models(folder / "models", {name: artifacts.artifact(name) for name in SERVED})
    with running(models, folder, grpc_port=0) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """A connection pool to `server`."""
    with server.client() as opened:
        yield opened
