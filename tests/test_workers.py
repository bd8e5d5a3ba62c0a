"""The process that makes models for the tests ends with them, and holds no lock that the next run waits for."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import workers

# A process that ends when told to, and one of its group that does not, as a lane in which the exporter has run.
_GROUP = """
import os, signal, sys, time
if not os.fork():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w").close()
time.sleep(60)
"""


def test_what_makes_models_ends_with_all_its_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_END_S", 1)
    ready, command = tmp_path / "ready", [sys.executable, "-c", _GROUP, str(tmp_path / "ready")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        while not ready.exists():
            assert process.poll() is None
        workers._end(process.pid)
        assert process.wait(5) == -signal.SIGTERM
        assert process.stdout
        assert os.read(process.stdout.fileno(), 1) == b""  # nobody has its other end any more
