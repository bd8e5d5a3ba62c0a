"""tritonclient's HTTP client, used as a person uses it: `triton_sync.py HOST:PORT FOLDER`, with inputs.npz in FOLDER.

Writes the tensors it got to FOLDER/answers.npz and prints what else it learned as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

ADDRESS, FOLDER = sys.argv[1], Path(sys.argv[2])
GIVEN = np.load(FOLDER / "inputs.npz")
client = triton.InferenceServerClient(ADDRESS)
answers: dict[str, Any] = {}
facts: dict[str, Any] = {}


def inputs(*, binary: bool = True, states: Any = GIVEN["hidden_states"], datatype: str = "FP32") -> list[Any]:
    made = triton.InferInput("hidden_states", list(states.shape), datatype)
    made.set_data_from_numpy(states, binary_data=binary)
    mask = triton.InferInput("attention_mask", list(states.shape[:2]), "INT64")
    mask.set_data_from_numpy(GIVEN["attention_mask"], binary_data=binary)
    return [made, mask]


def outputs(*names: str, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


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
facts["server"] = client.get_server_metadata()["name"]
facts["metadata"] = client.get_model_metadata("tiny.probes", "1")
facts["config"] = client.get_model_config("tiny")
facts["index"] = client.get_model_repository_index()
facts["statistics"] = client.get_inference_statistics("tiny")["model_stats"][0]["name"]

for binary in (True, False):
    name = "binary" if binary else "json"
    answers[f"all_{name}"] = client.infer("tiny", inputs(binary=binary)).as_numpy("block_output")
    asked = outputs("layers.1.attention_weights", "block_output", binary=binary)
    answer = client.infer("tiny.probes", inputs(binary=binary), model_version="1", outputs=asked)
    facts[f"names_{name}"] = [output["name"] for output in answer.get_response()["outputs"]]
    for address in facts[f"names_{name}"]:
        answers[f"{address}_{name}"] = answer.as_numpy(address)
for encoding in ("gzip", "deflate"):
    answer = client.infer(
        "tiny", inputs(), request_compression_algorithm=encoding, response_compression_algorithm=encoding
    )
    answers[f"all_{encoding}"] = answer.as_numpy("block_output")
half = GIVEN["hidden_states"].astype(np.float16)
answers["half"] = client.infer("tiny", inputs(states=half, datatype="FP16")).as_numpy("block_output")
rounded = GIVEN["hidden_states"].astype(ml_dtypes.bfloat16)
answers["bfloat"] = client.infer("tiny", inputs(states=rounded, datatype="BF16")).as_numpy("block_output")
answers["bfloat_rows"] = rounded.astype(np.float32)
for binary in (True, False):
    change = triton.InferInput("layers.0.context[:, 1].scale", [1], "FP32")
    change.set_data_from_numpy(np.zeros(1, np.float32), binary_data=binary)
    answer = client.infer("tiny.probes", [*inputs(binary=binary), change], outputs=outputs("block_output"))
    answers[f"changed_{'binary' if binary else 'json'}"] = answer.as_numpy("block_output")
waiting = [client.async_infer("tiny", inputs()) for _ in range(8)]
answers["asynchronous"] = np.stack([one.get_result().as_numpy("block_output") for one in waiting])
answer = client.infer("tiny", inputs(), request_id="an-id", priority=1, timeout=5_000_000)
facts["id"] = answer.get_response()["id"]

facts["no_time"] = said(client.infer, "tiny", inputs(), timeout=1)
facts["no_model"] = said(client.infer, "none", inputs())
facts["wrong_shape"] = said(client.infer, "tiny", inputs(states=GIVEN["hidden_states"][:, :, :4].copy()))
facts["wrong_output"] = said(client.infer, "tiny", inputs(), outputs=outputs("layers.0.query"))
facts["unknown_parameter"] = said(client.infer, "tiny", inputs(), parameters={"mine": 1})
facts["no_metadata"] = said(client.get_model_metadata, "none")
facts["trace"] = said(client.get_trace_settings)
facts["load"] = said(client.load_model, "tiny")
facts["unload"] = said(client.unload_model, "tiny")

# perf_analyzer's calls: metadata and configuration, statistics before and after, everything with zeros in between.
metadata, config = client.get_model_metadata("tiny.probes"), client.get_model_config("tiny.probes")
shapes = {"hidden_states": [1, 4, 8], "attention_mask": [1, 4]}
kinds = {"FP32": np.float32, "INT64": np.int64}
before = client.get_inference_statistics("tiny.probes")["model_stats"][0]
for _ in range(5):
    made = []
    for described in metadata["inputs"]:
        tensor = triton.InferInput(described["name"], shapes[described["name"]], described["datatype"])
        tensor.set_data_from_numpy(np.zeros(shapes[described["name"]], kinds[described["datatype"]]))
        made.append(tensor)
    listed = [output["name"] for output in metadata["outputs"]]
    answer = client.infer("tiny.probes", made, outputs=outputs(*listed))
    shown = [(output["name"], len(output["shape"])) for output in answer.get_response()["outputs"]]
after = client.get_inference_statistics("tiny.probes")["model_stats"][0]
facts["perf"] = {
    "outputs": shown == [(output["name"], len(output["shape"])) for output in metadata["outputs"]],
    "dims": [tensor["dims"] for tensor in config["input"]],
    "inferences": after["inference_count"] - before["inference_count"],
    "successes": after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"],
}

client.close()
np.savez(FOLDER / "answers.npz", **answers)
sys.stdout.write(json.dumps(facts))
