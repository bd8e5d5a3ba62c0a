"""MLServer: one parallel worker, adaptive batching of at most 16 (attention 4) within 5 ms.

Run as a program it writes MLServer's settings and becomes MLServer; MLServer imports `Runtime` from it. `ragged` is the
block without batching: MLServer's batches take the first request's length, and unequal ones are answered with 500.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from block import FOLDER, PORTS, Block
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

BATCH_SIZES = {"block": 16, "ragged": 0, "attention": 4}
BATCH_TIME_S = 0.005


class Runtime(MLModel):
    """One graph."""

    async def load(self) -> bool:
        """Opens the graph in the worker."""
        self.block = Block(attention=self.name == "attention")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One run of whatever MLServer has merged."""
        arrays = self.block.run(NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False))
        outputs = [NumpyCodec.encode_output(name, array) for name, array in arrays.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def write_settings(folder: Path) -> None:
    """One settings.json for the server, one model-settings.json a model."""
    settings = {
        "host": "127.0.0.1", "http_port": PORTS[0], "grpc_port": PORTS[1],
        "metrics_port": PORTS[2], "parallel_workers": 1, "debug": False,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, max_batch_size in BATCH_SIZES.items():
        model = {
            "name": name, "implementation": "mlserver_server.Runtime",
            "max_batch_size": max_batch_size, "max_batch_time": BATCH_TIME_S,
        }  # fmt: skip
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    write_settings(folder)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.chdir(folder)
    program = str(Path(sys.executable).parent / "mlserver")
    os.execv(program, [program, "start", "."])  # noqa: S606
