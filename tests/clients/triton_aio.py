"""tritonclient's asyncio client: `triton_aio.py HOST:PORT FOLDER`, with inputs.npz in FOLDER.

Writes the tensors it got to FOLDER/answers.npz and prints what else it learned as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

ADDRESS, FOLDER = sys.argv[1], Path(sys.argv[2])
GIVEN = np.load(FOLDER / "inputs.npz")


def inputs(*, binary: bool = True) -> list[Any]:
    made = triton.InferInput("hidden_states", list(GIVEN["hidden_states"].shape), "FP32")
    made.set_data_from_numpy(GIVEN["hidden_states"], binary_data=binary)
    mask = triton.InferInput("attention_mask", list(GIVEN["attention_mask"].shape), "INT64")
    mask.set_data_from_numpy(GIVEN["attention_mask"], binary_data=not binary)
    return [made, mask]


async def main() -> None:
    answers: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    async with triton.InferenceServerClient(ADDRESS) as client:
        facts["ready"] = [await client.is_server_ready(), await client.is_model_ready("tiny")]
        facts["metadata"] = (await client.get_model_metadata("tiny"))["outputs"]
        facts["config"] = (await client.get_model_config("tiny.probes"))["name"]
        facts["statistics"] = (await client.get_inference_statistics())["model_stats"][0]["version"]
        facts["index"] = await client.get_model_repository_index()
        asked = [
            triton.InferRequestedOutput("layers.0.query"),
            triton.InferRequestedOutput("block_output", binary_data=False),
        ]
        answer = await client.infer("tiny.probes", inputs(), outputs=asked, request_id="7")
        facts["id"] = answer.get_response()["id"]
        answers["query"], answers["mixed"] = answer.as_numpy("layers.0.query"), answer.as_numpy("block_output")
        for encoding in ("gzip", "deflate"):
            answer = await client.infer(
                "tiny", inputs(), request_compression_algorithm=encoding, response_compression_algorithm=encoding
            )
            answers[encoding] = answer.as_numpy("block_output")
        many = await asyncio.gather(*(client.infer("tiny", inputs(binary=i % 2 == 0)) for i in range(20)))
        answers["many"] = np.stack([one.as_numpy("block_output") for one in many])
        try:
            await client.infer("tiny", inputs(), model_version="9")
        except InferenceServerException as error:
            facts["no_version"] = f"{error.status()} {error.message()}"
    np.savez(FOLDER / "answers.npz", **answers)
    sys.stdout.write(json.dumps(facts))


asyncio.run(main())
