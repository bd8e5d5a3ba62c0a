"""Requests of the Open Inference Protocol, written by hand, and their answers taken apart."""

from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

HEADER = "Inference-Header-Content-Length"
ROWS = np.random.default_rng(4).standard_normal((2, 3, 8)).astype(np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1]])
_DATATYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "bool": "BOOL"}


def tensor(name: str, values: NDArray[Any], /, data: object = None, **changes: Any) -> dict[str, Any]:
    """An input with its numbers as JSON, flat unless `data` says otherwise."""
    data = values.ravel().tolist() if data is None else data
    return {
        "name": name,
        "shape": list(values.shape),
        "datatype": _DATATYPES[str(values.dtype)],
        "data": data,
    } | changes


def states(**changes: Any) -> dict[str, Any]:
    return tensor("hidden_states", ROWS, **changes)


def mask(**changes: Any) -> dict[str, Any]:
    return tensor("attention_mask", MASK, **changes)


def binary(name: str, data: bytes, shape: list[int], datatype: str) -> dict[str, Any]:
    """An input whose bytes come behind the JSON."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}


def framed(request: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with tensors behind its JSON."""
    head = orjson.dumps(request)
    return b"".join((head, *tensors)), {HEADER: str(len(head))}


def framed_states(rows: NDArray[np.float32], *addresses: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with hidden states as bytes, for these outputs as bytes."""
    states = binary("hidden_states", rows.tobytes(), list(rows.shape), "FP32")
    outputs = [{"name": address, "parameters": {"binary_data": True}} for address in addresses]
    return framed({"inputs": [states], "outputs": outputs}, rows.tobytes())


def ask(client: httpx.Client, *inputs: dict[str, Any], model: str = "tiny", **fields: Any) -> httpx.Response:
    """Asks in JSON."""
    return client.post(f"/v2/models/{model}/infer", content=orjson.dumps({"inputs": inputs} | fields))


def ask_binary(client: httpx.Client, body: bytes, headers: dict[str, str], model: str = "tiny") -> httpx.Response:
    return client.post(f"/v2/models/{model}/infer", content=body, headers=headers)


def read(answer: httpx.Response) -> dict[str, NDArray[Any]]:
    """The outputs of an answer, as tritonclient reads them, in order."""
    assert answer.status_code == httpx.codes.OK, answer.text
    length = int(answer.headers.get(HEADER, len(answer.content)))
    found, behind = {}, answer.content[length:]
    for output in orjson.loads(answer.content[:length])["outputs"]:
        dtype = {"FP32": np.float32, "INT64": np.int64}[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values, behind = np.frombuffer(behind[:size], dtype), behind[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert not behind
    return found


def forward(
    client: httpx.Client,
    *outputs: str,
    rows: NDArray[Any] = ROWS,
    model: str = "tiny",
    masked: bool = True,
    **more: Any,
) -> dict[str, NDArray[np.float32]]:
    """What /v1 answers to the same tensors."""
    body = {"hidden_states": rows.astype(np.float32).tolist(), "outputs": outputs or ("block_output",), **more}
    if masked:
        body["attention_mask"] = MASK.tolist()
    answer = client.post(f"/v1/models/{model}/forward", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return {name: np.array(values, np.float32) for name, values in answer.json()["outputs"].items()}


def assert_same(found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]) -> None:
    """The same names in the same order, the same shapes, the same bits."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()
