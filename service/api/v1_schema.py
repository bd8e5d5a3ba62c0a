"""The forward route's request and answers for the OpenAPI document; examples stay small, or Swagger UI freezes."""

from typing import Any

from service.codec import safetensors

_WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_ROWS = {"type": "array", "items": _NUMBERS, "minItems": 1}
_VALUE: dict[str, Any] = {
    "description": "A number, or lists of them that broadcast to one sequence's cells.",
    "type": ["number", "array"],
}
_FROM: dict[str, Any] = {
    "description": "The same cells of another sequence.",
    "type": "object",
    "additionalProperties": False,
    "required": ["from"],
    "properties": {"from": _WHOLE},
}
_CHANGES: dict[str, Any] = {
    "description": "By address, without a reduction.",
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {"scale": _VALUE, "add": _VALUE, "set": {"anyOf": [_VALUE, _FROM]}},
    },
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "oneOf": [{"required": ["hidden_states"]}, {"required": ["input_ids"]}, {"required": ["text"]}],
    "properties": {
        "hidden_states": {
            "description": "float32 [sequence][position][hidden]; sequences may differ in length.",
            "type": "array",
            "items": _ROWS,
            "minItems": 1,
        },
        "input_ids": {
            "description": "int64 [sequence][position], for models with a text front.",
            "type": "array",
            "items": {"type": "array", "items": _WHOLE, "minItems": 1},
            "minItems": 1,
        },
        "text": {
            "description": "Strings, for models with a text front; a bare one counts as a batch of one. Never cut.",
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        },
        "attention_mask": {
            "description": "[sequence][position], 1 = attend; absent: all ones. Hides keys, never changes shapes. "
            "Not with text.",
            "type": "array",
            "items": {"type": "array", "items": {"enum": [0, 1, True, False]}},
        },
        "position_ids": {
            "description": "int64 [sequence][position], for models that turn queries and keys by them (position_ids is "
            "among their inputs), each below limits.max_sequence_length; absent: 0, 1, 2 and so on. Not with text.",
            "type": "array",
            "items": {"type": "array", "items": _WHOLE},
        },
        "outputs": {
            "description": "Addresses: block_output, PROBE (of every layer), layers.N.PROBE, layers.A:B.PROBE, "
            "layers.*.PROBE; behind it numpy's slices, [-1, 0:8], and a reduction, |entropy. Absent: block_output.",
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
        },
        "interventions": {
            "description": "Cells that are changed on their way through the layers: scales multiply, then adds sum, "
            "then set decides. An object for every sequence, or a list with an object or null a sequence.",
            "anyOf": [_CHANGES, {"type": "array", "items": {"anyOf": [_CHANGES, {"type": "null"}]}}],
        },
        "timeout_s": {
            "description": "Seconds within which the answer must be computed, else 504; 0: none.",
            "type": "number",
            "minimum": 0,
            "maximum": 2**64 - 1,
        },
        "priority": {"description": "1 is served first, then 2 and so on; 0: 5.", **_WHOLE},
    },
}
_NESTED: dict[str, Any] = {"type": ["array", "number"]}
_TOP: dict[str, Any] = {
    "type": "object",
    "required": ["values", "indices"],
    "properties": {"values": {"type": "array"}, "indices": {"type": "array"}},
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model", "version", "outputs"],
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "tokens": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        "outputs": {
            "description": "By address, one entry a sequence, nested as the axes that are left, unpadded; of top(K) "
            "an object.",
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"anyOf": [_NESTED, _TOP]}},
        },
    },
}
_BINARY_REQUEST = {
    "description": "safetensors: hidden_states (F32, F16, BF16) [batch, sequence, hidden] or input_ids (I64) "
    "[batch, sequence]; attention_mask (I64, BOOL) and position_ids (I64) [batch, sequence]; sequence_lengths (I64) "
    "[batch], absent: all are full; ADDRESS.scale, ADDRESS.add, ADDRESS.set (F32, F16, BF16) [1 or batch, …]. "
    "__metadata__: text, outputs, interventions, timeout_s and priority, each as JSON text.",
    "type": "string",
    "format": "binary",
}
_BINARY_ANSWER = {
    "description": "safetensors: F32 tensors by address, [batch, …], padded with zeros on the right; sequence_lengths "
    "(I64) [batch]. __metadata__: model, version and, for text, tokens, each as JSON text.",
    "type": "string",
    "format": "binary",
}
FORWARD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _REQUEST,
                "examples": {
                    "text": {"value": {"text": ["The cat sat."], "outputs": ["layers.0.attention_weights"]}},
                    "hidden_states": {
                        "value": {"hidden_states": [[[0.5, -1, 0, 2, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 1]]]}
                    },
                    "interventions": {
                        "value": {
                            "hidden_states": [[[0.5, -1, 0, 2, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 1]]],
                            "interventions": {"layers.0.context[:, 1]": {"scale": 0}},
                        }
                    },
                },
            },
            safetensors.MEDIA_TYPE: {"schema": _BINARY_REQUEST},
        },
    },
    "responses": {
        "200": {
            "description": "The tensors asked for.",
            "headers": {
                name: {"schema": {"type": "string"}}
                for name in ("X-Request-ID", "Server-Timing", "Vary", "X-Model-Version", "X-Model-SHA256")
            },
            "content": {"application/json": {"schema": _ANSWER}, safetensors.MEDIA_TYPE: {"schema": _BINARY_ANSWER}},
        },
    },
}
