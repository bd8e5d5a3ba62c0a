"""The infer route's request and answer for the OpenAPI document."""

from typing import Any

from service.codec.interventions import MOST, MOST_AXES

_WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_SHAPE = {"type": "array", "items": _WHOLE | {"minimum": 1}, "minItems": 1, "maxItems": MOST_AXES}
_DATA = {
    "description": "Row-major, flat or nested as the shape says.",
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [{"type": ["number", "boolean"]}, {"type": "array", "minItems": 1}]},
}
_INPUT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "shape", "datatype"],
    "oneOf": [
        {"required": ["data"], "properties": {"parameters": {"maxProperties": 0}}},
        {"required": ["parameters"], "properties": {"parameters": {"required": ["binary_data_size"]}, "data": False}},
    ],
    "properties": {
        "name": {
            "description": "hidden_states, attention_mask, position_ids; of NAME.probes also ADDRESS.scale, .add, .set",
            "anyOf": [
                {"enum": ["hidden_states", "attention_mask", "position_ids"]},
                {"type": "string", "pattern": r"^.+\.(scale|add|set)$"},
            ],
        },
        "shape": _SHAPE,
        "datatype": {
            "description": "attention_mask: INT64 or BOOL; position_ids: INT64; the others: FP32, FP16 or BF16.",
            "enum": ["FP32", "FP16", "BF16", "INT64", "BOOL"],
        },
        "data": _DATA,
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"binary_data_size": {"description": "Bytes behind the JSON, instead of data.", **_WHOLE}},
        },
    },
}
_OUTPUT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"description": "block_output; of NAME.probes any address.", "type": "string"},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"binary_data": {"description": "As bytes behind the JSON.", "type": "boolean"}},
        },
    },
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["inputs"],
    "properties": {
        "id": {"description": "Printable ASCII; comes back.", "type": "string", "pattern": "^[ -~]{0,128}$"},
        "model_name": {"description": "If sent, the one in the URL.", "type": "string"},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "timeout": {
                    "description": "Microseconds within which the answer must be computed, else 504; 0: none.",
                    **_WHOLE,
                },
                "priority": {
                    "description": "1 is served first, then 2 and so on; 0: 5.",
                    **_WHOLE,
                },
                "binary_data_output": {
                    "description": "Whether outputs that do not say so themselves come as bytes.",
                    "type": "boolean",
                },
            },
        },
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 2 + MOST},
        "outputs": {
            "description": "Absent: all that the model's metadata lists.",
            "type": "array",
            "items": _OUTPUT,
            "minItems": 1,
        },
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"const": "FP32"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"description": "Row-major, flat.", "type": "array", "items": {"type": "number"}},
                    "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
                },
            },
        },
    },
}
_BYTES = {"description": "JSON as long as the header says, then tensors.", "type": "string", "format": "binary"}
_LENGTH = {"description": "Bytes of JSON before the tensors.", "schema": {"type": "string"}}


def _optional(**properties: dict[str, Any]) -> dict[str, Any]:
    """A body that may be empty, or an object of these fields."""
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


INDEX = _optional(ready={"description": "Leaves out what is not served.", "type": "boolean"})
LOAD = _optional(
    parameters={"description": "Configurations and files are a 501.", "type": "object", "additionalProperties": False}
)
UNLOAD = _optional(
    parameters={"type": "object", "additionalProperties": False, "properties": {"unload_dependents": {}}}
)
INFER: dict[str, Any] = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "Bytes of JSON before the tensors; none: all is JSON; 0: the body is one float32 sequence.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _REQUEST,
                "examples": {
                    "hidden_states": {
                        "value": {
                            "id": "1",
                            "inputs": [
                                {
                                    "name": "hidden_states",
                                    "shape": [1, 1, 8],
                                    "datatype": "FP32",
                                    "data": [0.5, -1, 0, 2, 1, 0, 0, 1],
                                }
                            ],
                        }
                    },
                    "interventions": {
                        "value": {
                            "inputs": [
                                {
                                    "name": "hidden_states",
                                    "shape": [1, 1, 8],
                                    "datatype": "FP32",
                                    "data": [0.5, -1, 0, 2, 1, 0, 0, 1],
                                },
                                {
                                    "name": "layers.0.context[:, 1].scale",
                                    "shape": [1],
                                    "datatype": "FP32",
                                    "data": [0],
                                },
                            ],
                            "outputs": [{"name": "block_output"}],
                        }
                    },
                },
            },
            "application/octet-stream": {"schema": _BYTES},
        },
    },
    "responses": {
        "200": {
            "description": "The tensors asked for.",
            "headers": {
                **{
                    name: {"schema": {"type": "string"}}
                    for name in ("X-Request-ID", "Server-Timing", "X-Model-Version", "X-Model-SHA256")
                },
                "Inference-Header-Content-Length": _LENGTH,
            },
            "content": {"application/json": {"schema": _ANSWER}, "application/octet-stream": {"schema": _BYTES}},
        },
    },
}
