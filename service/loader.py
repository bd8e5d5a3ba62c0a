"""Loads and unloads models while others are served: one load at a time, to its end whoever leaves."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service import logs
from service.errors import NotFoundError, StartError, UnavailableError
from service.memory import give_back
from service.repository import Model, Repository

_log = logs.get("loader")


class Loader:
    """Changes which models are served.

    Args:
        repository: the models.
        load: loads every version of a model from the models folder.
    """

    def __init__(self, repository: Repository, load: Callable[[str], list[Model]]) -> None:
        self._repository = repository
        self._load = load
        self._one = asyncio.Lock()  # two loads at once would need the memory of both
        self._under_way: set[asyncio.Task[None]] = set()

    async def load_anew(self, name: str) -> None:
        """Serves what the models folder holds under a name, in place of what was served; that answers until then.

        Raises:
            UnavailableError: an artifact is not as it should be.
            NotFoundError: the folder has no such model.
        """
        await self._one.acquire()  # who leaves before its turn has come loads nothing
        await self._to_the_end(self._exchange(name))

    async def take_away(self, name: str) -> None:
        """Serves a model no more, and waits until its requests are answered and its memory is given back.

        Raises:
            NotFoundError: no such model.
        """
        self._repository.get(name)
        await self._to_the_end(self._leave(self._repository.remove(name)))

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Awaits work that goes on if who awaits it leaves: a thread that loads cannot be ended."""
        task = asyncio.create_task(work)
        self._under_way.add(task)  # or nobody would refer to it
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _exchange(self, name: str) -> None:
        try:
            thread = ThreadPoolExecutor(1, "load")  # its own, which the end of the process does not wait for
            loading = asyncio.get_running_loop().run_in_executor(thread, self._load, name)
            thread.shutdown(wait=False)
            models = await loading
            if not models:
                raise NotFoundError("no such model in the models folder", code="unknown_model", at="path")
            old = self._repository.remove(name)
            for one in models:
                one.batcher.start()
                self._repository.add(one)
            await self._end(old)
        except StartError as error:
            _log.warning("not loaded", model=name, reason=str(error))  # the client may have left
            raise UnavailableError(str(error), code="not_loaded") from None
        finally:
            self._one.release()

    async def _leave(self, models: list[Model]) -> None:
        async with self._one:  # a load that begins has the memory of those that are gone
            await self._end(models)

    async def _end(self, models: list[Model]) -> None:
        """Waits until their queues have run out, then gives their memory back."""
        while models:  # popped, so that no name here refers to them any more
            await models.pop().batcher.wait_closed()
        await asyncio.to_thread(give_back)
