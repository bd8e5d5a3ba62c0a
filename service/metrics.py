"""Prometheus metrics; label sets are fixed, whatever a client sends."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for every one of ours, which nobody reads

SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)

REQUESTS = Counter("glassblock_requests_total", "Answered requests.", ["route", "code"])
REQUEST_SECONDS = Histogram(
    "glassblock_request_duration_seconds", "From first byte to last.", ["route"], buckets=SECONDS
)
IN_FLIGHT = Gauge("glassblock_in_flight_requests", "Requests under way.")
SHED = Counter("glassblock_shed_total", "Requests refused at the door.", ["reason"])
CANCELLED = Counter(
    "glassblock_cancelled_total", "Sequences dropped before their run: their client had gone.", ["model"]
)
RUN_SECONDS = Histogram("glassblock_run_duration_seconds", "Runs of a batch.", ["model"], buckets=SECONDS)
BATCH_SIZE = Histogram(
    "glassblock_batch_size", "Sequences of a batch.", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
TOKENS = Counter("glassblock_tokens_total", "Positions that were run, padding not counted.", ["model"])
PADDED_TOKENS = Counter("glassblock_padded_tokens_total", "Positions that were run, padding counted.", ["model"])
LOST_LOG_LINES = Counter("glassblock_lost_log_lines_total", "Log lines dropped: stdout took no more.")
MODEL_INFO = Gauge("glassblock_model_info", "1 for each model served.", ["model", "version", "sha256", "provider"])

CONTENT_TYPE = CONTENT_TYPE_LATEST


def observe_batch(model: str, size: int, tokens: int, padded_tokens: int, run_s: float) -> None:
    """Records one run of a batch."""
    RUN_SECONDS.labels(model).observe(run_s)
    BATCH_SIZE.labels(model).observe(size)
    TOKENS.labels(model).inc(tokens)
    PADDED_TOKENS.labels(model).inc(padded_tokens)


def render() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)
