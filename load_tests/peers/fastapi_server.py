"""FastAPI as one writes it in an hour: lists in, lists out, endpoints in the thread pool.

`/naive` returns a dict, which FastAPI walks float by float; `/declared` names its response model, which pydantic
writes.
"""

import numpy as np
import uvicorn
from block import ATTENTION, OUTPUT, PORTS, Block
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
blocks = {attention: Block(attention=attention) for attention in (False, True)}


class Request(BaseModel):
    """A batch of equally long sequences."""

    hidden_states: list[list[list[float]]]
    attention: bool = False


class Answer(BaseModel):
    """The tensors asked for."""

    block_output: list[list[list[float]]]
    attention_weights: list[list[list[list[float]]]] | None = None


def run(request: Request) -> dict[str, list]:
    """The block's answer as lists."""
    arrays = blocks[request.attention].run(np.asarray(request.hidden_states, np.float32))
    return {name: array.tolist() for name, array in arrays.items()}


@app.post("/naive")
def naive(request: Request):  # noqa: ANN201 - the point: no return type
    """A dict, encoded by FastAPI."""
    return run(request)


@app.post("/declared")
def declared(request: Request) -> Answer:
    """A response model, encoded by pydantic."""
    lists = run(request)
    return Answer(block_output=lists[OUTPUT], attention_weights=lists.get(ATTENTION))


uvicorn.run(app, host="127.0.0.1", port=PORTS[0], log_level="warning", access_log=False)
