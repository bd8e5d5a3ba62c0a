"""What becomes of CUDA's errors, as far as it takes no device to tell; on one: tests/gpu."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import app, session
from service.app import load_models
from service.edit import Edits
from service.errors import DeviceLostError, StartError, UnavailableError
from service.layers import LOAD_AGAIN_S, Layers
from service.manifest import read_manifest
from service.session import Session, Stop, first_line
from service.settings import read_settings

# In onnxruntime's form.
CUDA_ERROR = (
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 "
    "std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) "
    "[with ERRTYPE = cudaError; bool THRW = true] CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; "
    "hostname=box ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/x.cc ; line=305 ; expr=cudaSetDevice(0); "
)


@pytest.fixture
def as_if_on_cuda(artifact: Callable[[str], Path]) -> Session:
    """A session of the CPU that takes itself for one of CUDA."""
    folder = artifact("tiny")
    graph, weights = ((folder / name).read_bytes() for name in ("model.onnx", "weights.data"))
    made = Session(graph, weights, "cpu", 1, "model.onnx")
    made.provider = "CUDAExecutionProvider"
    return made


def run(on: Session, mask: type[np.generic] = np.int64, stop: Stop | None = None) -> None:
    feeds: dict[str, NDArray[Any]] = {
        "hidden_states": np.ones((1, 2, 8), np.float32),
        "attention_mask": np.ones((1, 2), mask),
    }
    on.run(["block_output"], feeds, stop)


def test_cudas_reason_is_told_without_host_and_source() -> None:
    assert first_line(RuntimeError(CUDA_ERROR)) == "CUDA failure 100: no CUDA-capable device is detected"


def test_a_failed_run_is_the_loss_of_the_device_where_cuda_says_so(
    as_if_on_cuda: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_is_device_lost", lambda: True)
    run(as_if_on_cuda)
    with pytest.raises(DeviceLostError):
        run(as_if_on_cuda, np.bool_)


def test_a_failed_run_is_that_runs_alone_where_the_device_goes_on(
    as_if_on_cuda: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_is_device_lost", lambda: False)
    with pytest.raises(session.ERRORS, match="Unexpected input data type") as failed:
        run(as_if_on_cuda, np.bool_)
    assert not isinstance(failed.value, DeviceLostError)
    run(as_if_on_cuda)


def test_of_a_run_that_was_told_to_end_the_device_is_not_asked(
    as_if_on_cuda: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_is_device_lost", lambda: True)
    stop = Stop()
    stop.stop()
    with pytest.raises(session.ERRORS, match="terminate") as failed:
        run(as_if_on_cuda, stop=stop)
    assert not isinstance(failed.value, DeviceLostError)


@pytest.mark.parametrize(
    "reason",
    [
        "Failed to allocate memory for requested buffer of size 402653184",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    ],
)
def test_a_lack_of_memory_is_known_whoever_tells_it(
    as_if_on_cuda: Session, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError(reason)

    monkeypatch.setattr(session, "_is_device_lost", lambda: False)
    monkeypatch.setattr(as_if_on_cuda, "_session", Full())
    with pytest.raises(MemoryError, match=reason):
        run(as_if_on_cuda)


UNREADABLE = StartError("too many open files")
UNREADABLE.__cause__ = OSError("too many open files")


@pytest.mark.parametrize(
    ("passing", "message", "code"),
    [
        (MemoryError(), "out of memory", "out_of_memory"),
        (OSError("I/O error"), "the log says why", "layers_unavailable"),
        (UNREADABLE, "the log says why", "layers_unavailable"),
    ],
    ids=["memory", "a read", "an open"],
)
def test_layers_that_lacked_something_just_then_are_loaded_a_while_later_and_not_for_every_request_until_then(
    artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, passing: Exception, message: str, code: str
) -> None:
    loads: list[list[str]] = []

    def load(graphs: Iterable[str]) -> dict[str, Session]:
        loads.append([*graphs])
        if len(loads) == 1:
            raise passing
        return dict.fromkeys(graphs, as_any)

    as_any: Any = object()
    spec = read_manifest((artifact("tiny") / "manifest.json").read_bytes(), "tiny")
    layers = Layers(spec, load)
    for _ in range(5):
        with pytest.raises(UnavailableError, match=message) as refused:
            layers.prepare(1, Edits([], spec), Stop())
        assert refused.value.code == code
    assert len(loads) == 1
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + LOAD_AGAIN_S)
    layers.prepare(1, Edits([], spec), Stop())
    assert loads == [["layers/0.onnx", "layers/1.onnx"]] * 2


def test_a_lack_of_memory_at_the_start_is_said_in_one_sentence(
    artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "tiny/1/model.onnx: Failed to allocate memory for requested buffer of size 8"

    def load_model(*_: object) -> None:
        raise MemoryError(reason)

    monkeypatch.setattr(app, "load_model", load_model)
    settings = read_settings([f"--models={artifact('tiny').parent.parent}"])
    with pytest.raises(StartError, match=f"^out of memory while loading: {reason}$"):
        load_models(settings, lambda: None, "tiny")
