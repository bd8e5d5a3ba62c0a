"""The README's Docker commands, run as they stand there but for the port; `make image` has run before."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.artifacts import make_my_block
from tests.container import DOCKER, HARDENED, IMAGE, docker, free_port, wait_until_ready
from tests.test_image import assert_served_as_in_pytorch
from tests.test_readme import ROOT, block, run

pytestmark = pytest.mark.docker


def test_the_documents_show_the_flags_that_are_tested() -> None:
    for page in ("README.md", "docs/operations.md"):
        assert " ".join(HARDENED) in (ROOT / page).read_text(encoding="utf-8")


def for_this_engine(command: str, port: int) -> str:
    """The README's command, with a free port of the host in place of a published one."""
    where = f"--network host -e GLASSBLOCK_HTTP_HOST=127.0.0.1 -e GLASSBLOCK_HTTP_PORT={port}"
    return (
        command.replace("-p 8000:8000", where)
        .replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        .replace("docker run", f"{DOCKER} run")
        .replace(" glassblock\n", f" {IMAGE}\n")
    )


def test_the_readmes_docker_run_answers_the_readmes_request() -> None:
    port = free_port()
    command = next(line for line in block("sh", "make image").splitlines(keepends=True) if "docker run" in line)
    process = subprocess.Popen(shlex.split(for_this_engine(command.partition("#")[0].strip() + "\n", port)))
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        assert run(for_this_engine(block("sh", "curl"), port)) == block("text", "cat")
    finally:
        process.terminate()
    assert process.wait(30) == 0


@pytest.mark.timeout(240)
def test_the_readmes_five_commands_lead_from_python_to_a_container(tmp_path: Path) -> None:
    """The first of the five, make image, has run before this file; see the Makefile."""
    shutil.copytree(ROOT / "examples/my_block", tmp_path / "examples/my_block")
    port = free_port()
    script = block("sh", "my_block:MyBlock") + for_this_engine(block("sh", '-v "$PWD/models:/models"'), port)
    container = ""
    try:
        script = script.replace(". .venv/bin/activate\n", "")
        *_, container, answer = run(script, cwd=tmp_path, timeout_s=200).splitlines()
        assert np.asarray(json.loads(answer)["outputs"]["block_output"]).shape == (1, 2, 16)
        module = make_my_block()
        module.load_state_dict(load_file(tmp_path / "examples/my_block/my_block.safetensors"))
        assert_served_as_in_pytorch(f"http://127.0.0.1:{port}", module)
    finally:
        docker("rm", "--force", container)
