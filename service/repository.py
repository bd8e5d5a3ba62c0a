"""Models on disk: every byte verified before it is loaded, every model proven by its golden request."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service import metrics
from service.batcher import Batcher
from service.errors import NotFoundError, StartError
from service.manifest import FINAL_OUTPUT, ModelSpec, read_manifest
from service.padding import choose
from service.runner import LEAN, Runner
from service.session import WEIGHTS_FILE, Session
from service.settings import Settings
from service.tensors import Float32Array, Sequence
from service.text import TextFront

MANIFEST_FILE = "manifest.json"
_MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model, loaded, verified and warm.

    Attributes:
        spec: its manifest.
        sha256: of manifest.json, which holds the hash of every other file.
        provider: that onnxruntime uses.
        runner: its graphs.
        front: its text front, if it has one.
        batcher: its queue; started by the app.
    """

    spec: ModelSpec
    sha256: str
    provider: str
    runner: Runner
    front: TextFront | None
    batcher: Batcher[Sequence, tuple[Float32Array, ...]]


class Repository:
    """The models that are served, by name and version."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Model]] = {}

    def add(self, model: Model) -> None:
        """Serves a model from now on."""
        self.models.setdefault(model.spec.name, {})[model.spec.version] = model
        metrics.MODEL_INFO.labels(model.spec.name, model.spec.version, model.sha256, model.provider).set(1)

    def all(self) -> list[Model]:
        """Every version of every model, by name, then version."""
        return [
            m for name in sorted(self.models) for _, m in sorted(self.models[name].items(), key=lambda i: int(i[0]))
        ]

    def get(self, name: str, version: str | None = None) -> Model:
        """A version of a model; without one, the highest.

        Raises:
            NotFoundError: no such model or version.
        """
        versions = self.models.get(name)
        if versions is None:
            known = ", ".join(sorted(self.models)[:16])
            raise NotFoundError(f"no such model; this server has {known}", code="unknown_model", at="path")
        model = versions[max(versions, key=int)] if version is None else versions.get(version)
        if model is None:
            known = ", ".join(sorted(versions, key=int)[:16])
            raise NotFoundError(f"model {name} has no such version; it has {known}", code="unknown_version", at="path")
        return model


def find_versions(models: Path) -> list[Path]:
    """The NAME/VERSION folders of a models folder; hidden ones, which an export is still writing, left out.

    Raises:
        StartError: no such folder, or no model in it.
    """
    if not models.is_dir():
        raise StartError(f"no models folder at {models}; make one with glassblock-export, or set --models")
    found = sorted(
        version
        for name in models.iterdir()
        if name.is_dir() and not name.name.startswith(".")
        for version in name.iterdir()
        if version.is_dir() and not version.name.startswith(".")
    )
    if not found:
        raise StartError(f"no model in {models}; make one with glassblock-export")
    return found


def load_model(folder: Path, settings: Settings, on_death: Callable[[], None]) -> Model:
    """Verifies a version folder, loads its graphs, warms them up, and holds them against the golden answer.

    Raises:
        StartError: anything in the folder is not as its manifest says, or the answer is not the golden one.
    """
    spec, sha256 = _read_spec(folder)
    _check_listing(folder, spec)
    files = {name: read_verified(folder, name, spec) for name in spec.files}
    weights = files[WEIGHTS_FILE]

    def load_graph(name: str, data: bytes, weights: bytes) -> Session:
        return Session(data, weights, settings.provider, f"{folder}/{name}")

    def load_layers(layers: Iterable[int]) -> dict[int, Session]:
        again, sessions = read_verified(folder, WEIGHTS_FILE, spec), {}
        for layer in layers:
            name = spec.layers[layer].graph
            sessions[layer] = load_graph(name, read_verified(folder, name, spec), again)
            sessions[layer].check_contract(spec.inputs, spec.layers[layer].outputs, f"{folder}/{name}")
        return sessions

    session = load_graph("model.onnx", files["model.onnx"], weights)
    session.check_contract(spec.inputs, spec.outputs, f"{folder}/model.onnx")
    front = None
    if spec.text is not None:
        embeddings = load_graph(spec.text.embeddings, files[spec.text.embeddings], weights)
        front = TextFront(spec.text, files[spec.text.tokenizer], embeddings)
    runner = Runner(spec, session, load_layers)
    if settings.layer_graphs == "eager":
        runner.load(range(len(spec.layers)))
    check_golden(runner, spec, folder)
    batcher = Batcher(spec.name, runner.run, lambda lengths: choose(lengths, settings.max_batch_tokens), on_death)
    return Model(spec, sha256, session.provider, runner, front, batcher)


def read_verified(folder: Path, name: str, spec: ModelSpec) -> bytes:
    """A file's bytes, after their size and SHA-256 have been held against the manifest.

    Raises:
        StartError: missing, not a plain file, linked from elsewhere, or other bytes than the manifest promises.
    """
    data = _read_plain(folder / name)
    wanted = spec.files[name]
    if len(data) != wanted.bytes:
        raise StartError(f"{folder / name}: expected {wanted.bytes} bytes, found {len(data)}")
    if hashlib.sha256(data).hexdigest() != wanted.sha256:
        raise StartError(f"{folder / name}: its SHA-256 is not the manifest's; the file was changed after the export")
    return data


def check_golden(runner: Runner, spec: ModelSpec, place: Path) -> float:
    """Answers the manifest's golden request, which also warms the session up.

    Returns:
        max |answer − golden| where the mask is 1.

    Raises:
        StartError: further off than the manifest's tolerance.
    """
    request = spec.golden.request
    masks = [np.asarray(mask, np.bool_) for mask in request.attention_mask]
    inputs = [
        np.asarray(rows, np.float32) * mask[:, None] for rows, mask in zip(request.hidden_states, masks, strict=True)
    ]
    answers = runner.run([Sequence(values, mask, LEAN) for values, mask in zip(inputs, masks, strict=True)])
    wanted = [np.asarray(rows, np.float64) for rows in spec.golden.answer.block_output]
    error = max(
        float(np.abs(answer - want)[mask].max(initial=0.0))
        for (answer,), want, mask in zip(answers, wanted, masks, strict=True)
    )
    if not error <= spec.golden.tolerance:
        message = (
            f"{FINAL_OUTPUT} is {error:.1e} from the golden answer, the manifest allows {spec.golden.tolerance:.1e}"
        )
        raise StartError(f"{place}: {message}")
    return error


def _read_spec(folder: Path) -> tuple[ModelSpec, str]:
    data = _read_plain(folder / MANIFEST_FILE)
    spec = read_manifest(data, str(folder / MANIFEST_FILE))
    if (spec.name, spec.version) != (folder.parent.name, folder.name):
        raise StartError(f"{folder}: its manifest says {spec.name}/{spec.version}")
    needed = {"model.onnx", WEIGHTS_FILE, *(layer.graph for layer in spec.layers)}
    needed |= {spec.text.tokenizer, spec.text.embeddings} if spec.text else set()
    if missing := sorted(needed - spec.files.keys()):
        raise StartError(f"{folder / MANIFEST_FILE}: files: {missing[0]} is not listed")
    return spec, hashlib.sha256(data).hexdigest()


def _check_listing(folder: Path, spec: ModelSpec) -> None:
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if extra := sorted(found - spec.files.keys() - {MANIFEST_FILE}):
        raise StartError(f"{folder / extra[0]}: not in the manifest")
    if missing := sorted(spec.files.keys() - found):
        raise StartError(f"{folder / missing[0]}: in the manifest, but missing")


def _read_plain(path: Path) -> bytes:
    """Reads a regular file with one link, through no symbolic link, checked on the open file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - opened by descriptor, so that the checks hold for what is read
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise StartError(f"{path}: expected a regular file with a single link")
        return file.read()
