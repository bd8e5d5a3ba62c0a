"""The protocol's messages as tritonclient has them, as JSON: field → [number, type, repeated, message or enum].

`triton_messages.py` prints {"inference.ModelInferRequest": {"id": [3, 9, false, ""], …}, …}, and enums and services.
"""

import json
import sys
from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2


def fields_of(message: Any) -> dict[str, Any]:
    """The fields of a message and of those in it, by full names."""
    of = {field.name: field.message_type or field.enum_type for field in message.fields}
    own = {
        field.name: [field.number, field.type, field.is_repeated, of[field.name].full_name if of[field.name] else ""]
        for field in message.fields
    }
    found = {message.full_name: own}
    for inner in message.nested_types:
        found |= fields_of(inner)
    return found


said: dict[str, Any] = {}
for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR):
    for message in file.message_types_by_name.values():
        said |= fields_of(message)
    for enum in file.enum_types_by_name.values():
        said[enum.full_name] = {value.name: value.number for value in enum.values}
    for service in file.services_by_name.values():
        said[service.full_name] = {
            method.name: [method.input_type.full_name, method.output_type.full_name] for method in service.methods
        }
sys.stdout.write(json.dumps(said))
