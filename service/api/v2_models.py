"""Our models in the protocol's words: metadata, configuration in Triton's form, statistics from the metrics."""

from typing import Any, NamedTuple

from service import __version__
from service.codec.inference_request import PROBES, list_outputs
from service.repository import Model, Repository
from service.settings import Settings

EXTENSIONS = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
]
PLATFORM = "onnxruntime_onnx"
_DATATYPES = {"float32": "FP32", "int64": "INT64"}


class Asked(NamedTuple):
    """A model under one of its two names.

    Attributes:
        model: found.
        probes: whether it was asked for as NAME.probes.
    """

    model: Model
    probes: bool

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self.model.spec.name + PROBES * self.probes


def find(repository: Repository, name: str, version: str | None) -> Asked:
    """A model by one of its two names, in this version or the highest.

    Raises:
        NotFoundError: no such model or version.
    """
    base = name.removesuffix(PROBES)
    return Asked(repository.get(base, version), base != name)


def server_metadata() -> dict[str, Any]:
    """Name, version and the protocol's extensions that are here."""
    return {"name": "glassblock", "version": __version__, "extensions": EXTENSIONS}


def model_metadata(asked: Asked, repository: Repository) -> dict[str, Any]:
    """Names, datatypes and shapes, -1 for sizes that a request decides; and every version that is served."""
    return _metadata(asked, sorted(repository.models[asked.model.spec.name], key=int))


def _metadata(asked: Asked, versions: list[str]) -> dict[str, Any]:
    spec = asked.model.spec
    outputs = list_outputs(spec, probes=asked.probes)
    return {
        "name": asked.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": [{"name": t.name, "datatype": _DATATYPES[t.dtype], "shape": t.shape} for t in spec.inputs],
        "outputs": [{"name": name, "datatype": "FP32", "shape": list(shape)} for name, shape in outputs.items()],
    }


def configuration(asked: Asked, repository: Repository, settings: Settings) -> dict[str, Any]:
    """As Triton's ModelConfig, where sizes leave the batch out; a request may hold as many sequences as positions."""
    described = _metadata(asked, [])
    return {
        "name": described["name"],
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": len(repository.models[asked.model.spec.name])}},
        "max_batch_size": settings.max_request_tokens,
        "input": [_tensor(tensor, optional=tensor["name"] != "hidden_states") for tensor in described["inputs"]],
        "output": [_tensor(tensor) for tensor in described["outputs"]],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
    }


def all_statistics(repository: Repository) -> dict[str, Any]:
    """Of both names of every version."""
    asked = [Asked(found, probes) for found in repository.all() for probes in (False, True)]
    return {"model_stats": [statistics(one) for one in asked]}


def statistics(asked: Asked) -> dict[str, Any]:
    """Counts and nanoseconds since the start: inferences are sequences, executions are runs."""
    metrics = asked.model.metrics
    totals = metrics.totals()
    runs, sequences = totals["batches"]
    stages = {name: totals[name] for name in ("queue", "decode", "run", "encode")}
    success = totals["encode"][0], sum(seconds for _, seconds in stages.values())
    return {
        "name": asked.name,
        "version": asked.model.spec.version,
        "last_inference": round(metrics.last_run_s * 1e3),
        "inference_count": int(sequences),
        "execution_count": runs,
        "inference_stats": {
            "success": _duration(*success),
            "fail": _duration(*totals["failed"]),
            "queue": _duration(*stages["queue"]),
            "compute_input": _duration(*stages["decode"]),
            "compute_infer": _duration(*stages["run"]),
            "compute_output": _duration(*stages["encode"]),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def _tensor(tensor: dict[str, Any], **more: bool) -> dict[str, Any]:
    return {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}", "dims": tensor["shape"][1:], **more}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
