"""Every number a person may tune, read once at the start, from flags and `GLASSBLOCK_*` variables."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from service.errors import StartError, nearest

PREFIX = "GLASSBLOCK_"
# What Kubernetes sets in every pod for a service whose name begins like our prefix.
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")

Bytes = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class Settings(BaseSettings):
    """The service's settings; each is a flag, an environment variable and a line of docs/operations.md."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="glassblock-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
    )

    models: Path = Field(Path("models"), description="Folder of models, one NAME/VERSION folder an artifact.")
    http_host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    http_port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for a free one.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port of gRPC on the same address; 0 for a free one. Not set, there is none."
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of NAME:SHA256 lines; where it is set, every route but the open ones asks for a key (401).",
    )
    max_connections: int = Field(4096, ge=1, description="Connections open at once, idle ones too (503 beyond).")
    max_header_lines: int = Field(100, ge=1, description="Header lines of a request (431).")
    max_header_bytes: int = Field(16_384, ge=1024, description="All header lines of a request, in bytes (431).")
    max_url_bytes: int = Field(2048, ge=64, le=60_000, description="A request's URL, in bytes (414).")
    idle_timeout_s: Seconds = Field(5.0, description="Seconds that a connection may be silent between requests.")
    header_timeout_s: Seconds = Field(5.0, description="Seconds from a request's first byte to its last header (408).")
    body_timeout_s: Seconds = Field(30.0, description="Seconds from the last header to the end of the body (408).")
    answer_timeout_s: Seconds = Field(
        30.0, description="Seconds in which a client must take a MiB of its answer, or the rest; else it is cut off."
    )
    provider: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where graphs run. cuda without a usable CUDA device stops the start: no silent fallback."
    )
    threads: int = Field(0, ge=0, le=1024, description="Threads of one run; 0 takes the CPU quota and affinity.")
    max_interventions: int = Field(
        256,
        ge=1,
        le=4096,
        description="Tensors that one request may change, after expansion; one of every sequence counts once.",
    )
    layer_graphs: Literal["off", "lazy", "eager"] = Field(
        "lazy",
        description="When the layers' graphs, which give probes, are loaded: never, on first use, or at the start. "
        "They hold a second copy of the weights, and those for interventions a third.",
    )
    model_control: bool = Field(
        default=False, description="Whether models may be loaded and unloaded over /v2/repository (403 otherwise)."
    )
    max_body_bytes: Bytes = Field(
        16 * 2**20, description="Largest request body, in bytes, inflated if it comes compressed (413)."
    )
    max_in_flight: int = Field(256, ge=1, description="Requests under way at once (429 beyond).")
    max_bodies_bytes: Bytes = Field(
        256 * 2**20,
        description="Bodies that are here, as much as has come of each, in bytes; one of the largest is always taken "
        "(429).",
    )
    max_outputs: int = Field(1024, ge=1, description="Tensors one request may ask for, after expansion (422).")
    max_request_tokens: int = Field(16_384, ge=1, description="Positions of all sequences of a request (422).")
    max_attention_cells: int = Field(
        2**28, ge=1, description="Heads times the sum of squared lengths of a request, for one layer (422)."
    )
    max_answer_bytes: Bytes = Field(64 * 2**20, description="Largest answer, counted as float32, in bytes (422).")
    max_answers_bytes: Bytes = Field(
        256 * 2**20,
        description="Arrays of all answers that are not written yet, in bytes, and beside them, for an answer of a MiB "
        "and more, what clients have not taken; where there is nothing, any are taken (429 beyond).",
    )
    max_memory_bytes: Bytes | None = Field(
        None,
        description="Memory that the process may take, in bytes; not set, the cgroup's limit or the machine's. "
        "Models and limits that could need more are lowered or stop the start.",
    )
    max_batch_tokens: int = Field(
        2048,
        ge=2,
        description="Padded positions of a batch at most; a longer sequence runs alone. "
        "Where larger batches stop paying is measured at the start, and they stop there.",
    )
    run_timeout_s: Seconds = Field(
        120.0, description="Seconds of a run, after which it is ended (504); one that does not end ends the process."
    )
    max_queued_tokens: int = Field(
        65_536, ge=1, description="Positions that wait for a model's run; while there are more, requests get 429."
    )
    max_wait_s: Seconds = Field(
        10.0, description="Predicted seconds of what waits for a model's run; while there are more, requests get 429."
    )
    shed_status: Literal[429, 503] = Field(
        429, description="Status of a request that is refused for the load; both come with Retry-After."
    )
    drain_delay_s: float = Field(
        0.0, ge=0, le=600, description="Seconds that requests are still served after SIGTERM, while readiness is 503."
    )
    drain_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Seconds that accepted work gets to finish after the listener has closed."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")


def read_settings(arguments: Sequence[str]) -> Settings:
    """Reads flags and environment; `--help` prints every field and exits.

    Raises:
        StartError: an unknown variable or flag, or a value out of bounds.
    """
    refuse_unknown_variables(os.environ)
    try:
        return CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise StartError(f"{_as_flag(name)} ({PREFIX}{name.upper()}): {first['msg']}{_hint(name)}") from None


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """A misspelt variable would be ignored in silence, so it stops the start.

    Raises:
        StartError: names the variable and the nearest field.
    """
    known = {name.upper() for name in Settings.model_fields}
    for variable in sorted(environment):
        name = variable.upper().removeprefix(PREFIX)
        if name == variable.upper() or name in known or _SERVICE_LINK.fullmatch(name):
            continue
        close = nearest(name, known, prefix=PREFIX)  # without the prefix, in which all are alike
        raise StartError(f"unknown environment variable {variable}{close}")


def _as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _hint(name: str) -> str:
    if os.environ.get(PREFIX + name.upper(), "").startswith("tcp://"):
        return " (the value looks like a Kubernetes service link; set enableServiceLinks: false)"
    return ""


def describe() -> list[tuple[str, str, Any, str]]:
    """Flag, variable, default and description of every setting, in order, for docs/operations.md."""
    return [
        (_as_flag(name), PREFIX + name.upper(), field.default, field.description or "")
        for name, field in Settings.model_fields.items()
    ]


if __name__ == "__main__":
    sys.stdout.writelines(f"| `{flag}` | `{env}` | `{default}` | {text} |\n" for flag, env, default, text in describe())
