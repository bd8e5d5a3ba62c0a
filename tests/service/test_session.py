"""Threads from the machine's quota, and a process that talks to nobody but its clients."""

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import onnxruntime
import psutil
import pytest

from service import session
from service.errors import StartError
from service.session import Session, available_threads
from tests.server import link_models, running


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("1600000 100000", 8),
        ("20000 10000", 2),
    ],
)
def test_threads_follow_the_quota_of_cgroup_v2_and_are_at_least_one(tmp_path: Path, quota: str, threads: int) -> None:
    assert available_threads(write(tmp_path, cpu_max=quota)) == threads


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "threads"), [("-1", 8), ("400000", 4), ("50000", 1), ("900000", 8)])
def test_threads_follow_the_quota_of_cgroup_v1_and_are_at_least_one(tmp_path: Path, quota: str, threads: int) -> None:
    folder = write(tmp_path, cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert available_threads(folder) == threads


@pytest.mark.usefixtures("eight_cores")
def test_without_a_cgroup_threads_follow_the_affinity(tmp_path: Path) -> None:
    assert available_threads(tmp_path) == 8


def test_affinity_cuts_a_larger_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert available_threads(write(tmp_path, cpu_max="400000 100000")) == 1


def test_a_provider_that_this_build_lacks_is_refused_in_words() -> None:
    with pytest.raises(StartError) as refused:
        Session(b"", b"", "cuda", 1, "model.onnx")
    message = "provider cuda is not in this build of onnxruntime; install the gpu extra or use cpu"
    assert str(refused.value) == message


def test_telemetry_is_off_before_onnxruntime_is_imported_and_again_after() -> None:
    source = Path(session.__file__).read_text()
    off, imported = source.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"'), source.index("\nimport onnxruntime\n")
    again = source.index("\nonnxruntime.disable_telemetry_events()\n")
    assert off < imported < again
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert callable(onnxruntime.disable_telemetry_events)


@pytest.mark.long
def test_a_server_opens_no_connection_of_its_own(tmp_path: Path, artifact: Callable[[str], Path]) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, layer_graphs="eager") as server, server.client() as client:
        process, port = psutil.Process(server.process.pid), httpx.URL(server.url).port
        for _ in range(60):
            body = {"hidden_states": [[[0.5] * 8]], "outputs": ["attention_weights"]}
            assert client.post("/v1/models/tiny/forward", json=body).status_code == httpx.codes.OK
            sockets = process.net_connections("inet")
            assert {connection.laddr.port for connection in sockets} == {port}
            assert {connection.raddr.ip for connection in sockets if connection.raddr} <= {"127.0.0.1"}
        assert process.children() == []
