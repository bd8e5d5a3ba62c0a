"""The graphs behind every peer: plain onnxruntime sessions, as its own documentation opens them."""

import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

FOLDER, THREADS = Path(os.environ["PEER_FOLDER"]), int(os.environ["PEER_THREADS"])
PORTS = [int(port) for port in os.environ["PEER_PORTS"].split(",")]
OUTPUT, ATTENTION = "block_output", "attention_weights"


class Block:
    """One graph: `block.onnx`, or with `attention` `layer.onnx`, which gives the attention weights too."""

    def __init__(self, *, attention: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        path = FOLDER / "graphs" / ("layer.onnx" if attention else "block.onnx")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.hidden_size: int = self._session.get_inputs()[0].shape[2]
        self.names = [OUTPUT, ATTENTION] if attention else [OUTPUT]
        self._asked = ["layer_output", ATTENTION] if attention else [OUTPUT]

    def run(self, hidden_states: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Runs a batch [B, S, D]; without a mask every position is real."""
        if mask is None:
            mask = np.ones(hidden_states.shape[:2], np.int64)
        feeds = {"hidden_states": hidden_states, "attention_mask": mask}
        return dict(zip(self.names, self._session.run(self._asked, feeds), strict=True))
