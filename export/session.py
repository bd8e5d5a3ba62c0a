"""onnxruntime as the proof needs it: a graph of a version folder, opened and run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.probes import POSITIONS

# Must be set before the import: the Linux wheel sends events out by default.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

onnxruntime.disable_telemetry_events()

VERSION: str = onnxruntime.__version__  # of the package's metadata there are two names: docs/decisions/0005
Array = NDArray[Any]
Tensors = dict[str, Array]

# Adds and normalises in another order where nothing reads the sum, so model.onnx would differ from its own layers.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)


def open_graph(folder: Path, path: str) -> Any:
    """A session over one of a version folder's graphs, with the optimisations that the service has.

    onnxruntime reads weights.data itself, a tensor at a time: bytes of ours would lie beside the session's own.
    """
    options = onnxruntime.SessionOptions()
    # Sessions with spinning threads of their own slow each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.enable_cpu_mem_arena = False  # it would keep the memory of its largest run
    options.log_severity_level = 3  # it warns of every optional input
    return onnxruntime.InferenceSession(
        (folder / path).read_bytes(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(DISABLED_OPTIMIZERS),
    )


def run_graph(session: Any, hidden_states: Array, *tokens: Array, more: Mapping[str, Array] = {}) -> Tensors:
    """All outputs of a graph, by name.

    Args:
        session: Of the graph.
        hidden_states: What enters it.
        tokens: attention_mask and, where the graph takes them, position_ids; without them 0, 1, 2 and so on.
        more: Optional inputs.
    """
    names = [output.name for output in session.get_outputs()]
    feeds = {"hidden_states": hidden_states, **dict(zip(("attention_mask", POSITIONS), tokens, strict=False)), **more}
    if POSITIONS not in feeds and POSITIONS in {value.name for value in session.get_inputs()}:
        feeds[POSITIONS] = np.broadcast_to(np.arange(hidden_states.shape[1]), hidden_states.shape[:2])
    return dict(zip(names, session.run(names, feeds), strict=True))
