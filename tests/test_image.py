"""The container image, built by `make image`, run by a real engine as docs/operations.md says, and worse."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.client import Client
from service import __version__
from tests.artifacts import make_my_block
from tests.container import HARDENED, IMAGE, Container, docker, mount, output_of, started
from tests.service.test_float_text import VZEROUPPER
from tests.test_minilm_over_http import SENTENCES, distance, oracle

pytestmark = pytest.mark.docker
MAX_FIRST_ANSWER_S = 3.0
TOLERANCE = 1e-5
IN_THE_WAY = """
import importlib.util, pathlib, shutil
modules = ["torch", "onnx", "transformers", "pip", "setuptools", "ensurepip", "huggingface_hub", "export", "pytest"]
programs = ["pip", "pip3", "cc", "gcc", "clang", "zig", "make", "ld", "glassblock-export"]
folders = ["/root/.cache", "/requirements", "/runtime", "/service", "/source"]
print([name for name in modules if importlib.util.find_spec(name)] + [name for name in programs if shutil.which(name)]
      + [name for name in folders if pathlib.Path(name).exists()])
"""
# A process that reaches out dies on the spot: connect, a datagram with an address, several datagrams.
NO_WAY_OUT = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["connect", "sendmmsg"], "action": "SCMP_ACT_KILL_PROCESS"},
        {
            "names": ["sendto"],
            "action": "SCMP_ACT_KILL_PROCESS",
            "args": [{"index": 4, "value": 0, "op": "SCMP_CMP_NE"}],
        },
    ],
}
KILLED = 128 + 31  # SIGSYS
LONG_REQUEST = {"input_ids": [[101, *[2054] * 510, 102]] * 8}


@pytest.fixture(scope="module")
def served() -> Iterator[Container]:
    """A container with nothing mounted, its health looked at every second."""
    with started("--health-interval", "1s") as container:
        container.wait_until_ready()
        yield container


def test_the_image_is_configured_as_promised() -> None:
    config = json.loads(output_of("image", "inspect", "--format", "{{json .Config}}", IMAGE))
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["glassblock-serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"8000/tcp": {}}
    assert {"GLASSBLOCK_HTTP_HOST=0.0.0.0", "GLASSBLOCK_MODELS=/models"} <= set(config["Env"])
    assert config["Labels"] == {
        "org.opencontainers.image.title": "Glassblock",
        "org.opencontainers.image.description": "Serve transformer blocks you can see through",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": __version__,
    }


def test_the_image_holds_nothing_to_build_or_install_with() -> None:
    run = ("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python", IMAGE, "-c")
    assert output_of(*run, IN_THE_WAY) == "[]"


def test_it_runs_as_nobody_without_capabilities_and_can_write_nowhere_but_tmp(served: Container) -> None:
    status = served.run("print(open('/proc/1/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["65532"] * 4
    assert (fields["CapEff"], fields["CapBnd"], fields["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    program = "import os; print([p for p in ('/', '/models', '/usr', '/var/tmp', '/tmp') if os.access(p, os.W_OK)])"
    assert served.run(program) == "['/tmp']"


def test_it_answers_as_transformers_does(served: Container) -> None:
    with Client(served.url, "minilm") as client:
        output, cache = client.run_with_cache(SENTENCES, ["attention_weights"])
    for row, sentence in enumerate(SENTENCES):
        want = oracle(sentence)
        assert distance(output[row], want["hidden_states"][6]) <= TOLERANCE
        for layer in range(6):
            assert distance(cache[f"layers.{layer}.attention_weights"][row], want["attentions"][layer]) <= TOLERANCE


def test_its_library_runs_on_every_processor_of_its_platform(served: Container) -> None:
    program = "from service.codec.float_text import LIBRARY; print(LIBRARY.read_bytes().hex())"
    assert VZEROUPPER not in bytes.fromhex(served.run(program))


def test_it_turns_healthy(served: Container) -> None:
    _wait_until_its_health_is("healthy", served)


def test_it_turns_healthy_where_it_listens_at_one_address_alone() -> None:
    with started("--env", "GLASSBLOCK_HTTP_HOST=127.0.0.2", "--health-interval", "1s") as container:
        _wait_until_its_health_is("healthy", container)


def test_a_container_that_does_not_listen_is_unhealthy() -> None:
    options = ("--health-interval", "1s", "--health-retries", "1", "--health-start-period", "1ms")
    with started(*options, arguments=["--http-port", "0"]) as container:  # another port than the variable says
        _wait_until_its_health_is("unhealthy", container)


def _wait_until_its_health_is(wanted: str, container: Container) -> None:
    end_s = time.monotonic() + 30
    while (health := container.inspect("{{.State.Health.Status}}")) != wanted:
        assert time.monotonic() < end_s, health
        time.sleep(0.2)


@pytest.mark.timeout(180)
def test_the_first_answer_comes_within_three_seconds_of_docker_run() -> None:
    seconds: list[float] = []
    while len(seconds) < 5 and min(seconds, default=60.0) > MAX_FIRST_ANSWER_S:  # something else may have the machine
        with started() as container, container.client() as client:
            container.wait_until_ready()
            assert client.post("/v1/models/minilm/forward", json={"text": SENTENCES[0]}).is_success
            seconds.append(time.monotonic() - container.started_s)
    assert min(seconds) <= MAX_FIRST_ANSWER_S, seconds


def test_it_never_reaches_out(tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(NO_WAY_OUT), encoding="utf-8")
    # The health check does connect, to the server.
    with started("--security-opt", f"seccomp={profile}", "--no-healthcheck") as container:
        container.wait_until_ready()
        with Client(container.url, "minilm") as client:
            client.run_with_cache(SENTENCES, ["attention_weights"])
        with container.client() as client:
            for path in ("/", "/docs", "/metrics", "/v1/models/minilm", "/openapi.json", "/static/none"):
                client.get(path)
        time.sleep(3)  # a library that reports in the background does so after a while
        assert container.inspect("{{.State.Running}}") == "true"
        output_of("stop", "--time", "30", container.id)
        assert container.inspect("{{.State.ExitCode}}") == "0"


@pytest.mark.parametrize(
    "program",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
    ],
)
def test_what_reaches_out_would_be_killed(program: str, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(NO_WAY_OUT), encoding="utf-8")
    run = ("run", "--rm", "--network", "host", "--security-opt", f"seccomp={profile}", "--entrypoint", "python")
    assert docker(*run, IMAGE, "-c", f"import socket; {program}").returncode == KILLED


def test_docker_stop_lets_a_request_under_way_finish() -> None:
    with started() as container, container.client() as client, ThreadPoolExecutor() as pool:
        container.wait_until_ready()
        answer = pool.submit(client.post, "/v1/models/minilm/forward", json=LONG_REQUEST)
        _wait_until_under_way(container)
        assert not answer.done()
        output_of("stop", "--time", "60", container.id)
        assert answer.result().status_code == 200
        assert np.asarray(answer.result().json()["outputs"]["block_output"]).shape == (8, 512, 384)
        assert container.inspect("{{.State.ExitCode}}") == "0"


def _wait_until_under_way(container: Container) -> None:
    with container.client() as client:
        while "glassblock_in_flight_requests 1.0" not in client.get("/metrics").text:
            time.sleep(0.01)


def test_docker_stop_is_heard_before_the_imports_are_done(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/uvicorn.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with started("--volume", f"{tmp_path}/slow:/slow:ro", "--env", "PYTHONPATH=/slow") as container:
        while docker("logs", container.id).stdout != "importing\n":
            time.sleep(0.05)
        output_of("stop", "--time", "20", container.id)
        assert container.inspect("{{.State.ExitCode}}") == "0"


def test_ones_own_block_is_served_in_place_of_minilm(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(artifact("my-block").parent, tmp_path / "models/my-block")
    with started(*mount(tmp_path / "models")) as container, container.client() as client:
        container.wait_until_ready()
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["my-block"]
        assert_served_as_in_pytorch(container.url, make_my_block())


def assert_served_as_in_pytorch(url: str, module: nn.Module) -> None:
    hidden = [np.random.default_rng(length).standard_normal((length, 16)).astype(np.float32) for length in (1, 7, 64)]
    with Client(url, "my-block") as client:
        output, cache = client.run_with_cache(hidden, ["attention_weights", "gate"])
    for row, states in enumerate(hidden):
        with torch.no_grad():
            want = module(torch.from_numpy(states)[None], torch.ones(1, len(states), dtype=torch.int64))
        for name, got in (("block_output", output), *cache.items()):
            assert distance(got[row], want[name][0].numpy()) <= TOLERANCE


def test_an_empty_models_folder_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    done = docker("run", "--rm", "--network", "none", *HARDENED, *mount(tmp_path / "models"), IMAGE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "glassblock-serve: no model in /models; make one with glassblock-export\n"


def test_a_models_folder_that_may_not_be_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir(mode=0o700)
    done = docker("run", "--rm", "--network", "none", *HARDENED, *mount(tmp_path / "models"), IMAGE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "glassblock-serve: /models: Permission denied\n"


def test_the_commands_and_flags_of_the_service_are_the_images() -> None:
    done = docker("run", "--rm", "--network", "none", *HARDENED, IMAGE, "check", "--threads", "1")
    assert done.stdout.startswith("minilm 1 CPUExecutionProvider golden answer within ")
    assert done.returncode == 0
