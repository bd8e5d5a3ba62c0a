"""The ceiling: `session.run` of the very graphs that are served, at the same shapes, without a server.

S1 runs one sequence at a time, as one connection makes any server do. Elsewhere the best of several batch sizes counts:
equal lengths are stacked; lengths of S3 run one by one unpadded, or sorted by length in padded batches.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

from load_tests.formats import ATTENTION, OUTPUT
from load_tests.scenarios import Float32Array, Scenario

onnxruntime.disable_telemetry_events()

VERSION: str = onnxruntime.__version__  # of the package's metadata there are two names: docs/decisions/0005
THREADS = len(os.sched_getaffinity(0))  # of a run, for every server and the ceiling
PROVIDERS: dict[str, Any] = {
    "cpu": "CPUExecutionProvider",
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}
BLOCK, LAYER, LAYER_OUTPUT = "block.onnx", "layer.onnx", "layer_output"


@dataclass(frozen=True, slots=True)
class Raw:
    """What one slice of raw runs gave.

    Attributes:
        requests: sequences run.
        tokens: positions of these sequences, padding not counted.
        seconds: of the slice.
        cpu_s: of this process within the slice, onnxruntime's threads included.
        calls_s: of each `session.run`.
    """

    requests: int
    tokens: int
    seconds: float
    cpu_s: float
    calls_s: list[float]


def lay_out_graphs(version_folder: Path, folder: Path) -> Path:
    """Both graphs of a one-layer export beside their weights: what every peer and the ceiling open by path."""
    folder.mkdir(parents=True)
    shutil.copy(version_folder / "model.onnx", folder / BLOCK)
    shutil.copy(version_folder / "layers" / "0.onnx", folder / LAYER)
    shutil.copy(version_folder / "weights.data", folder)
    return folder


class Ceiling:
    """Raw sessions of both graphs, with as many threads as the servers take.

    Args:
        folder: made by `lay_out_graphs`.
        provider: a key of PROVIDERS.
    """

    def __init__(self, folder: Path, provider: str = "cpu") -> None:
        if provider == "cuda":
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        # It shares the machine with the server in turn: a pool that went on spinning would slow the server's slice.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = [PROVIDERS[provider]]
        self._block = onnxruntime.InferenceSession(str(folder / BLOCK), options, providers=providers)
        self._layer = onnxruntime.InferenceSession(str(folder / LAYER), options, providers=providers)
        self.hidden_size: int = self._block.get_inputs()[0].shape[2]

    def answers(self, scenario: Scenario) -> list[dict[str, Float32Array]]:
        """Every request's right answer: each sequence alone."""
        names = output_names(scenario)
        return [
            {name: array[0] for name, array in zip(names, self._runner(scenario, [sequence])(), strict=True)}
            for sequence in scenario.sequences(self.hidden_size)
        ]

    def measure(self, scenario: Scenario, batch_size: int, least_s: float) -> Raw:
        """Runs the scenario's whole cycle, again and again for at least so long, in batches of this size."""
        ordered = sorted(scenario.sequences(self.hidden_size), key=len)
        batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
        runs = [self._runner(scenario, batch) for batch in batches]
        runs[0](), runs[-1]()
        calls_s: list[float] = []
        cycles, start_s, start_cpu_s = 0, time.perf_counter(), time.process_time()
        while not cycles or time.perf_counter() - start_s < least_s:
            calls_s += [_timed(run) for run in runs]
            cycles += 1
        seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        return Raw(cycles * len(ordered), cycles * sum(scenario.lengths), seconds, cpu_s, calls_s)

    def _runner(self, scenario: Scenario, batch: list[Float32Array]) -> Callable[[], list[Any]]:
        feeds = _pad(batch)
        if scenario.attention:
            return lambda: self._layer.run([LAYER_OUTPUT, ATTENTION], feeds)
        return lambda: self._block.run([OUTPUT], feeds)


def output_names(scenario: Scenario) -> tuple[str, ...]:
    """What a scenario asks for."""
    return (OUTPUT, ATTENTION) if scenario.attention else (OUTPUT,)


def _pad(batch: list[Float32Array]) -> dict[str, Any]:
    longest = max(map(len, batch))
    hidden_states = np.zeros((len(batch), longest, batch[0].shape[1]), np.float32)
    mask = np.zeros((len(batch), longest), np.int64)
    for row, sequence in enumerate(batch):
        hidden_states[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return {"hidden_states": hidden_states, "attention_mask": mask}


def _timed(run: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s
