"""A server's process, forked from one that has imported the service already: its own `main`, a second sooner."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["service.__main__", "tests.forked"])


def start(
    program: str, words: Sequence[str], environment: Mapping[str, str], stdout: Path, stderr: Path
) -> BaseProcess:
    """Starts a module's `main` with these words behind its name, as `python -m program` would.

    Args:
        program: a module with a function `main`.
        words: the command line.
        environment: all of its variables.
        stdout: file that takes its log.
        stderr: file that takes its banner.
    """
    process = _FORKS.Process(target=_run, args=(program, words, dict(environment), stdout, stderr), daemon=True)
    process.start()
    return process


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, which is expected to end by itself within 20 s.

    Args:
        folder: where its output is kept.
        words: the command line.
        variables: what the environment has beside its own.
    """
    stdout, stderr = folder / ".stdout", folder / ".stderr"  # no model's name begins with a dot
    process = start("service.__main__", words, {**os.environ, **variables}, stdout, stderr)
    process.join(20)
    code = process.exitcode
    process.kill()
    assert code is not None, "it did not end"
    return subprocess.CompletedProcess(words, code, stdout.read_text("utf-8"), stderr.read_text("utf-8"))


def _run(program: str, words: Sequence[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *words]
    import_module(program).main()
