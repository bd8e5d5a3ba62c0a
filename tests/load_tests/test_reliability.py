"""Short runs of `make chaos` and `make soak`, and what they do not let pass."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from load_tests import chaos, killed, soak
from load_tests.balancer import Balancer, balancing, find_haproxy
from load_tests.replicas import free_address, replicas_of
from load_tests.sender import Exchange
from load_tests.server import export_model
from tests.server import link_models
from tests.service.corruption import change, copy_artifact
from tests.service.refusal import GOOD

MIB = 2**20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reliability") / "models"
    export_model(folder, soak.MODEL, **soak.SIZES)
    return folder


@pytest.fixture(scope="module")
def haproxy() -> str:
    """The program."""
    found = find_haproxy()
    assert found is not None, "apt-get install haproxy"
    return found


@pytest.mark.long
@pytest.mark.timeout(120)
def test_answers_among_others_have_the_bits_they_have_alone_and_memory_stays(models: Path, tmp_path: Path) -> None:
    soaked = soak.soak(models, tmp_path, 4000)
    assert soaked.faults() == []
    assert soaked.leaks() == []
    assert soaked.outcomes.keys() == {"equal", "left"}
    assert soaked.outcomes.total() == 4800
    assert 0.15 < soaked.outcomes["left"] / 4800 < 0.25


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_same_look_at_memory_finds_a_server_that_keeps_every_request(models: Path, tmp_path: Path) -> None:
    soaked = soak.soak(models, tmp_path, 4000, soak.LEAKING)
    assert soaked.faults() == []
    assert [sentence.partition(" by ")[0] for sentence in soaked.leaks()] == ["memory grew"]


@pytest.mark.long
@pytest.mark.timeout(120)
def test_what_a_server_was_sent_before_sigterm_is_answered_with_200(models: Path, tmp_path: Path) -> None:
    (stop,) = chaos.stop_often(models, tmp_path, 1)
    assert stop.before.keys() == {"200"}
    assert stop.before["200"] >= chaos.CLIENTS
    assert stop.exit_code == 0


@pytest.mark.long
@pytest.mark.timeout(120)
def test_two_rolling_restarts_lose_no_request(haproxy: str, models: Path, tmp_path: Path) -> None:
    rolling = chaos.roll_behind(haproxy, models, tmp_path, 2, 1.0)
    assert rolling.faults() == []
    assert rolling.kept.keys() == rolling.new.keys() == {"200"}
    assert rolling.kept.total() + rolling.new.total() >= 2 * chaos.LEAST_REQUESTS_A_RESTART
    assert rolling.exit_codes == [0, 0]


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_killed_replica_loses_what_it_had_in_hand_and_nothing_else(
    haproxy: str, models: Path, tmp_path: Path
) -> None:
    found = killed.kill_behind(haproxy, models, tmp_path)
    assert found.faults() == []
    assert found.exit_code == -9
    assert found.outcomes["200"] > 10 * len(found.lost) > 0


@contextmanager
def behind(haproxy: str, folder: Path, *models: Path) -> Iterator[httpx.Client]:
    """A client of haproxy before a replica of each models folder."""
    balancer = Balancer(free_address(), free_address())
    with replicas_of(folder, 0, *models) as replicas:
        for replica in replicas:
            replica.start()
        with (
            balancing(haproxy, folder, balancer, [replica.address for replica in replicas]),
            httpx.Client(base_url=f"http://{balancer.address}") as client,
        ):
            yield client


@pytest.mark.long
@pytest.mark.timeout(120)
def test_replicas_of_different_models_are_told_apart_by_the_hash_in_each_answer(
    haproxy: str, artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    ours = link_models(tmp_path / "ours", {"tiny": artifact("tiny")})
    change("source", "reference", value="another")(copy_artifact(artifact("tiny"), tmp_path / "other"))
    for other, expected in ((ours, 1), (tmp_path / "other", 2)):
        with behind(haproxy, tmp_path, ours, other) as client:
            answers = [client.post("/v1/models/tiny/forward", content=GOOD) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len({answer.headers["x-model-sha256"] for answer in answers}) == expected


def test_memory_is_compared_from_the_middle_on() -> None:
    warming_up = [100 * MIB] * 50 + [150 * MIB] * 50
    growing = [150 * MIB] * 50 + [150 * MIB + at * MIB // 10 for at in range(50)]
    assert soak.Soaked(rss_bytes=warming_up).leaks() == []
    assert soak.Soaked(rss_bytes=growing).leaks() == ["memory grew by 2.7% in the second half, more than 2%"]


def test_an_answer_of_other_bits_and_one_that_did_not_come_are_faults() -> None:
    outcomes = Counter({"equal": 5, "left": 2, "other bits": 1, "ConnectionResetError": 2})
    assert soak.Soaked(outcomes=outcomes).faults() == [
        "expected the bits of the answer alone, got other bits 1 times",
        "expected the bits of the answer alone, got ConnectionResetError 2 times",
    ]


def test_what_clients_may_not_see_of_a_stop_is_said() -> None:
    good, late = Counter({"200": 9}), Counter({"200": 1, "503": 2})
    assert chaos.Stop(good, late).faults() == []
    assert chaos.Stop(good + late, Counter(["ConnectionResetError"]), exit_code=-9).faults() == [
        "sent before the signal: expected 200 alone, got 503",
        "sent after the signal: expected 200 or 503, got ConnectionResetError",
        "expected exit code 0 after SIGTERM, got -9",
    ]


def test_what_clients_may_not_see_of_rolling_restarts_is_said() -> None:
    good = Counter({"200": 9})
    assert chaos.Rolling(good, good, [0, 0], {"replica0": 9, "replica1": 9}).faults() == []
    assert chaos.Rolling(good, Counter(["503"]), [0, 1], {"replica0": 10, "replica1": 0}).faults() == [
        "while replicas restarted: expected 200 alone, got 503",
        "expected exit code 0 after each SIGTERM, got [1]",
        "invalid: replica1 was never asked",
    ]


def test_what_clients_may_not_see_of_a_death_is_said() -> None:
    in_hand, before, after, late = (
        Exchange(sent_s, sent_s, done_s, "broken")
        for sent_s, done_s in ((0.9, 1.1), (0.5, 0.9), (1.3, 1.35), (0.9, 1.5))
    )
    good = Exchange(1.3, 1.3, 1.5, "200")
    assert killed.Killed([good, in_hand], 1.0, 1.2).faults() == []
    assert killed.Killed([good], 1.0, 1.2).faults() == ["invalid: the replica that was killed had nothing in hand"]
    assert killed.Killed([before, in_hand, after, late], 1.0, 1.2).faults() == [
        "2 requests failed that were not under way at the death",
        "1 clients were told more than 0.2 s after the death",
    ]
    assert killed.Killed([in_hand] * 33, 1.0, 1.2).faults() == []  # one had sent its next to the dying process
    assert killed.Killed([in_hand] * 65, 1.0, 1.2, given_up=1).faults() == [
        "65 requests of 32 clients failed",
        "1 requests to the other replica were given up",
    ]
