"""Reads a JSON file that holds one object."""

import json
from pathlib import Path
from typing import Any

from export import ExportError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ExportError: It is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path} must hold one JSON object")
    return value
