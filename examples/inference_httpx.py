"""Binary tensors over /v2 with nothing but httpx and numpy: python examples/inference_httpx.py [URL]."""

import json
import sys

import httpx
import numpy as np

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
hidden_states = np.random.default_rng(0).standard_normal((1, 5, 384), np.float32)
head = json.dumps(
    {
        "inputs": [
            {
                "name": "hidden_states",
                "shape": hidden_states.shape,
                "datatype": "FP32",
                "parameters": {"binary_data_size": hidden_states.nbytes},
            }
        ],
        "outputs": [{"name": "layers.5.attention_weights", "parameters": {"binary_data": True}}],
    }
).encode()
answer = httpx.post(
    f"{url}/v2/models/minilm.probes/infer",
    content=head + hidden_states.tobytes(),
    headers={"Inference-Header-Content-Length": str(len(head))},
)
answer.raise_for_status()
length = int(answer.headers["Inference-Header-Content-Length"])
(output,) = json.loads(answer.content[:length])["outputs"]
weights = np.frombuffer(answer.content[length:], np.float32).reshape(output["shape"])
print(output["name"], weights.shape, f"rows sum to {weights.sum(axis=-1).mean():.6f}")
