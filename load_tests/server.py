"""A model to load and a server of it: both commands of the product, run as a person would run them."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

MODEL = "block-768"
SIZES = {"hidden-size": 768, "num-attention-heads": 12, "intermediate-size": 3072}
START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready.

    Attributes:
        address: host:port.
        pid: of its one process, for what it costs.
    """

    address: str
    pid: int


def export_model(models: Path, name: str = MODEL, **sizes: int) -> Path:
    """Exports a seeded block, of 768/12/3072 unless told otherwise; returns its version folder."""
    flags = [f"--{flag.replace('_', '-')}={size}" for flag, size in (SIZES | sizes).items()]
    command = [sys.executable, "-m", "export", "--source=random", f"--name={name}", f"--models={models}", *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return models / name / "1"


@contextmanager
def running_server(
    models: Path, folder: Path, cores: frozenset[int] | None = None, program: str = "service", **settings: object
) -> Iterator[RunningServer]:
    """A server on a free port, stopped at the end.

    Args:
        models: the models folder.
        folder: where its banner is kept.
        cores: those it may use; without, those of this process.
        program: the module that is run.
        settings: the server's flags, such as `threads=2`.

    Raises:
        RuntimeError: it did not become ready; holds what it said.
    """
    process = start_server(models, folder / "banner", cores, program, **settings)
    try:
        yield RunningServer(wait_until_ready(process, folder / "banner"), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_server(
    models: Path, banner: Path, cores: frozenset[int] | None = None, program: str = "service", **settings: object
) -> subprocess.Popen[bytes]:
    """Starts a server, on a free port unless `http_port` is among the settings; its banner goes into the file."""
    named = {"http_port": 0, **settings}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
    with banner.open("wb") as err, _pinned(cores):
        return subprocess.Popen(
            [sys.executable, "-m", program, f"--models={models}", *flags], stdout=subprocess.DEVNULL, stderr=err
        )


@contextmanager
def default_server(address: str | None) -> Iterator[str]:
    """The host:port given, or that of a server of the default model, exported to models/ if it is not there."""
    if address:
        yield address
        return
    models = Path("models")
    subprocess.run([sys.executable, "-m", "export", "--default", f"--models={models}"], check=True)
    with tempfile.TemporaryDirectory() as folder, running_server(models, Path(folder)) as server:
        yield server.address


@contextmanager
def _pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """What is started inside inherits these cores from its first thread on."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def wait_until_ready(process: subprocess.Popen[bytes], banner: Path) -> str:
    """The address of a server once it is ready, host:port.

    Raises:
        RuntimeError: it did not become ready; holds what it said.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if found := re.search(r"ready +(http://\S+)/readyz", banner.read_text()):
            return urlsplit(found[1]).netloc
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start: {banner.read_text()}")
