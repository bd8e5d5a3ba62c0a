"""What keeps the service from starting is one sentence that names what to change; exit code 1, or 2 for wrong usage."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service import __main__
from tests import forked
from tests.server import link_models

SERVICE_LINK_HINT = " (the value looks like a Kubernetes service link; set enableServiceLinks: false)"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: str) -> int:
    """Calls the command in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["glassblock-serve", *arguments])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "GLASSBLOCK_MAX_BODY_BYTE",
            "3",
            "unknown environment variable GLASSBLOCK_MAX_BODY_BYTE; did you mean GLASSBLOCK_MAX_BODY_BYTES?",
        ),
        (
            "GLASSBLOCK_MAX_IN_FLIGHT",
            "0",
            "--max-in-flight (GLASSBLOCK_MAX_IN_FLIGHT): Input should be greater than or equal to 1",
        ),
        (
            "GLASSBLOCK_HTTP_PORT",
            "99999",
            "--http-port (GLASSBLOCK_HTTP_PORT): Input should be less than or equal to 65535",
        ),
        (
            "GLASSBLOCK_PROVIDER",
            "tpu",
            "--provider (GLASSBLOCK_PROVIDER): Input should be 'cpu' or 'cuda'",
        ),
        (
            "GLASSBLOCK_HTTP_PORT",
            "tcp://10.0.0.1:80",
            "--http-port (GLASSBLOCK_HTTP_PORT): Input should be a valid integer, unable to parse string as an integer"
            + SERVICE_LINK_HINT,
        ),
    ],
)
def test_a_wrong_variable_is_one_line_that_names_flag_and_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, sentence: str
) -> None:
    assert run_main(monkeypatch, "serve", **{variable: value}) == 1
    assert capsys.readouterr() == ("", f"glassblock-serve: {sentence}\n")


def test_a_wrong_flag_value_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "serve", "--threads=-1") == 1
    sentence = "--threads (GLASSBLOCK_THREADS): Input should be greater than or equal to 0"
    assert capsys.readouterr() == ("", f"glassblock-serve: {sentence}\n")


def test_an_unknown_flag_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "serve", "--nope=1") == 2
    assert capsys.readouterr().err.endswith("glassblock-serve: error: unrecognized arguments: --nope=1\n")


def test_an_unknown_command_is_answered_with_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "bogus") == 2
    assert capsys.readouterr() == ("", __main__.USAGE)


def test_help_is_the_usage_and_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["glassblock-serve", "--help"])
    __main__.main()
    assert capsys.readouterr() == (__main__.USAGE, "")


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"glassblock-serve: {sentence}\n")


def test_a_port_in_use_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = forked.run(tmp_path, "serve", f"--models={tmp_path}", f"--http-port={port}")
    assert_refused(
        done, f"cannot listen on 127.0.0.1 port {port}: Address already in use; set --http-host or --http-port"
    )


def test_an_address_that_is_not_this_machines_stops_the_start(tmp_path: Path) -> None:
    done = forked.run(tmp_path, "serve", "--http-host=192.0.2.1", "--http-port=0")
    assert_refused(
        done,
        "cannot listen on 192.0.2.1 port 0: Cannot assign requested address; set --http-host or --http-port",
    )


def test_a_missing_models_folder_stops_the_start(tmp_path: Path) -> None:
    done = forked.run(tmp_path, "serve", f"--models={tmp_path}/none", "--http-port=0")
    assert_refused(done, f"no models folder at {tmp_path}/none; make one with glassblock-export, or set --models")


def test_an_empty_models_folder_stops_the_start(tmp_path: Path) -> None:
    done = forked.run(tmp_path, "check", f"--models={tmp_path}")
    assert_refused(done, f"no model in {tmp_path}; make one with glassblock-export")


def test_cuda_without_a_cuda_build_stops_the_start_instead_of_falling_back(
    tmp_path: Path, artifact: Callable[[str], Path]
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    done = forked.run(tmp_path, "serve", f"--models={models}", "--provider=cuda", "--http-port=0")
    assert_refused(done, "provider cuda is not in this build of onnxruntime; install the gpu extra or use cpu")


def test_check_answers_each_golden_request_and_ignores_the_service_links_of_kubernetes(
    tmp_path: Path, artifact: Callable[[str], Path]
) -> None:
    models = link_models(tmp_path / "models", {name: artifact(name) for name in ("tiny", "head-256")})
    links = {
        "GLASSBLOCK_PORT": "tcp://10.0.0.1:80",
        "GLASSBLOCK_SERVICE_HOST": "10.0.0.1",
        "GLASSBLOCK_SERVICE_PORT_HTTP": "80",
        "GLASSBLOCK_PORT_80_TCP_ADDR": "10.0.0.1",
        "GLASSBLOCK_GATEWAY_SERVICE_HOST": "10.0.0.2",
        "GLASSBLOCK_GATEWAY_PORT_8000_TCP": "tcp://10.0.0.2:8000",
    }
    command = [sys.executable, "-m", "service", "check", f"--models={models}"]
    done = subprocess.run(command, env={**os.environ, **links}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.rpartition(" within ")[0] for line in done.stdout.splitlines()]
    errors = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()]
    assert names == [f"{name} 1 CPUExecutionProvider golden answer" for name in ("head-256", "tiny")]
    assert all(0 <= error < 1e-5 for error in errors)


def test_check_exits_with_1_when_an_answer_is_not_the_golden_one(
    tmp_path: Path, artifact: Callable[[str], Path]
) -> None:
    folder = tmp_path / "models" / "tiny" / "1"
    folder.parent.mkdir(parents=True)
    _copy_with_another_answer(artifact("tiny"), folder)
    done = forked.run(tmp_path, "check", f"--models={tmp_path / 'models'}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"glassblock-serve: {folder}: block_output is ")
    assert " from the golden answer, the manifest allows " in done.stderr
    assert done.stderr.count("\n") == 1


def _copy_with_another_answer(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["golden"]["answer"]["block_output"][0][0][0] += 1
    (target / "manifest.json").write_text(json.dumps(manifest))
