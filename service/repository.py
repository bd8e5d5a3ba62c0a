"""Models on disk: every byte verified before it is loaded, every model proven by its golden request."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.artifact_files import MANIFEST_FILE, check_listing, read_plain, read_verified
from service.batcher import Batcher
from service.errors import NotFoundError, StartError
from service.manifest import FINAL_OUTPUT, ModelSpec, read_manifest
from service.metrics import ModelMetrics
from service.recent import Recent
from service.request import Form
from service.runner import LEAN, Runner
from service.session import ERRORS, WEIGHTS_FILE, Session, first_line
from service.settings import Settings
from service.tensors import Edit, Found, Output, Sequence, View
from service.text import TextFront, check_front

REMEMBERED = 256  # heads of a model, and forms, each of them a few kilobytes
MAX_MANIFEST_BYTES = 64 * 2**20
_LOOK_S = 0.01  # between two looks whether a model that is taken away has requests


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
        metrics: what is counted of it.
        heads: that codecs have read of late.
        forms: of requests that were answered of late.
        requests: one of each that is under way, from when it has found the model.
    """

    spec: ModelSpec
    sha256: str
    provider: str
    runner: Runner
    front: TextFront | None
    batcher: Batcher[Sequence, tuple[Found, ...]]
    metrics: ModelMetrics
    heads: Recent[Any]
    forms: Recent[Form]
    requests: set[object] = field(default_factory=set)


class Repository:
    """The models that are served, by name and version."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Model]] = {}
        self._leaving: list[Model] = []

    def add(self, model: Model) -> None:
        """Serves a model from now on."""
        self.models.setdefault(model.spec.name, {})[model.spec.version] = model
        model.metrics.describe(model.sha256, model.provider, lambda: model.batcher.load.tokens)

    def remove(self, name: str) -> list[Model]:
        """Serves no version of a model any more; gives those that were; each closes behind its last request."""
        models = list(self.models.pop(name, {}).values())
        self._leaving += models
        for model in models:
            model.metrics.forget()
            self._close(model)
        return models

    def stop(self) -> None:
        """Ends every model's thread, and a run; who still waits is answered with 503."""
        for model in (*self.all(), *self._leaving):
            model.batcher.stop()

    def _close(self, model: Model) -> None:
        if model.requests:  # those that have found it, and whose sequences are not queued yet
            asyncio.get_running_loop().call_later(_LOOK_S, self._close, model)
            return
        model.batcher.close()
        self._leaving.remove(model)

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
            known = ", ".join(sorted(self.models)[:16]) or "none loaded"
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


def read_specs(settings: Settings, name: str | None = None) -> list[ModelSpec]:
    """The manifests of every model of the models folder, or of every version of one.

    Raises:
        StartError: one of them cannot be read.
    """
    return [_read_spec(folder)[0] for folder in find_versions(settings.models) if name in {None, folder.parent.name}]


def load_model(folder: Path, settings: Settings, on_death: Callable[[], None]) -> Model:
    """Verifies a version folder, loads its graphs, warms them up, and holds them against the golden answer.

    Raises:
        StartError: anything in the folder is not as its manifest says, or the answer is not the golden one.
    """
    spec, sha256 = _read_spec(folder)
    check_listing(folder, spec)
    files = {name: read_verified(folder, name, spec) for name in spec.files}
    weights = files[WEIGHTS_FILE]

    def load_graph(name: str, data: bytes, weights: bytes, provider: str = settings.provider) -> Session:
        return Session(data, weights, provider, settings.threads, f"{folder}/{name}")

    def load_layers(graphs: Iterable[str]) -> dict[str, Session]:
        again, sessions = read_verified(folder, WEIGHTS_FILE, spec), {}
        layers = {graph: layer for layer in spec.layers for graph in layer.graphs}
        for name in graphs:
            sessions[name] = session = load_graph(name, read_verified(folder, name, spec), again)
            editable = layers[name].editable
            optional = editable.optional_inputs if editable and name == editable.graph else []
            session.check_contract(spec.inputs, layers[name].outputs, f"{folder}/{name}", optional)
        return sessions

    session = load_graph("model.onnx", files["model.onnx"], weights)
    session.check_contract(spec.inputs, spec.outputs, f"{folder}/model.onnx")
    front = None
    if spec.text is not None:
        # Rows of a table are found on the CPU: a device would give them back before it is given them again.
        embeddings = load_graph(spec.text.embeddings, files[spec.text.embeddings], weights, provider="cpu")
        front = TextFront(spec.text, files[spec.text.tokenizer], f"{folder}/{spec.text.tokenizer}", embeddings)
        check_front(front, embeddings, spec, settings.max_request_tokens, f"{folder}/{spec.text.embeddings}")
    runner = Runner(spec, session, load_layers, settings)
    check_golden(runner, spec, folder)
    if settings.layer_graphs == "eager":
        runner.load_layers()
        inside = [View(Output(layer, name)) for layer, probes in enumerate(spec.probes) for name in probes]
        check_golden(runner, spec, folder, (*LEAN, *inside[:1]))
        if edits := _same(spec):
            check_golden(runner, spec, folder, edits=edits)
    runner.warm_up(settings.max_batch_tokens)
    metrics = ModelMetrics(spec.name, spec.version)
    batcher = Batcher[Sequence, tuple[Found, ...]](spec.name, metrics, runner, settings.run_timeout_s, on_death)
    heads, forms = Recent[Any](REMEMBERED), Recent[Form](REMEMBERED)
    return Model(spec, sha256, session.provider, runner, front, batcher, metrics, heads, forms)


