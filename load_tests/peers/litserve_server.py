"""LitServe: one inference process an endpoint, batches of at most 16 (attention 4), padded and masked.

The answer is a ready Response made in the worker: as its documentation has it, with a dict, the HTTP process would walk
every float again.
"""

import json

import litserve
import numpy as np
from block import PORTS, Block
from fastapi import Response

BATCH_TIMEOUT_S = 0.005


class Api(litserve.LitAPI):
    """One graph behind one path."""

    def setup(self, _device: str) -> None:
        """Opens the graph in the worker."""
        self.block = Block(attention=self.api_path == "/attention")

    def decode_request(self, request: dict) -> np.ndarray:
        """One sequence [S, D]."""
        return np.asarray(request["hidden_states"][0], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Pads to the longest."""
        lengths = [len(sequence) for sequence in inputs]
        hidden_states = np.zeros((len(inputs), max(lengths), inputs[0].shape[1]), np.float32)
        mask = np.zeros(hidden_states.shape[:2], np.int64)
        for row, sequence in enumerate(inputs):
            hidden_states[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return lengths, hidden_states, mask

    def predict(self, batch: tuple[list[int], np.ndarray, np.ndarray]) -> tuple[list[int], dict[str, np.ndarray]]:
        """One run."""
        lengths, hidden_states, mask = batch
        return lengths, self.block.run(hidden_states, mask)

    def unbatch(self, output: tuple[list[int], dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Cuts each row to its length; attention weights have it twice."""
        lengths, arrays = output
        return [
            {
                name: array[row : row + 1, :length] if array.ndim == 3 else array[row : row + 1, :, :length, :length]
                for name, array in arrays.items()
            }
            for row, length in enumerate(lengths)
        ]

    def encode_response(self, output: dict[str, np.ndarray]) -> Response:
        """JSON, written here."""
        text = json.dumps({name: array.tolist() for name, array in output.items()})
        return Response(text, media_type="application/json")


if __name__ == "__main__":
    apis = [
        Api(max_batch_size=16, batch_timeout=BATCH_TIMEOUT_S, api_path="/predict"),
        Api(max_batch_size=4, batch_timeout=BATCH_TIMEOUT_S, api_path="/attention"),
    ]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=60)
    server.run(host="127.0.0.1", port=PORTS[0], generate_client_file=False, log_level="warning", access_log=False)
