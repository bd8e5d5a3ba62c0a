"""KServe's REST client: `kserve_rest.py URL FOLDER`, with inputs.npz in FOLDER.

Writes the tensors it got to FOLDER/answers.npz and prints what else it learned as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL, FOLDER = sys.argv[1], Path(sys.argv[2])
GIVEN = np.load(FOLDER / "inputs.npz")


def request(*, binary: bool, model: str = "tiny", **fields: Any) -> InferRequest:
    states = InferInput("hidden_states", list(GIVEN["hidden_states"].shape), "FP32")
    states.set_data_from_numpy(GIVEN["hidden_states"], binary_data=binary)
    mask = InferInput("attention_mask", list(GIVEN["attention_mask"].shape), "INT64")
    mask.set_data_from_numpy(GIVEN["attention_mask"], binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[states, mask], **fields)


async def main() -> None:
    answers: dict[str, Any] = {}
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    facts: dict[str, Any] = {
        "live": await client.is_server_live(URL),
        "ready": await client.is_server_ready(URL),
        "model_ready": await client.is_model_ready(URL, "tiny"),
    }
    for binary in (True, False):
        answer = await client.infer(URL, request(binary=binary, request_id="k"), model_name="tiny")
        name = "binary" if binary else "json"
        answers[name], facts[f"id_{name}"] = answer.outputs[0].as_numpy(), answer.id
    outputs = [RequestedOutput("layers.0.query", parameters={"binary_data": True})]
    asked = request(binary=True, model="tiny.probes", request_outputs=outputs)
    answers["query"] = (await client.infer(URL, asked, model_name="tiny.probes")).outputs[0].as_numpy()
    try:
        await client.infer(URL, request(binary=True), model_name="none")
    except Exception as error:  # noqa: BLE001 - whatever the client makes of a 404
        facts["no_model"] = str(error)
    np.savez(FOLDER / "answers.npz", **answers)
    sys.stdout.write(json.dumps(facts))


asyncio.run(main())