def check_golden(
    runner: Runner, spec: ModelSpec, place: Path, views: tuple[View, ...] = LEAN, edits: tuple[Edit, ...] = ()
) -> float:
    """Answers the manifest's golden request, which also warms the session up.

    Args:
        runner: of the model.
        spec: holds request and answer.
        place: the version folder, for messages.
        views: `block_output` first; with a probe after it the layers give it instead of model.onnx.
        edits: that change no number; with one of a layer its editable graph is run.

    Returns:
        max |answer − golden| where the mask is 1.

    Raises:
        StartError: further off than the manifest's tolerance, or onnxruntime cannot run the request.
    """
    request = spec.golden.request
    masks = [np.asarray(mask, np.bool_) for mask in request.attention_mask]
    with np.errstate(over="ignore"):  # what became infinite gives no golden answer
        inputs = [np.asarray(rows, np.float32) for rows in request.hidden_states]
    inputs = [np.where(mask[:, None], rows, np.float32(0)) for rows, mask in zip(inputs, masks, strict=True)]
    try:
        answers = runner.run([Sequence(values, mask, views, edits) for values, mask in zip(inputs, masks, strict=True)])
    except ERRORS as error:
        raise StartError(f"{place}: the golden request cannot be run: {first_line(error)}") from error
    wanted = [np.asarray(rows, np.float64) for rows in spec.golden.answer.block_output]
    triples = zip((np.asarray(answer[0], np.float32) for answer in answers), wanted, masks, strict=True)
    distance = float(np.max([np.abs(answer - want)[mask].max() for answer, want, mask in triples]))
    if not distance <= spec.golden.tolerance:
        where = f"{FINAL_OUTPUT}{' by layers' * (views != LEAN)}{' by editable layers' * bool(edits)}"
        message = f"{where} is {distance:.1e} from the golden answer, the manifest allows {spec.golden.tolerance:.1e}"
        raise StartError(f"{place}: {message}")
    return distance


def _same(spec: ModelSpec) -> tuple[Edit, ...]:
    """A change of each layer that changes nothing."""
    one = np.ones((), np.float32)
    sites = [
        (layer, editable.sites[-1]) for layer in range(len(spec.layers)) if (editable := spec.layers[layer].editable)
    ]
    return tuple(Edit(Output(layer, site), (), "scale", one) for layer, site in sites)


def _read_spec(folder: Path) -> tuple[ModelSpec, str]:
    data = read_plain(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    spec = read_manifest(data, str(folder / MANIFEST_FILE))
    if (spec.name, spec.version) != (folder.parent.name, folder.name):
        raise StartError(f"{folder}: its manifest says {spec.name}/{spec.version}")
    needed = {"model.onnx", WEIGHTS_FILE, *(graph for layer in spec.layers for graph in layer.graphs)}
    needed |= {spec.text.tokenizer, spec.text.embeddings} if spec.text else set()
    if missing := sorted(needed - spec.files.keys()):
        raise StartError(f"{folder / MANIFEST_FILE}: files: {missing[0]} is not listed")
    return spec, hashlib.sha256(data).hexdigest()
