"""schemathesis finds nothing: every answer is as docs/openapi.json says, for what it allows and what it forbids."""

import subprocess
import sys

import pytest

from tests.fuzzing.documents import ROOT


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_over_both_documents_finds_nothing() -> None:
    run = [sys.executable, "-m", "tests.fuzzing", "1"]  # `make fuzz` looks longer
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("No issues found") == 4
