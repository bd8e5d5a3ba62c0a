"""tritonclient's gRPC client, used as a person uses it: `triton_grpc.py HOST:PORT FOLDER`, with inputs.npz in FOLDER.

Writes the tensors it got to FOLDER/answers.npz and prints what else it learned as JSON.
"""

import json
import queue
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

ADDRESS, FOLDER = sys.argv[1], Path(sys.argv[2])
GIVEN = np.load(FOLDER / "inputs.npz")
client = triton.InferenceServerClient(ADDRESS)
answers: dict[str, Any] = {}
facts: dict[str, Any] = {}


def inputs(states: Any = GIVEN["hidden_states"], datatype: str = "FP32") -> list[Any]:
    made = triton.InferInput("hidden_states", list(states.shape), datatype)
    made.set_data_from_numpy(states)
    mask = triton.InferInput("attention_mask", list(states.shape[:2]), "INT64")
    mask.set_data_from_numpy(GIVEN["attention_mask"])
    return [made, mask]


def outputs(*names: str, **more: int) -> list[Any]:
    return [triton.InferRequestedOutput(name, **more) for name in names]


def said(action: Any, *arguments: Any, **named: Any) -> str:
    """What the client's exception tells."""
    try:
        action(*arguments, **named)
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "no exception"


facts["live"], facts["ready"] = client.is_server_live(), client.is_server_ready()
facts["models_ready"] = [client.is_model_ready(name) for name in ("tiny", "tiny.probes", "none")]
facts["version_ready"] = client.is_model_ready("tiny", "1")
facts["server"] = client.get_server_metadata(as_json=True)
facts["metadata"] = client.get_model_metadata("tiny.probes", "1", as_json=True)
facts["config"] = client.get_model_config("tiny", as_json=True)["config"]
facts["index"] = client.get_model_repository_index(as_json=True)["models"]
facts["statistics"] = client.get_inference_statistics("tiny", as_json=True)["model_stats"][0]["name"]

answers["lean"] = client.infer("tiny", inputs()).as_numpy("block_output")
asked = outputs("layers.1.attention_weights", "block_output")
answer = client.infer("tiny.probes", inputs(), model_version="1", outputs=asked)
facts["names"] = [output.name for output in answer.get_response().outputs]
for address in facts["names"]:
    answers[address] = answer.as_numpy(address)
change = triton.InferInput("layers.0.context[:, 1].scale", [1], "FP32")
change.set_data_from_numpy(np.zeros(1, np.float32))
answer = client.infer("tiny.probes", [*inputs(), change], outputs=outputs("block_output"))
answers["changed"] = answer.as_numpy("block_output")
half = GIVEN["hidden_states"].astype(np.float16)
answers["half"] = client.infer("tiny", inputs(half, "FP16")).as_numpy("block_output")
rounded = GIVEN["hidden_states"].astype(ml_dtypes.bfloat16)
answers["bfloat"] = client.infer("tiny", inputs(rounded, "BF16")).as_numpy("block_output")
answers["bfloat_rows"] = rounded.astype(np.float32)
for encoding in ("gzip", "deflate"):
    answers[encoding] = client.infer("tiny", inputs(), compression_algorithm=encoding).as_numpy("block_output")
done: queue.Queue[Any] = queue.Queue()
for _ in range(8):
    client.async_infer("tiny", inputs(), lambda result, error: done.put(error or result.as_numpy("block_output")))
answers["asynchronous"] = np.stack([done.get(timeout=20) for _ in range(8)])
answer = client.infer("tiny", inputs(), request_id="an-id", priority=1, timeout=5_000_000, client_timeout=20)
facts["id"] = answer.get_response().id

facts["no_time"] = said(client.infer, "tiny", inputs(), timeout=1)
facts["no_model"] = said(client.infer, "none", inputs())
facts["no_version"] = said(client.infer, "tiny", inputs(), model_version="9")
facts["wrong_shape"] = said(client.infer, "tiny", inputs(GIVEN["hidden_states"][:, :, :4].copy()))
facts["wrong_output"] = said(client.infer, "tiny", inputs(), outputs=outputs("layers.0.query"))
facts["unknown_parameter"] = said(client.infer, "tiny", inputs(), parameters={"mine": 1})
facts["classification"] = said(client.infer, "tiny", inputs(), outputs=outputs("block_output", class_count=3))
facts["sequence"] = said(client.infer, "tiny", inputs(), sequence_id=7, sequence_start=True)
facts["no_metadata"] = said(client.get_model_metadata, "none")
facts["trace"] = said(client.get_trace_settings)
facts["log"] = said(client.get_log_settings)
facts["load"] = said(client.load_model, "tiny")
facts["unload"] = said(client.unload_model, "tiny")

client.close()
np.savez(FOLDER / "answers.npz", **answers)
sys.stdout.write(json.dumps(facts))
