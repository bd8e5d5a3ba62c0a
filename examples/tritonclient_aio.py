"""Many requests at once with tritonclient's asyncio client: python examples/tritonclient_aio.py [HOST:PORT].

Needs `pip install tritonclient[http]`.
"""

import asyncio
import sys

import numpy as np
import tritonclient.http.aio as triton

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"


async def main() -> None:
    """Sends sequences of different lengths; the server batches what arrives together."""
    async with triton.InferenceServerClient(ADDRESS) as client:

        async def ask(length: int) -> tuple[int, ...]:
            states = triton.InferInput("hidden_states", [1, length, 384], "FP32")
            states.set_data_from_numpy(np.ones((1, length, 384), np.float32))
            answer = await client.infer("minilm", [states])
            return tuple(answer.as_numpy("block_output").shape)

        print(*await asyncio.gather(*(ask(length) for length in range(1, 9))), sep="\n")


asyncio.run(main())
