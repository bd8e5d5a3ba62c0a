"""pytest's processes, forked from one that has imported what they need: each by itself would take seconds for it.

pytest-xdist has execnet start a process as `PYTHON -u -c SOURCE`, whose orders come through standard input. Here
PYTHON is `python tests/workers.py ask SOCKET`: it passes its descriptors to the process that has the imports, which
runs SOURCE with them in a fork of itself, and ends when that has ended.

The first one reads the tests before the others begin, which find them compiled; models are exported meanwhile.
"""

import gc
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
READ = "TESTS_READ"  # the variable with the file that is there once a process has read the tests
_END_S = 2  # for processes that have been told to
_READ_S = 20  # after which the others do not wait for it any more


@contextmanager
def forking() -> Iterator[list[str]]:
    """What execnet runs for `python`, and, behind it, the process that forks: it also makes the models that are served.

    Yields:
        the command's words.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = str(Path(folder) / "socket")
        listener.bind(place)
        listener.listen()
        server = [sys.executable, __file__, "fork", str(listener.fileno())]
        variables = {**os.environ, READ: str(Path(folder) / "read")}
        with subprocess.Popen(server, cwd=ROOT, env=variables, stdin=subprocess.PIPE, pass_fds=[listener.fileno()]):
            listener.close()  # its own alone: if it fails, nobody waits for it
            yield [sys.executable, "-S", __file__, "ask", place]


def _ask(place: str, source: str) -> None:
    with socket.socket(socket.AF_UNIX) as fork:
        fork.connect(place)
        socket.send_fds(fork, [source.encode()], [0, 1, 2])
        os.closerange(0, 2)  # the fork's alone now: execnet sees by them when it ends
        fork.recv(1)


def _serve(listener: socket.socket) -> None:
    """Forks as asked, until standard input ends: `forking` has its other end."""
    sys.path[0] = str(ROOT)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    _fork(_fetch)
    gc.disable()
    import onnxscript  # noqa: F401
    import torch.onnx  # noqa: F401

    exports = _fork(_export)
    import grpc  # noqa: F401
    import httpx  # noqa: F401
    import playwright.sync_api  # noqa: F401

    import export.__main__  # noqa: F401
    import service.__main__  # noqa: F401

    gc.freeze()  # a fork need not look through all that
    forked = False
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        asked, _ = listener.accept()
        if forked:
            _wait_until_read()
        _fork(lambda: _work(asked))  # noqa: B023  # it runs at once
        asked.close()
        forked = True
    _end(exports)


def _end(group: int) -> None:
    """Ends what makes models, which removes what is half made; a lane of it would outlive that, and keep its locks."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        for _ in range(_END_S * 20):
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


def _wait_until_read() -> None:
    deadline_s = time.monotonic() + _READ_S
    while not Path(os.environ[READ]).exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)


def _fork(run: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run()
    except Exception:  # noqa: BLE001 - it ends here, whatever it is
        traceback.print_exc()
    finally:
        os._exit(0)


def _work(asked: socket.socket) -> None:
    source, descriptors, *_ = socket.recv_fds(asked, 1 << 16, 3)
    for descriptor, received in enumerate(descriptors):
        os.dup2(received, descriptor)
        os.close(received)
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(source, main.__dict__)  # noqa: S102


def _fetch() -> None:
    from tests import artifacts

    if artifacts.missing():
        _log()
        artifacts.fetch_minilm()


def _export() -> None:
    from tests import artifacts

    os.setpgid(0, 0)
    if artifacts.missing():
        _log()
        artifacts.make_missing()


def _log() -> None:
    """Has standard output and error written to the log that pytest's own output names."""
    from tests import artifacts

    artifacts.store().mkdir(parents=True, exist_ok=True)
    log = os.open(artifacts.store() / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        _ask(sys.argv[2], sys.argv[-1])
    else:
        _serve(socket.socket(fileno=int(sys.argv[2])))
