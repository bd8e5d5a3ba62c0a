"""Command line: `serve` (the default), `check` (load all, answer the golden request, exit), `openapi`."""

import asyncio
import contextlib
import json
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

if os.getpid() == 1:  # in a container, where a signal without a handler is dropped: not while the imports below last
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

import uvicorn

from service import logs
from service.app import Application, load_models, read_fitting
from service.banner import print_banner, say
from service.codec import float_text
from service.connection import with_limits
from service.errors import StartError
from service.memory import collect_seldom, use_one_pool
from service.repository import Repository, check_golden
from service.session import available_threads
from service.settings import Settings, read_settings

USAGE = """usage: glassblock-serve [serve | check | openapi] [--SETTING VALUE ...]

  serve    load the models, listen, answer until SIGTERM (the default)
  check    load the models, answer each one's golden request, exit 0 if all are right
  openapi  print the API's OpenAPI document

glassblock-serve serve --help lists the settings; each is also an environment variable GLASSBLOCK_*.
"""

_OTHER_DESCRIPTORS = 256
_SWITCH_S = 0.001  # of one thread of Python, before another has its turn: docs/decisions/0041


def main() -> None:
    """Entry point; exits with 0 after a clean stop, 1 when the service cannot run, 2 for wrong usage."""
    _hold_descriptors()
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    if command not in {"serve", "check", "openapi"}:
        sys.stderr.write(USAGE)
        sys.exit(2)
    try:
        settings = read_settings(arguments)
        if command == "check":
            sys.exit(check(settings))
        if command == "openapi":
            json.dump(Application(settings).openapi(), sys.stdout, indent=1)
            sys.stdout.write("\n")
            return
        code = 1
        try:
            code = serve(settings)
        finally:  # whatever came: the interpreter's own end waits for threads that wait for work
            if isinstance(error := sys.exc_info()[1], StartError):
                _say(str(error))
            elif error is not None and not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
            _end(code)
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

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings
        self.port = port
        self.exit_code = 0
        self.application = Application(settings, self._ready, self._failed)
        door = self.application.door
        super().__init__(
            uvicorn.Config(
                self.application.asgi,
                host=settings.http_host,
                port=settings.http_port,
                http=with_limits(settings, door.admit, self.application.direct.find, door.coalescing.stir),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
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
            _end(1)
        served = lifecycle.state == "ready"
        lifecycle.state = "draining"
        delay_s = self._settings.drain_delay_s if served and number == signal.SIGTERM else 0.0
        asyncio.get_running_loop().call_later(delay_s, self._close)

    def _close(self) -> None:
        self.application.close()
        self.should_exit = True
        # Now, and not when uvicorn looks, every 0.1 s: an answer until then would promise to leave its connection open.
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def _ready(self, repository: Repository) -> None:
        print_banner(repository, self._settings, self.port, self.application.grpc_port)

    def _failed(self, reason: str) -> None:
        self.exit_code = 1
        self.should_exit = True
        _say(reason)


def serve(settings: Settings) -> int:
    """Serves until a signal comes or the models can no longer be run.

    Raises:
        StartError: the port cannot be had, or there is too little memory.
    """
    use_one_pool()
    collect_seldom()
    sys.setswitchinterval(_SWITCH_S)
    logs.configure(settings.log_level)
    if (settings.threads or available_threads()) > 1:
        float_text.start_helper()
    _allow_descriptors(settings.max_connections)
    with _listen(settings) as listener:
        server = Server(read_fitting(settings, _say), listener.getsockname()[1])
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve([listener]))
    return server.exit_code


def _hold_descriptors() -> None:
    """Opens what of stdin, stdout and stderr is closed, or a socket would get its number, and lines of the log."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _allow_descriptors(connections: int) -> None:
    """Raises the soft limit, often 1,024, to what connections and as many being turned away need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    try:
        return socket.create_server((settings.http_host, settings.http_port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python adds the address, which we say ourselves
        message = f"cannot listen on {settings.http_host} port {settings.http_port}: {reason}"
        raise StartError(f"{message}; set --http-host or --http-port") from None


def _end(code: int) -> NoReturn:
    """Ends the process now: the interpreter's own end waits for a run and aborts in a thread that loads a model."""
    logs.flush()
    os._exit(code)


def _say(sentence: str) -> None:
    say(f"glassblock-serve: {sentence}\n")


if __name__ == "__main__":
    main()
