"""Prometheus metrics; label sets are fixed, whatever a client sends.

On the path of a request every series has been resolved before: looking one up by its labels costs more than counting.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from service.histogram import Histogram, Series

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for every one of ours, which nobody reads

SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
    0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
STAGES = ("decode", "queue", "run", "encode")
SHED_REASONS = (
    "loading", "closed", "dead", "in_flight", "bodies_full", "answers_full", "body_too_large", "queue_full",
    "too_many_tokens", "too_much_attention", "answer_too_large", "layer_graphs_off",
    "unauthorized", "too_many_connections", "invalid_http", "head_timeout", "body_timeout",
    "url_too_long", "too_many_headers", "headers_too_large",
)  # fmt: skip
_MODEL = ["model", "version"]

REQUESTS = Counter(
    "glassblock_requests_total", "Answered requests; code 499: the client left first.", ["route", "code"]
)
REQUEST_SECONDS = Histogram(
    "glassblock_request_duration_seconds",
    "From a request's head to its answer's last byte.",
    ["route"],
    buckets=SECONDS,
)
IN_FLIGHT = Gauge("glassblock_in_flight_requests", "Requests under way.")
SHED = Counter("glassblock_shed_total", "Requests refused on the wire, at the door or by the ticket.", ["reason"])
STAGE_SECONDS = Histogram(
    "glassblock_stage_duration_seconds", "Stages of an answered request.", [*_MODEL, "stage"], buckets=SECONDS
)
QUEUED_TOKENS = Gauge("glassblock_queued_tokens", "Positions that wait for a run.", _MODEL)
CANCELLED = Counter("glassblock_cancelled_total", "Sequences dropped, or run in vain: their client had gone.", _MODEL)
RUN_SECONDS = Histogram("glassblock_run_duration_seconds", "Runs of a batch.", _MODEL, buckets=SECONDS)
BATCH_SIZE = Histogram("glassblock_batch_size", "Sequences of a batch.", _MODEL, buckets=(1, 2, 4, 8, 16, 32, 64, 128))
TOKENS = Counter("glassblock_tokens_total", "Positions that were run, padding not counted.", _MODEL)
PADDED_TOKENS = Counter("glassblock_padded_tokens_total", "Positions that were run, padding counted.", _MODEL)
LAST_RUN = Gauge("glassblock_last_run_timestamp_seconds", "When the last run ended, in seconds since 1970.", _MODEL)
FAILED_SECONDS = Summary(
    "glassblock_failed_duration_seconds",
    "Requests to a model that failed, were late, or refused once their model was found, or whose client left.",
    _MODEL,
)
LOST_LOG_LINES = Counter("glassblock_lost_log_lines_total", "Log lines dropped: stdout took no more.")
MODEL_INFO = Gauge("glassblock_model_info", "1 for each model served.", [*_MODEL, "sha256", "provider"])

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SHED_BY_REASON = {reason: SHED.labels(reason) for reason in SHED_REASONS}


class ModelMetrics:
    """What is counted of one version of a model.

    Args:
        name: of the model.
        version: of the model.
    """

    def __init__(self, name: str, version: str) -> None:
        self._labels = (name, version)
        self._stages = [STAGE_SECONDS.labels(name, version, stage) for stage in STAGES]
        self._run_seconds = RUN_SECONDS.labels(name, version)
        self._batch_size = BATCH_SIZE.labels(name, version)
        self._tokens = TOKENS.labels(name, version)
        self._padded_tokens = PADDED_TOKENS.labels(name, version)
        self._cancelled = CANCELLED.labels(name, version)
        self._last_run = LAST_RUN.labels(name, version)
        self._failed = FAILED_SECONDS.labels(name, version)

    def describe(self, sha256: str, provider: str, waiting: Callable[[], int]) -> None:
        """Shows the model as served; `waiting` tells its queued positions whenever the metrics are read."""
        MODEL_INFO.labels(*self._labels, sha256, provider).set(1)
        QUEUED_TOKENS.labels(*self._labels).set_function(waiting)

    def forget(self) -> None:
        """Shows the model no more; what was counted of it stays."""
        QUEUED_TOKENS.remove(*self._labels)
        MODEL_INFO.remove_by_labels(dict(zip(_MODEL, self._labels, strict=True)))

    def totals(self) -> dict[str, tuple[int, float]]:
        """How often, and the sum: of each stage's seconds, of failed requests' seconds, and of runs' sequences."""
        failed = {sample.name.rpartition("_")[2]: sample.value for sample in _samples(self._failed)}
        series = {**dict(zip(STAGES, self._stages, strict=True)), "batches": self._batch_size}
        found = {name: (one.count, one.sum) for name, one in series.items()}
        return found | {"failed": (int(failed["count"]), failed["sum"])}

    @property
    def last_run_s(self) -> float:
        """When the last run ended, in seconds since 1970; 0 before the first."""
        return float(_samples(self._last_run)[0].value)

    def observe_stages(self, decode_s: float, queue_s: float, run_s: float, encode_s: float) -> None:
        """Records an answered request."""
        for stage, seconds in zip(self._stages, (decode_s, queue_s, run_s, encode_s), strict=True):
            stage.observe(seconds)

    def observe_batch(self, lengths: list[int], run_s: float) -> None:
        """Records one run of a batch of sequences of these lengths, padded to the longest."""
        self._run_seconds.observe(run_s)
        self._batch_size.observe(len(lengths))
        self._tokens.inc(sum(lengths))
        self._padded_tokens.inc(max(lengths) * len(lengths))
        self._last_run.set_to_current_time()

    def observe_failure(self, duration_s: float) -> None:
        """Records a request that was not answered."""
        self._failed.observe(duration_s)

    def count_cancelled(self, sequences: int) -> None:
        """Counts sequences that nobody waits for any more."""
        if sequences:
            self._cancelled.inc(sequences)


def _samples(metric: Collector) -> list[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]


def count_request(route: str, status: int, duration_s: float, error_code: str | None) -> None:
    """Counts an answered request, as shed if its error is one of SHED_REASONS.

    Args:
        route: its template, never its path.
        status: of the answer.
        duration_s: how long it took.
        error_code: of the error it was answered with.
    """
    requests, seconds = _request_series(route, status)
    requests.inc()
    seconds.observe(duration_s)
    if error_code in _SHED_BY_REASON:
        _SHED_BY_REASON[error_code].inc()


@cache
def _request_series(route: str, status: int) -> tuple[Counter, Series]:
    return REQUESTS.labels(route, status), REQUEST_SECONDS.labels(route)


def render() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)
