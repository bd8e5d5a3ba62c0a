"""The files of an artifact: none is used before it has been held against the manifest."""

import errno
import hashlib
import os
import stat
from pathlib import Path

from service.errors import StartError
from service.manifest import ModelSpec

MANIFEST_FILE = "manifest.json"


def read_verified(folder: Path, name: str, spec: ModelSpec) -> bytes:
    """A file's bytes, after their size and SHA-256 have been held against the manifest.

    Raises:
        StartError: missing, not a plain file, linked from elsewhere, or other bytes than the manifest promises.
    """
    wanted = spec.files[name]
    data = read_plain(folder / name, wanted.bytes)
    if len(data) != wanted.bytes:
        raise StartError(f"{folder / name}: expected {wanted.bytes} bytes, found {len(data)}")
    if hashlib.sha256(data).hexdigest() != wanted.sha256:
        raise StartError(f"{folder / name}: its SHA-256 is not the manifest's; the file was changed after the export")
    return data


def check_listing(folder: Path, spec: ModelSpec) -> None:
    """Holds what lies in a version folder against the files that its manifest lists.

    Raises:
        StartError: a file more, or one less.
    """
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if extra := sorted(found - spec.files.keys() - {MANIFEST_FILE}):
        raise StartError(f"{folder / extra[0]}: not in the manifest")
    if missing := sorted(spec.files.keys() - found):
        raise StartError(f"{folder / missing[0]}: in the manifest, but missing")


def read_plain(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file with one link, through no symbolic link, checked on the open file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "expected a file, found a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise StartError(f"{path}: {reason}") from error
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StartError(f"{path}: expected a file, found a folder")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - opened by descriptor, so that the checks hold for what is read
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise StartError(f"{path}: expected a regular file with a single link")
        if status.st_size > max_bytes:
            raise StartError(f"{path}: expected at most {max_bytes} bytes, found {status.st_size}")
        return file.read(max_bytes + 1)
