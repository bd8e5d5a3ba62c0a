"""What the process may need of memory at most, counted from manifests and limits, and held against what there is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from service.errors import StartError
from service.manifest import ModelSpec
from service.session import WEIGHTS_FILE
from service.settings import Settings

LARGE_RUN_BYTES = 64 * 2**20  # of a run's activations, beyond which there is one such run at a time
# Measured (docs/decisions/0025): tensors of a layer that are there at once, and what the process takes beside models.
_MAPS, _WIDTHS, _INNER_WIDTHS = 3, 6, 3
_PIECES = 2  # times that: a pool in which blocks of many sizes come and go is never filled
_PROCESS_BYTES = 160 * 2**20
_MODEL_BYTES = 16 * 2**20  # of a session's graph, threads and tokenizer
_CELLS_FLOOR = 512**2  # of a head: the fit keeps sequences of 512 positions
_BATCH_FLOOR = 512  # positions of a batch
_LOWERED = ("max_attention_cells", "max_answers_bytes", "max_bodies_bytes", "max_batch_tokens", "max_queued_tokens")


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes at most, by what takes them.

    Attributes:
        process: interpreter and libraries.
        weights: of every model, packed: once for model.onnx, and again for the layers' graphs and the editable ones.
        loading: while the largest model, or its layers, are loaded: the file's bytes, and a copy not packed yet.
        runs: activations; of all models one large run, and one of `LARGE_RUN_BYTES` for each other model; and what lies
            unused between them.
        answers: arrays of runs, until they are written.
        bodies: requests' bytes and the tensors read from them.
        queued: hidden states that wait for a run.
    """

    process: int
    weights: int
    loading: int
    runs: int
    answers: int
    bodies: int
    queued: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        """What takes how much, the largest first."""
        parts = sorted(((getattr(self, field.name), field.name) for field in fields(self)), reverse=True)
        return ", ".join(f"{name} {_mebibytes(size)}" for size, name in parts)


def activations_bytes(spec: ModelSpec, batch_size: int, length: int) -> int:
    """Bytes of a run beside weights and answers: three maps of scores, and the rows of a layer that live at once."""
    maps = _MAPS * (spec.num_attention_heads or 1) * length**2
    return 4 * batch_size * (maps + length * (_WIDTHS * spec.hidden_size + _INNER_WIDTHS * spec.widest))


def longest(spec: ModelSpec, settings: Settings) -> int:
    """Positions of the longest sequence that is let through."""
    by_cells = math.isqrt(settings.max_attention_cells // (spec.num_attention_heads or 1))
    return max(2, min(spec.max_sequence_length or by_cells, settings.max_request_tokens, by_cells))


def count(specs: Sequence[ModelSpec], settings: Settings) -> Budget:
    """The budget of a process that serves these models under these limits."""
    packed = [_packed_bytes(spec, settings) for spec in specs]
    files = [spec.files[WEIGHTS_FILE].bytes for spec in specs]
    runs = sorted((_largest_run(spec, settings) for spec in specs), reverse=True)
    positions = settings.max_queued_tokens + settings.max_request_tokens
    return Budget(
        process=_PROCESS_BYTES,
        weights=sum(packed),
        loading=2 * max(files, default=0),
        runs=_PIECES * (sum(runs[:1]) + sum(min(run, LARGE_RUN_BYTES) for run in runs[1:])),
        answers=max(settings.max_answers_bytes, settings.max_answer_bytes),
        bodies=2 * max(settings.max_bodies_bytes, settings.max_body_bytes),
        queued=4 * positions * max((spec.hidden_size for spec in specs), default=0),
    )


def fit(specs: Sequence[ModelSpec], settings: Settings) -> Settings:
    """Settings under which the models fit: limits that are too high are halved, `max_attention_cells` first.

    Returns:
        The settings, `max_memory_bytes` set to what there is.

    Raises:
        StartError: they do not fit, however low.
    """
    settings = settings.model_copy(update={"max_memory_bytes": settings.max_memory_bytes or available_bytes()})
    heads = max((spec.num_attention_heads or 1 for spec in specs), default=1)
    floors = [heads * _CELLS_FLOOR, settings.max_answer_bytes, settings.max_body_bytes]
    floors += [_BATCH_FLOOR, settings.max_request_tokens]
    for name, floor in zip(_LOWERED, floors, strict=True):
        while (value := getattr(settings, name)) > floor and not _fits(specs, settings):
            settings = settings.model_copy(update={name: max(floor, value // 2)})
    hold(specs, settings)
    return settings


def hold(specs: Sequence[ModelSpec], settings: Settings) -> None:
    """Refuses models that do not fit together.

    Raises:
        StartError: says what takes how much.
    """
    if not _fits(specs, settings):
        budget = count(specs, settings)
        raise StartError(
            f"expected {_mebibytes(budget.total)} of memory at most to be within {_mebibytes(limit_bytes(settings))} "
            f"(max_memory_bytes): {budget}; lower max_body_bytes, max_bodies_bytes, max_answer_bytes, "
            "max_queued_tokens or max_batch_tokens, serve fewer models, or set layer_graphs to off"
        )


def lowered(before: Settings, after: Settings) -> list[str]:
    """What `fit` has changed, a sentence a setting."""
    return [
        f"{name} is {getattr(after, name):,} instead of {getattr(before, name):,}, to stay within "
        f"{_mebibytes(limit_bytes(after))} of memory"
        for name in _LOWERED
        if getattr(after, name) != getattr(before, name)
    ]


def describe(specs: Sequence[ModelSpec], settings: Settings) -> str:
    """The budget in one line."""
    budget = count(specs, settings)
    return f"at most {_mebibytes(budget.total)} of {_mebibytes(limit_bytes(settings))}: {budget}"


def limit_bytes(settings: Settings) -> int:
    """What the process may take: the setting, or what there is."""
    return settings.max_memory_bytes or available_bytes()


def available_bytes(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int:
    """The least of the cgroup's limit (v2 `memory.max`, v1 `memory.limit_in_bytes`) and the machine's memory."""
    found = [_read(cgroup / "memory.max"), _read(cgroup / "memory/memory.limit_in_bytes"), _machine_bytes(meminfo)]
    return min((size for size in found if size is not None), default=2**63)


def _fits(specs: Sequence[ModelSpec], settings: Settings) -> bool:
    return count(specs, settings).total <= limit_bytes(settings)


def _packed_bytes(spec: ModelSpec, settings: Settings) -> int:
    whole = spec.files[WEIGHTS_FILE].bytes
    embeddings = 4 * spec.text.vocab_size * spec.hidden_size if spec.text else 0
    of_layers = whole - min(embeddings, whole)
    times = 0 if settings.layer_graphs == "off" else max(len(layer.graphs) for layer in spec.layers)
    return whole + times * of_layers + _MODEL_BYTES


def _largest_run(spec: ModelSpec, settings: Settings) -> int:
    """Of a sequence alone, or of a batch; the batch as if it were as long as its longest sequence may be."""
    alone = longest(spec, settings)
    length = min(alone, settings.max_batch_tokens)
    batch_size = max(1, settings.max_batch_tokens // length)
    return max(activations_bytes(spec, 1, alone), activations_bytes(spec, batch_size, length))


def _machine_bytes(meminfo: Path) -> int | None:
    try:
        words = _words(meminfo.read_text())
        return next((1024 * int(size) for name, size in words if name == "MemTotal:"), None)
    except OSError:
        return None


def _words(text: str) -> Iterable[tuple[str, str]]:
    return ((line.split()[0], line.split()[1]) for line in text.splitlines())


def _read(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
