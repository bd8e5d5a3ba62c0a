"""The service, whose loads for a client take RELOAD_S, and fail beside each other."""

import threading
from collections.abc import Callable

from service import __main__, app
from service.errors import StartError
from service.repository import Model
from service.settings import Settings

RELOAD_S = 3.0


def main() -> None:
    """`python -m service` with slow loads; those at the start are as ever."""
    load, loading = app.load_models, threading.Lock()

    def load_slowly(settings: Settings, on_death: Callable[[], None], name: str | None = None) -> list[Model]:
        if name is None:
            return load(settings, on_death)
        if not loading.acquire(blocking=False):
            raise StartError("two loads at once")
        threading.Event().wait(RELOAD_S)
        loading.release()
        return load(settings, on_death, name)

    vars(app)["load_models"] = load_slowly
    __main__.main()


if __name__ == "__main__":
    main()
