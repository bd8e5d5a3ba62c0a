"""Memory: what there is, what models and limits may need of it, and what is refused where that is more."""

import json
import random
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from service.budget import available_bytes, count, fit
from service.errors import OverloadedError, StartError
from service.manifest import read_manifest
from service.repository import load_model
from service.runner import Runner
from service.settings import Settings
from service.tensors import Output, Sequence, View
from tests import forked
from tests.server import Server, link_models, running
from tests.service.refusal import assert_refused

MIB = 2**20
WIDE = 1 << 62  # what cgroup v1 says where there is no limit is of this size


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 8 * 2**30),
        ({"memory.max": "max"}, 8 * 2**30),
        ({"memory.max": "536870912"}, 512 * MIB),
        ({"memory/memory.limit_in_bytes": "268435456"}, 256 * MIB),
        ({"memory/memory.limit_in_bytes": str(WIDE)}, 8 * 2**30),
    ],
)
def test_the_limit_is_the_cgroups_or_else_the_machines_memory(
    files: dict[str, str], limit: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree:          100000 kB\n")
    assert available_bytes(tmp_path, tmp_path / "meminfo") == limit


def test_a_start_that_does_not_fit_says_what_takes_how_much_and_ends(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    done = forked.run(tmp_path, "serve", f"--models={models}", "--http-port=0", f"--max-memory-bytes={64 * MIB}")
    assert done.returncode == 1
    assert re.fullmatch(
        r"glassblock-serve: expected [\d,]+ MiB of memory at most to be within 64 MiB \(max_memory_bytes\): "
        r"process 160 MiB, (\w+ \d+ MiB(, |; )){6}lower max_body_bytes, max_bodies_bytes, max_answer_bytes, "
        r"max_queued_tokens or max_batch_tokens, serve fewer models, or set layer_graphs to off\n",
        done.stderr,
    )


def test_minilm_fits_into_a_gibibyte_and_into_three_quarters_of_one(artifact: Callable[[str], Path]) -> None:
    path = artifact("minilm") / "manifest.json"
    spec = read_manifest(path.read_bytes(), str(path))
    for limit in (2**30, 3 * 2**28):
        fitted = fit([spec], Settings.model_validate({"max_memory_bytes": limit}))
        assert count([spec], fitted).total <= limit
        assert fitted.max_batch_tokens >= 512
        assert fitted.max_request_tokens == Settings.model_validate({}).max_request_tokens
    with pytest.raises(StartError, match=r"expected 7[0-9][0-9] MiB of memory at most to be within 700 MiB"):
        fit([spec], Settings.model_validate({"max_memory_bytes": 700 * MIB}))


@pytest.fixture(scope="module")
def tight(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one small model, with memory for hardly more; its models folder holds another one."""
    folder = tmp_path_factory.mktemp("tight")
    shutil.copytree(artifact("tiny"), folder / "models" / "tiny" / "1")
    with running(folder / "models", folder, model_control=True, max_memory_bytes=440 * MIB) as server:
        shutil.copytree(artifact("minilm"), folder / "models" / "minilm" / "1")
        yield server


def test_limits_are_lowered_until_the_models_fit_and_it_is_said(tight: Server) -> None:
    said = tight.stderr.read_text()
    lowered = re.findall(
        r"glassblock-serve: (\w+) is ([\d,]+) instead of [\d,]+, to stay within 440 MiB of memory\n", said
    )
    assert [name for name, _ in lowered] == ["max_attention_cells", "max_answers_bytes", "max_bodies_bytes"]
    found = re.search(r"memory  at most (\d+) MiB of 440 MiB: ", said)
    assert found
    assert int(found[1]) <= 440
    cells = int(lowered[0][1].replace(",", ""))
    length = int((cells / 2) ** 0.5) + 1  # of two heads
    body = {"hidden_states": [np.zeros((length, 8)).tolist()]}
    with tight.client() as client:
        refused = client.post("/v1/models/tiny/forward", json=body)
    message = f"expected at most {cells:,} cells of heads times squared length, got {2 * length**2:,}"
    assert_refused(refused, 422, "too_much_attention", "", message)


def test_a_model_that_does_not_fit_is_not_loaded_and_the_others_answer_on(tight: Server) -> None:
    with tight.client() as client:
        refused = client.post("/v2/repository/models/minilm/load")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_loaded")
        assert re.match(r"expected [\d,]+ MiB of memory at most to be within 440 MiB", refused.json()["error"])
        answer = client.post("/v1/models/tiny/forward", json={"hidden_states": [[[0.5] * 8]]})
        assert answer.status_code == httpx.codes.OK


def runner_of(folder: Path, **settings: object) -> Runner:
    return load_model(folder, Settings(**settings), lambda: None).runner  # type: ignore[arg-type]


def test_answers_beside_those_that_are_not_written_yet_are_refused_beyond_a_limit(
    artifact: Callable[[str], Path],
) -> None:
    runner = runner_of(artifact("tiny"), max_answers_bytes=100_000)
    maps = tuple(View(Output(layer, "attention_weights")) for layer in range(2))
    sequence = Sequence(np.ones((128, 8), np.float32), np.ones(128, np.bool_), maps)  # 2 layers · 2 heads · 128² · 4 B
    first = runner.run([sequence])  # alone it may be larger than the limit
    with pytest.raises(OverloadedError) as refused:
        runner.run([sequence])
    message = "no room for this answer: all that are not sent may take 100,000 bytes; try again in a moment"
    assert (refused.value.sentence, refused.value.code) == (message, "answers_full")
    view = np.asarray(first[0][0])[0]
    del first
    with pytest.raises(OverloadedError):  # a view keeps all of it
        runner.run([sequence])
    del view
    assert len(runner.run([sequence])) == 1


def peak_while(process: psutil.Process, work: Callable[[], None]) -> int:
    """The most bytes in memory while something is done."""
    done, seen = threading.Event(), [process.memory_info().rss]

    def look() -> None:
        while not done.wait(0.02):
            seen.append(process.memory_info().rss)

    watch = threading.Thread(target=look)
    watch.start()
    work()
    done.set()
    watch.join()
    return max(seen)


def budget_of(server: Server) -> int:
    """Bytes that the banner says are needed at most."""
    found = re.search(r"memory  at most ([\d,]+) MiB", server.stderr.read_text())
    assert found
    return int(found[1].replace(",", "")) * MIB


@pytest.mark.long
@pytest.mark.timeout(400)
def test_memory_stays_over_changing_shapes_and_within_the_budget(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"minilm": artifact("minilm")})
    dice, generator = random.Random(1), np.random.default_rng(1)  # noqa: S311 - no secret
    shapes = [(dice.choice((1, 1, 2, 4)), dice.randint(2, 200)) for _ in range(24)] + [(1, 1000), (3, 500)]
    limits: dict[str, Any] = {"max_attention_cells": 12 * 1000**2, "max_wait_s": 600, "max_memory_bytes": 2200 * MIB}
    with running(models, tmp_path, **limits) as server, server.client() as client:
        process = psutil.Process(server.process.pid)

        def ask_all() -> None:
            for size, length in dice.sample(shapes, len(shapes)):
                rows = generator.standard_normal((size, length, 384)).astype("<f4")
                maps = [] if length > 200 else ["layers.*.attention_weights"]
                body = safetensors(rows, ["block_output", *maps])
                headers = {"Content-Type": "application/x-safetensors", "Accept": "application/x-safetensors"}
                answer = client.post("/v1/models/minilm/forward", content=body, headers=headers)
                assert answer.status_code == httpx.codes.OK, answer.text

        peaks, after = [], []
        for _ in range(4):
            peaks.append(peak_while(process, ask_all))
            after.append(process.memory_info().rss)
        budget = budget_of(server)
    sys.stdout.write(
        f"budget {budget // MIB} MiB, peaks {[p // MIB for p in peaks]}, after {[a // MIB for a in after]}\n"
    )
    assert max(peaks) <= budget
    assert max(peaks[2:]) <= 1.1 * max(peaks[:2])
    assert max(after[2:]) <= 1.1 * max(after[:2])


def safetensors(rows: NDArray[np.float32], outputs: list[str]) -> bytes:
    return save({"hidden_states": rows}, {"outputs": json.dumps(outputs)})


@pytest.mark.long
@pytest.mark.timeout(300)
def test_memory_with_queue_and_bodies_full_stays_within_the_budget(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"head-256": artifact("head-256")})
    body = safetensors(np.random.default_rng(1).standard_normal((480, 16, 512)).astype("<f4"), ["block_output"])
    limits: dict[str, Any] = {"max_wait_s": 600, "max_memory_bytes": 1500 * MIB}
    codes: list[int] = []
    with running(models, tmp_path, **limits) as server:

        def ask() -> None:
            headers = {"Content-Type": "application/x-safetensors", "Accept": "application/x-safetensors"}
            with server.client() as own:
                codes.append(
                    own.post("/v1/models/head-256/forward", content=body, headers=headers, timeout=240).status_code
                )

        def crowd() -> None:
            threads = [threading.Thread(target=ask) for _ in range(24)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        peak = peak_while(psutil.Process(server.process.pid), crowd)
        budget = budget_of(server)
    sys.stdout.write(f"budget {budget // MIB} MiB, peak {peak // MIB} MiB, answers {sorted(codes)}\n")
    assert peak <= budget
    assert set(codes) == {200, 429}
