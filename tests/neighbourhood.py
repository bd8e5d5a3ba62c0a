"""Requests that are asked alone first, and then by many clients at once."""

import http.client
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from hypothesis import settings
from prometheus_client.parser import text_string_to_metric_families

from tests.server import Server

# Of threads, 0 is one a processor, as a server has that is not told (tests/server.py says why not in `make test`).
CLIENTS, ROUNDS, THREADS = (16, 3, 0) if settings.get_current_profile_name() == "thorough" else (8, 1, 1)
MOST_TURNS = 10  # who asks when is chance: one is nearly always enough


class Case:
    """A request and, once asked alone, the answer it must always get."""

    def __init__(self, model: str, body: dict[str, Any]) -> None:
        self.model = model
        self.body = json.dumps(body).encode()
        self.alone: tuple[int, bytes] = (0, b"")

    def ask(self, connection: http.client.HTTPConnection) -> tuple[int, bytes]:
        connection.request("POST", f"/v1/models/{self.model}/forward", self.body)
        response = connection.getresponse()
        return response.status, response.read()


def hidden_case(model: str, seed: int, lengths: Iterable[int], **fields: Any) -> Case:
    width = {"tiny": 8, "head-256": 512}[model]
    generator = np.random.default_rng(seed)
    rows = [generator.normal(0, 1, (length, width)).astype(np.float32).round(4).tolist() for length in lengths]
    return Case(model, {"hidden_states": rows, **fields})


def ids_case(seed: int, lengths: Iterable[int], **fields: Any) -> Case:
    generator = np.random.default_rng(seed)
    ids = [generator.integers(1000, 30000, length).tolist() for length in lengths]
    return Case("minilm", {"input_ids": ids, **fields})


def connect(server: Server) -> http.client.HTTPConnection:
    url = httpx.URL(server.url)
    return http.client.HTTPConnection(url.host, url.port, timeout=60)


def ask_alone(server: Server, cases: list[Case]) -> None:
    """Asks one after another while nothing else is under way; every answer must be another one's."""
    connection = connect(server)
    for case in cases:
        case.alone = case.ask(connection)
        assert case.alone[0] == 200
    connection.close()
    assert len({case.alone for case in cases}) == len(cases)


def ask_together(server: Server, cases: list[Case], disturb: Callable[[np.random.Generator], None]) -> int:
    """Asks all in another order each round, from many clients; returns how many answers were compared, all equal."""

    def ask_some(client: int) -> int:
        chance, connection, compared = np.random.default_rng(client), connect(server), 0
        for _ in range(ROUNDS):
            for index in chance.permutation(len(cases)):
                disturb(chance)
                assert cases[index].ask(connection) == cases[index].alone
                compared += 1
        connection.close()
        return compared

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(ask_some, range(CLIENTS)))


def leave_alone(_: np.random.Generator) -> None:
    """Disturbs nothing."""


def samples(server: Server, model: str) -> dict[str, float]:
    """What the metrics say of a model's batches."""
    with server.client() as client:
        families = text_string_to_metric_families(client.get("/metrics").text)
    ours = [sample for family in families for sample in family.samples if sample.labels.get("model") == model]
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in ours}
    batches, alone = (found.get(("glassblock_batch_size_bucket", le), 0.0) for le in ("+Inf", "1.0"))
    tokens, padded = (found.get((f"glassblock_{name}_total", None), 0.0) for name in ("tokens", "padded_tokens"))
    return {
        "shared batches": batches - alone,
        "padding": padded - tokens,
        "cancelled": found.get(("glassblock_cancelled_total", None), 0.0),
    }


def assert_equal_alone_and_together(
    server: Server, cases: list[Case], disturb: Callable[[np.random.Generator], None] = leave_alone
) -> None:
    ask_alone(server, cases)
    before = samples(server, cases[0].model)
    for _ in range(MOST_TURNS):
        compared = ask_together(server, cases, disturb)
        assert compared == CLIENTS * ROUNDS * len(cases)
        after = samples(server, cases[0].model)
        shared, padding = (after[name] - before[name] for name in ("shared batches", "padding"))
        if shared > compared / 100 and padding > 0:
            return
    raise AssertionError(f"{shared} batches formed and {padding} positions were padded: too few to show anything")
