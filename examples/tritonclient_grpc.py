"""The inside of a model over gRPC, with tritonclient: `python examples/tritonclient_grpc.py [HOST:PORT]`.

Needs `pip install "tritonclient[grpc]"`, in an environment of its own since it wants an older protobuf than the server
does, and a server that was given a port for it, such as `--grpc-port 8001`.
"""

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

ADDRESS = "layers.5.attention_weights"


def states(rows: "np.typing.NDArray[np.float32]") -> triton.InferInput:
    given = triton.InferInput("hidden_states", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows)
    return given


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1] if sys.argv[1:] else "127.0.0.1:8001")
    print("minilm serves versions", *client.get_model_metadata("minilm").versions)

    rows = np.random.default_rng(0).standard_normal((1, 5, 384)).astype(np.float32)
    answer = client.infer("minilm.probes", [states(rows)], outputs=[triton.InferRequestedOutput(ADDRESS)])
    weights = answer.as_numpy(ADDRESS)
    print(f"{ADDRESS} {weights.shape}, rows sum to {weights.sum(-1).mean():.0f}")

    try:
        client.infer("minilm", [states(rows[:, :, :2].copy())])
    except InferenceServerException as error:
        print(error.status().removeprefix("StatusCode."), error.message())


main()
