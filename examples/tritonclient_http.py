"""The inside of a block with tritonclient: python examples/tritonclient_http.py [HOST:PORT].

Needs `pip install tritonclient[http]`.
"""

import sys

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
for tensor in client.get_model_metadata("minilm")["inputs"]:
    print(tensor["name"], tensor["datatype"], tensor["shape"])

hidden_states = np.random.default_rng(0).standard_normal((2, 5, 384), np.float32)
states = triton.InferInput("hidden_states", list(hidden_states.shape), "FP32")
states.set_data_from_numpy(hidden_states)
mask = triton.InferInput("attention_mask", [2, 5], "INT64")
mask.set_data_from_numpy(np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))

# Every layer's attention weights, by one address.
outputs = [triton.InferRequestedOutput("attention_weights")]
answer = client.infer("minilm.probes", [states, mask], outputs=outputs, timeout=5_000_000)
for output in answer.get_response()["outputs"]:
    weights = answer.as_numpy(output["name"])
    print(output["name"], weights.shape, f"{weights[0, :, :, 3:].max():.1f} where the mask is 0")
client.close()
