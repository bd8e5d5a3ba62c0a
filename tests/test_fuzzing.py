"""schemathesis finds nothing: every answer is as docs/openapi.json says, for what it allows and what it forbids."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing.__main__ import command
from tests.fuzzing.documents import ROOT, Document, as_it_stands, fitted
from tests.server import Server


@pytest.mark.parametrize(
    ("document", "flags"),
    [
        (as_it_stands(), ["--phases=examples,coverage", "--exclude-path-regex=/versions/"]),
        (fitted(), ["--phases=fuzzing", "--mode=positive", "--max-examples=5"]),
    ],
    ids=lambda value: value["info"]["title"] if isinstance(value, dict) else "",
)
def test_a_short_run_finds_nothing(server: Server, tmp_path: Path, document: Document, flags: list[str]) -> None:
    run = command(document, server.url, tmp_path, "--generation-deterministic", *flags)
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout.partition("Test cases:")[2]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_over_both_documents_finds_nothing() -> None:
    run = [sys.executable, "-m", "tests.fuzzing", "2"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("No issues found") == 4
