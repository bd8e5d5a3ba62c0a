"""The README's commands, run in this checkout as they stand there; what it shows is what they print."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.server import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def block(language: str, containing: str) -> str:
    return str(next(text for kind, text in BLOCKS if kind == language and containing in text))


def run(script: str, cwd: Path = ROOT, timeout_s: float = 100) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_request_gives_the_answer_shown(server: Server) -> None:
    script = block("sh", "curl").replace("http://127.0.0.1:8000", server.url)
    assert run(script) == block("text", "cat")


def test_the_banner_shows_the_readmes_request(server: Server) -> None:
    banner = server.stderr.read_text()
    request = banner.partition("Try:")[2].strip()
    assert request == block("sh", "curl").replace("http://127.0.0.1:8000", server.url).strip()
    assert re.search(r"minilm .* 1 .* READY", banner)


def test_the_python_example_gives_the_shapes_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    names: dict[str, dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]] = {}
    exec(block("python", "run_with_cache").replace("http://127.0.0.1:8000", server.url), names)  # noqa: S102
    assert names["cache"]["layers.5.attention_weights"][1].shape == (12, 5, 5)
    assert names["cache"]["layers.0.query"][0].shape == (6, 12, 32)


def test_the_intervention_shown_takes_the_head_away(client: httpx.Client) -> None:
    (shown,) = re.findall(r'`("interventions": \{.*?\}\})`', README)
    body = {"text": "The cat sat.", "outputs": ["layers.5.context"], **json.loads(f"{{{shown}}}")}
    answer = client.post("/v1/models/minilm/forward", json=body).json()
    context = np.array(answer["outputs"]["layers.5.context"][0])
    assert (context == 0).all(axis=(0, 2)).tolist() == [head == 11 for head in range(12)]


def test_the_error_shown_is_the_servers(server: Server) -> None:
    with server.client() as client:
        answer = client.post("/v1/models/minilm/forward", json={"hidden_states": [[[1, 2]]]}).json()
    assert f'"error": "{answer["error"]}", "code": "{answer["code"]}"' in README


@pytest.mark.long
def test_your_own_block_goes_from_python_to_a_model(tmp_path: Path) -> None:
    script = block("sh", "my_block:MyBlock").replace("../../models", str(tmp_path))
    script = script.replace("cd examples/my_block", f"cp -r examples/my_block {tmp_path}/code && cd {tmp_path}/code")
    run(script)
    assert (tmp_path / "my-block/1/manifest.json").exists()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_range_of_a_folders_layers_becomes_a_model(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(
        n_layer=6, n_embd=8, n_head=2, n_positions=8, vocab_size=5, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    run(block("sh", "./gpt2"), tmp_path, timeout_s=280)
    manifest = json.loads((tmp_path / "models/gpt2-3-6/1/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["source"]["kind"], manifest["source"]["layers"]) == ("gpt2", [3, 6])


@pytest.mark.long
def test_locust_with_its_page_loads_a_running_server(server: Server) -> None:
    command = block("sh", "locustfile.py").splitlines()[1].replace(".venv-locust/bin/locust", "locust")
    page = "--web-host 127.0.0.1 --web-port 0 --autostart --autoquit 0"
    short = "--users 2 --spawn-rate 2 --run-time 4s --model minilm --min-rate 0.1 --max-p99-ms 30000"
    printed = run(f"{command.replace('http://127.0.0.1:8000', server.url)} {page} {short} 2>&1")
    assert re.search(r"^POST +minilm: \w+ +[1-9]", printed, re.MULTILINE)
    assert "Shutting down (exit code 0)" in printed


@pytest.fixture
def make_serve(tmp_path: Path) -> Iterator[str]:
    """`make serve` in this checkout, with the interpreter that runs the tests, on a free port."""
    with (tmp_path / "stderr").open("wb") as err:
        process = subprocess.Popen(
            ["make", "serve"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True,
            env={**ENVIRONMENT, "GLASSBLOCK_HTTP_PORT": "0"},
        )  # fmt: skip
    try:
        for _ in range(900):
            if found := re.search(r"ready +(http://\S+)/readyz", (tmp_path / "stderr").read_text()):
                yield found[1]
                break
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["make load", "make load-open RATE=20"])
def test_the_load_tests_pass_against_a_server_of_their_own(command: str) -> None:
    assert f"\n{command} " in README
    run(f"{command} TIME=5", timeout_s=280)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_make_serve_answers_the_readmes_request(make_serve: str) -> None:
    assert run(block("sh", "curl").replace("http://127.0.0.1:8000", make_serve)) == block("text", "cat")
