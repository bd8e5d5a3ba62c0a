"""The models that are served: one that is taken away ends behind the requests that have found it."""

import asyncio
from types import SimpleNamespace
from typing import Any

from service.repository import Repository


class Batcher:
    """Says what it was told."""

    def __init__(self) -> None:
        self.told = list[str]()

    def close(self) -> None:
        self.told.append("close")

    def stop(self) -> None:
        self.told.append("stop")


def served(repository: Repository) -> Any:
    """A model with a request that has found it, and has queued nothing yet."""
    metrics = SimpleNamespace(describe=lambda *_: None, forget=lambda: None)
    spec = SimpleNamespace(name="tiny", version="1")
    model: Any = SimpleNamespace(
        spec=spec, sha256="", provider="cpu", metrics=metrics, batcher=Batcher(), requests={"one"}
    )
    repository.add(model)
    return model


def test_a_model_takes_what_a_request_queues_that_found_it_before_it_was_taken_away() -> None:
    async def scenario() -> None:
        repository = Repository()
        model = served(repository)
        assert repository.remove("tiny") == [model]
        await asyncio.sleep(0.05)
        assert model.batcher.told == []
        model.requests.clear()
        await asyncio.sleep(0.05)
        assert model.batcher.told == ["close"]
        repository.stop()
        assert model.batcher.told == ["close"]

    asyncio.run(scenario())


def test_a_stop_ends_models_that_are_served_and_those_that_are_leaving() -> None:
    async def scenario() -> None:
        repository = Repository()
        leaving = served(repository)
        repository.remove("tiny")
        stays = served(repository)
        repository.stop()
        assert [leaving.batcher.told, stays.batcher.told] == [["stop"], ["stop"]]

    asyncio.run(scenario())
