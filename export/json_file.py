"""Reads a JSON file that holds one object."""

import json
from pathlib import Path
from typing import Any

from export import ExportError

_MAX_MIB = 64  # no index of shards that is known has a fifth of it


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ExportError: It is missing, too large, not JSON, nested too deeply, or not an object.
    """
    try:
        with path.open("rb") as file:
            text = file.read((_MAX_MIB << 20) + 1)
        if len(text) > _MAX_MIB << 20:
            raise ExportError(f"{path} must have at most {_MAX_MIB} MiB")
        value = json.loads(text.decode())
    except FileNotFoundError as error:
        raise ExportError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise ExportError(f"{path} is nested too deeply") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path} must hold one JSON object")
    return value
