"""The only import of onnxruntime: providers, threads, and sessions made from verified bytes."""

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import DeviceLostError, StartError
from service.manifest import TensorSpec

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: the wheel sends events by default (docs/decisions/0006)

import onnxruntime

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(3)

# onnxruntime's exceptions share no base but Exception.
ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    MemoryError,
    *(
        kind
        for kind in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
# It fuses a sum with the norm after it where nobody reads the sum, which is so in model.onnx and not in a layer's
# graph, and its kernel adds in another order: the two would differ in the last bit (docs/decisions/0003).
_DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
# What onnxruntime writes before its reason: its own name, numbers, source line and C++ signature.
_ORIGIN = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(/\S+:\d+ .*?\) |\w+\.cc:\d+ \w+ )?")
# What onnxruntime, CUDA and its libraries say where there is not enough of it, on the host or on the device.
_NO_MEMORY = re.compile(r"Failed to allocate memory|bad_alloc|out of memory|ALLOC(ATION)?_FAILED")
_CUDA_SUCCESS, _CUDA_NO_CONTEXT = 0, 201  # this thread has asked nothing of the device yet
_CUDA_REASON = re.compile(r"\bCU\w+ failure \d+: [^;\n]*[^;\s]")
WEIGHTS_FILE = "weights.data"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 rounds products to 10 bits, which is not the float32 that was proven. Each session keeps memory of its own on the
# device: it takes what it asks for and not the next power of two, and can give it back (docs/decisions/0039).
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
}
_GIVE_BACK = "memory.enable_memory_arena_shrinkage", "gpu:0"
_DTYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


def available_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads this process may use: its affinity, cut by the cgroup's CPU quota (v2 `cpu.max`, v1 `cpu.cfs_*`)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return affinity
    if quota in {"max", "-1"}:
        return affinity
    return max(1, min(affinity, int(quota) // int(period)))


class Stop:
    """Ends a run, or several one after another, from another thread.

    Attributes:
        options: of these runs.
        gives_back: whether each leaves to others the memory of the device that it took.
        waits: whether it has to wait: for another's large run, or for graphs that are loaded.
    """

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.gives_back = self.waits = False

    def stop(self) -> None:
        """Has the run fail after the operator that it is at."""
        self.options.terminate = True

    def is_told(self) -> bool:
        """Whether somebody has stopped it."""
        return bool(self.options.terminate)


class Session:
    """One loaded graph.

    Args:
        graph: bytes of the .onnx file, verified by the caller.
        weights: bytes of weights.data, verified by the caller; not needed after the call.
        provider: `cpu` or `cuda`.
        threads: of one run; 0 takes what `available_threads` finds.
        place: file of the graph, for messages.

    Attributes:
        provider: that onnxruntime gave.
        takes_all_cores: whether a run has as many threads as there are cores.

    Raises:
        DeviceLostError: nothing more can be run, by this session or another.
        MemoryError: of the device or the host, there is too little for the weights.
        StartError: onnxruntime refuses the graph, or the provider is not to be had.
    """

    def __init__(self, graph: bytes, weights: bytes, provider: str, threads: int, place: str) -> None:
        wanted = _PROVIDERS[provider]
        if wanted not in onnxruntime.get_available_providers():
            raise StartError(
                f"provider {provider} is not in this build of onnxruntime; install the gpu extra or use cpu"
            )
        if provider == "cuda":
            onnxruntime.preload_dlls()  # NVIDIA's wheels put their libraries where the loader does not look
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_threads()
        self.takes_all_cores = provider == "cpu" and options.intra_op_num_threads >= available_threads()
        # A pool that goes on spinning after its run takes the core from the next session and from the server itself.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.enable_cpu_mem_arena = False  # it would keep the memory of its largest run: docs/decisions/0025
        options.enable_mem_pattern = False  # patterns are kept per input shape, and shapes here never repeat for long
        options.add_external_initializers_from_files_in_memory([WEIGHTS_FILE], [weights], [len(weights)])
        try:
            self._session = onnxruntime.InferenceSession(
                graph,
                options,
                providers=[(wanted, _PROVIDER_OPTIONS[provider])],
                disabled_optimizers=_DISABLED_OPTIMIZERS,
                enable_fallback=0,
            )
        except ERRORS as error:
            if provider == "cuda" and _is_device_lost():
                raise DeviceLostError(f"{place}: {first_line(error)}") from error
            if _NO_MEMORY.search(str(error)):
                raise MemoryError(f"{place}: {first_line(error)}") from error
            raise StartError(f"{place}: onnxruntime refuses it: {first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted:
            message = (
                f"asked for {wanted}, onnxruntime fell back to {self.provider}; it says above what it could not load"
            )
            raise StartError(f"{place}: {message}")

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray[Any, Any]], stop: Stop | None = None
    ) -> list[np.ndarray[Any, Any]]:
        """Runs the graph; feeds are native-endian and C-contiguous.

        Raises:
            DeviceLostError: nothing more can be run, by this session or another.
            MemoryError: onnxruntime could not get the memory; the session stays usable.
        """
        if stop and stop.gives_back and self.provider == _PROVIDERS["cuda"]:
            stop.options.add_run_config_entry(*_GIVE_BACK)
        try:
            results: list[np.ndarray[Any, Any]] = self._session.run(list(outputs), dict(feeds), stop and stop.options)
        except ERRORS as error:
            told = stop is not None and stop.is_told()  # then it has failed for that; the driver waits for all models
            if self.provider == _PROVIDERS["cuda"] and not told and _is_device_lost():
                raise DeviceLostError(first_line(error)) from error
            if _NO_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            raise
        return results

    def check_contract(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], place: str, optional: Sequence[str] = ()
    ) -> None:
        """Holds the graph's tensors against the manifest's: names, order, dtypes, sizes; of optional inputs the names.

        Raises:
            StartError: lists each difference.
        """
        differences = [
            *_differences("input", inputs, self._session.get_inputs()),
            *_differences("output", outputs, self._session.get_outputs()),
        ]
        if (found := [value.name for value in self._session.get_overridable_initializers()]) != list(optional):
            differences.append(f"optional inputs {list(optional)} in the manifest, {found} in the graph")
        if differences:
            raise StartError(f"{place}: differs from manifest.json: {'; '.join(differences)}")


def _is_device_lost() -> bool:
    """Whether CUDA has met an error that it answers every call of this process with, such as an illegal access."""
    return ctypes.CDLL("libcuda.so.1").cuCtxSynchronize() not in {_CUDA_SUCCESS, _CUDA_NO_CONTEXT}


def _differences(kind: str, wanted: Sequence[TensorSpec], found: Sequence[Any]) -> list[str]:
    promised = [(t.name, _DTYPES[t.dtype], t.shape) for t in wanted]
    actual = [(t.name, t.type, [size if isinstance(size, int) else -1 for size in t.shape]) for t in found]
    if promised == actual:
        return []
    lines = [f"{kind} {a} in the manifest, {b} in the graph" for a, b in zip(promised, actual, strict=False) if a != b]
    if len(promised) != len(actual):
        lines.append(f"{len(promised)} {kind}s in the manifest, {len(actual)} in the graph")
    return lines[:4]


def first_line(error: Exception) -> str:
    """Onnxruntime's reason in one line, or CUDA's, without where in its source it arose."""
    if found := _CUDA_REASON.search(str(error)):
        return found[0]
    return (_ORIGIN.sub("", str(error).strip()).splitlines() or [type(error).__name__])[0][:300]
