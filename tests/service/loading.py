"""Loads version folders in a process of its own, as `check` does, and says of each why it is refused.

`python -m tests.service.loading FOLDER…` prints one JSON line a folder. The process keeps what a broken graph may do to
onnxruntime away from the other tests.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from service.errors import StartError
from service.repository import load_model
from service.settings import read_settings


class Loading(NamedTuple):
    """How the loading of one folder ended: why it was refused (None: it was not), and after how many seconds."""

    refusal: str | None
    seconds: float


def load_all(folders: Mapping[str, Path]) -> dict[str, Loading]:
    """Loads each folder; refusals say `HERE` for it."""
    command = [sys.executable, "-W", "error", "-m", "tests.service.loading", *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {name: Loading(*json.loads(line)) for name, line in zip(folders, done.stdout.splitlines(), strict=True)}


def _load(folder: Path) -> Loading:
    start_s = time.perf_counter()
    refusal = None
    try:
        load_model(folder, read_settings(["--layer-graphs=eager"]), lambda: None)
    except StartError as error:
        refusal = str(error).replace(str(folder), "HERE")
    return Loading(refusal, time.perf_counter() - start_s)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(json.dumps(_load(Path(argument))) + "\n")
