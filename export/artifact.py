"""Writes a version folder and its manifest: all of it, or nothing."""

import json
import os
import platform
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from export import ExportError, memory, onnx_file, parity, probes, session
from export.golden import hold_length, make_golden
from export.parity_of_overrides import prove_overrides
from export.parity_of_text import prove_text
from export.place import Place, file_sha256
from export.proof import Proof
from export.sources import Layer, Source
from export.trace import OPSET, Step, editable_graph, layer_graph

_TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy")


def write_artifact(source: Source, place: Place, step: Step, *, overwrite: bool = False) -> Proof:
    """Exports `source` into its place and proves it; on any failure the place is as it was.

    Raises:
        ExportError: The version exists and `overwrite` is false, a sequence can be no longer than 2, or the export or
            its proof failed.
    """
    _hold_free(place.folder, overwrite=overwrite)
    hold_length(source.max_sequence_length, "max_position_embeddings")
    memory.prepare(source.weights_bytes)
    with _staged(place.folder, overwrite=overwrite) as folder:
        onnx_file.write_graphs(source, folder, step)
        if source.text:
            shutil.copyfile(source.text.tokenizer, folder / "text" / "tokenizer.json")
        proof = parity.prove(source, folder, step)
        if source.text:
            step("parity of the text front")
            prove_text(source.text, folder)
        if source.config:
            step("parity of overrides")
            prove_overrides(source, folder, proof)
        step("write")
        _write_json(folder / "manifest.json", _manifest(source, place, proof, folder))
        _sync(folder)
    return proof


def _hold_free(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise ExportError(f"{folder} exists already; give another --version, or --overwrite")


def _manifest(source: Source, place: Place, proof: Proof, folder: Path) -> dict[str, Any]:
    return {
        "format": "glassblock/1",
        "name": place.name,
        "version": place.version,
        "source": {
            "kind": source.kind,
            "reference": source.reference,
            "layers": list(source.layer_range),
            "files": dict(sorted(source.files.items())),
        },
        "precision": "float32",
        "hidden_size": source.hidden_size,
        "num_attention_heads": source.num_attention_heads,
        "config": source.config.to_dict() if source.config else None,
        "inputs": [spec.to_dict() for spec in source.inputs],
        "outputs": [probes.stream("block_output", source.hidden_size).to_dict()],
        "aliases": probes.aliases(source.config),
        "layers": _layers(source),
        "text": _text(source),
        "limits": {"max_sequence_length": source.max_sequence_length},
        "toolchain": _toolchain(),
        "parity": proof.to_dict(),
        "golden": make_golden(source),
        "files": _files(folder),
    }


def _layers(source: Source) -> list[dict[str, Any]]:
    return [
        {
            "graph": layer_graph(index),
            "source_layer": layer.source_layer,
            "outputs": [spec.to_dict() for spec in layer.outputs],
            "editable": _editable(index, layer) if source.config else None,
        }
        for index, layer in enumerate(source.layers)
    ]


def _editable(index: int, layer: Layer) -> dict[str, Any]:
    return {"graph": editable_graph(index), "sites": [spec.name for spec in probes.sites(layer.outputs)]}


def _text(source: Source) -> dict[str, Any] | None:
    if source.text is None:
        return None
    return {
        "tokenizer": "text/tokenizer.json",
        "embeddings": "text/embeddings.onnx",
        "vocab_size": source.text.vocab_size,
        "max_tokens": source.text.max_tokens,
    }


def _toolchain() -> dict[str, str | int]:
    versions = {tool: package_version(tool) for tool in _TOOLS}
    return {"opset": OPSET, "python": platform.python_version(), "onnxruntime": session.VERSION, **versions}


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in files
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _staged(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `folder`, renamed into its place at the end, removed with all it made on any failure."""
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Its name begins with a dot, which no version does: a server never takes it for one.
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staging.chmod(0o755)
        yield staging
        with _undisturbed():
            _hold_free(folder, overwrite=overwrite)  # another export may have come first
            _swap(staging, folder)
    except BaseException:
        with _undisturbed():
            shutil.rmtree(staging, ignore_errors=True)
            for parent in made:
                with suppress(OSError):  # somebody else's files are in there
                    parent.rmdir()
        raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What is short and must not stay half done: SIGINT and SIGTERM are ignored, which the main thread alone can do."""
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _swap(staging: Path, folder: Path) -> None:
    """Gives `staging` its true name; whatever happens before the disk knows it, the old version is put back."""
    old = staging.with_name(f"{staging.name}-old")
    try:
        if folder.exists():
            folder.rename(old)
        staging.rename(folder)
        _sync_path(folder.parent)
    except BaseException:
        if not staging.exists():
            folder.rename(staging)
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Brings everything to the disk, so that a crash after the rename leaves no empty file under a true name."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync_path(path)
    _sync_path(folder)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
