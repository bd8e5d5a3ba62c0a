"""Command line: `serve` (the default), `check` (load all, answer the golden request, exit)."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator

import uvicorn

from service import logs
from service.app import Application, load_models
from service.banner import print_banner
from service.errors import StartError
from service.repository import Repository, check_golden
from service.settings import Settings, read_settings

USAGE = """usage: glassblock-serve [serve | check] [--SETTING VALUE ...]

  serve   load the models, listen, answer until SIGTERM (the default)
  check   load the models, answer each one's golden request, exit 0 if all are right

glassblock-serve serve --help lists the settings; each is also an environment variable GLASSBLOCK_*.
"""


def main() -> None:
    """Entry point; exits with 0 after a clean stop, 1 when the service cannot run, 2 for wrong usage."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    if command not in {"serve", "check"}:
        sys.stderr.write(USAGE)
        sys.exit(2)
    try:
        settings = read_settings(arguments)
        sys.exit(check(settings) if command == "check" else serve(settings))
    except StartError as error:
        _say(str(error))
        sys.exit(1)


def check(settings: Settings) -> int:
    """Loads every model, layers too, and prints how far each is from its golden answer.

    Raises:
        StartError: a model is not as it should be.
    """
    logs.configure("error")
    for model in load_models(settings.model_copy(update={"layer_graphs": "eager"}), lambda: None):
        error = check_golden(model.runner, model.spec, settings.models / model.spec.name / model.spec.version)
        sys.stdout.write(f"{model.spec.name} {model.spec.version} {model.provider} golden answer within {error:.1e}\n")
    return 0


class Server(uvicorn.Server):
    """Uvicorn, with the drain that its own signal handling leaves out, and exit code 0 after it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.exit_code = 0
        self.application = Application(settings, self._ready, self._failed)
        super().__init__(
            uvicorn.Config(
                self.application.asgi,
                host=settings.http_host,
                port=settings.http_port,
                http="httptools",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                timeout_graceful_shutdown=int(settings.drain_timeout_s) or 1,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM drains, SIGINT stops without delay, a second one of either stops at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        lifecycle = self.application.lifecycle
        if lifecycle.state in {"draining", "closed"}:
            self.force_exit = self.should_exit = True
            self.exit_code = 1
            return
        lifecycle.state = "draining"
        delay_s = self._settings.drain_delay_s if number == signal.SIGTERM else 0.0
        asyncio.get_running_loop().call_later(delay_s, self._close)

    def _close(self) -> None:
        self.application.lifecycle.state = "closed"
        self.should_exit = True

    def _ready(self, repository: Repository) -> None:
        if not self.started:  # a small model may be ready before the listener is
            asyncio.get_running_loop().call_later(0.02, self._ready, repository)
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        print_banner(repository, self._settings, port)

    def _failed(self, reason: str) -> None:
        _say(reason)
        self.exit_code = 1
        self.should_exit = True


def serve(settings: Settings) -> int:
    """Serves until a signal comes or the models can no longer be run."""
    logs.configure(settings.log_level)
    server = Server(settings)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve())
    return server.exit_code


def _say(sentence: str) -> None:
    sys.stderr.write(f"glassblock-serve: {sentence}\n")


if __name__ == "__main__":
    main()
