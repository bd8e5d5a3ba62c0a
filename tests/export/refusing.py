"""Runs a command that is refused, and gives its sentence."""

import signal
import sys
from pathlib import Path

import pytest


def refuse(words: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the command in this process, for torch's sake, and gives the sentence it refuses with."""
    from export.__main__ import main

    arguments = words.split()
    if words and "--name" not in words:
        arguments += ["--name", "x"]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "argv", ["glassblock-export", *arguments, "--models", "models"])
    monkeypatch.delitem(sys.modules, "blocks", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 1
    assert not (folder / "models").is_dir()
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("error: ")
    return sentence.removeprefix("error: ")
