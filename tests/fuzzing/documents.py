"""What schemathesis reads: our OpenAPI document and the protocol's, for a server of the model `tiny`."""

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PINS = Path(__file__).with_name("protocol.txt")
_FORMS = "mlserver/rest/openapi/dataplane.json"
_NUMBER = {"type": "number", "minimum": -1000, "maximum": 1000}
_WHOLE = {"enum": [0, 1, 7, 2**53, 2**63 - 1]}  # JSON Schema's integers hold 1.0, which is no whole number here
_ADDRESSES = ["block_output", "layers.0.attention_weights", "layers.1.query"]
_CHANGED = ["layers.0.context[:, 1]", "layers.1.resid_mid[-1]", "layers.*.ffn_output"]
Document = dict[str, Any]


def as_it_stands() -> Document:
    """docs/openapi.json, asking for a model that is here."""
    document = _read(ROOT / "docs/openapi.json")
    for path, operation in _operations(document):
        names = ["tiny", "tiny.probes"] if path.startswith("/v2/models") else ["tiny"]
        _name(operation, {"model": names, "version": ["1"]})
    return document


def in_json() -> Document:
    """The infer routes without tensors as bytes: a header of 0 makes a tensor of any body."""
    document = _called("Glassblock in JSON", as_it_stands())
    document["paths"] = {path: item for path, item in document["paths"].items() if path.endswith("/infer")}
    for _, operation in _operations(document):
        operation["parameters"] = [one for one in operation["parameters"] if one["in"] == "path"]
        del operation["requestBody"]["content"]["application/octet-stream"]
    return document


def fitted() -> Document:
    """What the routes that run a model take, down to its sizes and addresses: all of it must be answered."""
    document = _called("Glassblock fitted", in_json())
    document["paths"] |= {path: item for path, item in as_it_stands()["paths"].items() if path.endswith("/forward")}
    for path, operation in _operations(document):
        operation["requestBody"]["content"].pop("application/x-safetensors", None)
        media = operation["requestBody"]["content"]["application/json"]
        media.pop("examples")
        fields = media["schema"]["properties"]
        if path.endswith("/forward"):
            fields["hidden_states"] = _lists(_NUMBER, 2, 2, 8)
            fields["attention_mask"] = _lists({"enum": [0, 1]}, 2, 2)
            fields["outputs"] = _some(_ADDRESSES)
            fields["interventions"] = _changes()
            fields["priority"] = _WHOLE
            del fields["text"], fields["input_ids"], fields["position_ids"], media["schema"]["oneOf"]
            media["schema"]["required"] = ["hidden_states"]
        else:
            _name(operation, {"model": ["tiny.probes"]})
            fields["model_name"] = {"const": "tiny.probes"}
            fields["inputs"] = {**_lists(_states(), 1), "uniqueItems": True}
            fields["outputs"] = _some([{"name": name} for name in _ADDRESSES])
            fields["parameters"]["properties"] |= {"timeout": _WHOLE, "priority": _WHOLE}
    return document


def protocol(folder: Path) -> Document:
    """The protocol's own document, as the MLServer package publishes it (Apache-2.0).

    Left out is what that server adds to the protocol, routes for streams and generation. The one definition that is no
    JSON Schema there is as in the protocol's text: a tensor's data is flat or nested.

    Args:
        folder: where the package is kept once it was fetched.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "-r", str(PINS)]
    if not (wheels := list(folder.glob("*.whl"))):
        subprocess.run(command, check=True)
        wheels = list(folder.glob("*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        document: Document = json.loads(wheel.read(_FORMS))
    document["paths"] = {
        path: item for path, item in document["paths"].items() if not path.endswith(("generate", "_stream"))
    }
    elements = [
        {"$ref": "#/components/schemas/TensorData"},
        *({"type": kind} for kind in ("number", "string", "boolean")),
    ]
    document["components"]["schemas"]["TensorData"] = {"type": "array", "items": {"anyOf": elements}}
    for item in document["paths"].values():
        _name(item, {"model_name": ["tiny", "tiny.probes"], "model_version": ["1"]})
        if "post" in item:
            item["post"]["requestBody"]["content"]["application/json"]["example"] = {"inputs": [_example()]}
    return document


def _read(path: Path) -> Document:
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    return ((path, operation) for path, item in document["paths"].items() for operation in item.values())


def _called(title: str, document: Document) -> Document:
    """The title is what exceptions.toml knows a document by."""
    document["info"]["title"] = title
    return document


def _name(item: Document, values: dict[str, list[str]]) -> None:
    for parameter in item.get("parameters", []):
        if parameter["name"] in values:
            parameter["schema"] = {"type": "string", "enum": values[parameter["name"]]}


def _lists(element: Document, *lengths: int) -> Document:
    schema = copy.deepcopy(element)
    for length in reversed(lengths):
        schema = {"type": "array", "items": schema, "minItems": length, "maxItems": length}
    return schema


def _some(values: list[Any]) -> Document:
    return {"type": "array", "items": {"enum": values}, "minItems": 1, "uniqueItems": True}


def _changes() -> Document:
    """Interventions in cells that are there and do not overlap."""
    verbs = {"scale": _NUMBER, "add": _NUMBER, "set": _NUMBER}
    change = {"type": "object", "properties": verbs, "minProperties": 1, "additionalProperties": False}
    return {"type": "object", "properties": dict.fromkeys(_CHANGED, change), "additionalProperties": False}


def _states() -> Document:
    """One input: two sequences of two positions."""
    properties = {
        "name": {"const": "hidden_states"},
        "shape": {"const": [2, 2, 8]},
        "datatype": {"enum": ["FP32", "FP16", "BF16"]},
        "data": {"anyOf": [_lists(_NUMBER, 32), _lists(_NUMBER, 2, 2, 8)]},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _example() -> Document:
    return {"name": "hidden_states", "shape": [1, 1, 8], "datatype": "FP32", "data": [0.5, -1, 0, 2, 1, 0, 0, 1]}
