"""KServe's gRPC client: `kserve_grpc.py HOST:PORT FOLDER`, with inputs.npz in FOLDER.

Writes the tensors it got to FOLDER/answers.npz and prints what else it learned as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient
from kserve.protocol.infer_type import RequestedOutput

PLACE, FOLDER = sys.argv[1], Path(sys.argv[2])
GIVEN = np.load(FOLDER / "inputs.npz")
OUTPUTS = [RequestedOutput("layers.0.query", parameters={"binary_data": True})]


def request(*, binary: bool, model: str = "tiny", **fields: Any) -> InferRequest:
    inputs = [InferInput("hidden_states", list(GIVEN["hidden_states"].shape), "FP32")]
    inputs += [InferInput("attention_mask", list(GIVEN["attention_mask"].shape), "INT64")]
    for one in inputs:
        one.set_data_from_numpy(GIVEN[one.name], binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=inputs, **fields)


async def main() -> None:
    answers: dict[str, Any] = {}
    async with InferenceGRPCClient(PLACE) as client:
        facts: dict[str, Any] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "models_ready": [await client.is_model_ready(name) for name in ("tiny", "none")],
        }
        for name, binary in (("binary", True), ("numbers", False)):
            answer = await client.infer(request(binary=binary, request_id="k"))
            answers[name], facts[f"id_{name}"] = answer.outputs[0].as_numpy(), answer.id
            asked = request(binary=binary, model="tiny.probes", request_outputs=OUTPUTS)
            answers[f"query_{name}"] = (await client.infer(asked)).outputs[0].as_numpy()
    np.savez(FOLDER / "answers.npz", **answers)
    sys.stdout.write(json.dumps(facts))


asyncio.run(main())
