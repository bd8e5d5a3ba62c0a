"""Where a version goes, and the digest of a file that lies somewhere. Without torch, whose import takes seconds."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from export import ExportError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version goes: models/NAME/VERSION.

    Raises:
        ExportError: A name or version that is not allowed.
    """

    models: Path
    name: str
    version: str = "1"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ExportError(
                f"--name {self.name!r} must be 1 to 64 letters, digits, _ or -, and begin with a letter or digit"
            )
        if not _VERSION.fullmatch(self.version):
            raise ExportError(f"--version {self.version!r} must be a whole number from 1 to 999999999")

    @property
    def folder(self) -> Path:
        """The version folder."""
        return self.models / self.name / self.version


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in lowercase hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
