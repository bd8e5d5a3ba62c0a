"""Interventions and neighbours: who changes something is alone what it is in a batch, and changes nobody else."""

import json
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest

from tests.neighbourhood import Case, ask_alone, assert_equal_alone_and_together, connect, hidden_case
from tests.server import Server
from tests.service.log_lines import log_of

LENGTHS = (1, 2, 3, 5, 8, 9, 16, 17, 31, 33)
OUTPUTS = ["block_output", "layers.1.attention_weights", "layers.0.context"]
LEAST = float(np.finfo(np.float32).min)
NON_FINITE = "the answer to these finite inputs is beyond float32's range, which JSON cannot write - at block_output"
# Of tiny (two layers, two heads, head_dim 4, hidden 8), and of sequences of any length.
INTERVENTIONS: list[dict[str, Any]] = [
    {"layers.0.context[:, 1]": {"scale": 0}},
    {"layers.1.resid_mid[-1]": {"add": [1, -1, 2, 0, 0.5, 0, 0, 3]}},
    {"layers.0.attention_scores[0, :, -1]": {"set": -1e9}},
    {"layers.*.attention_weights[1]": {"set": 0.25}},
    {"layers.1.layer_input[0, 2:5]": {"scale": -2, "add": [1, -2, 3]}},
    {"ffn_post_activation[..., ::2]": {"scale": -1}, "layers.0.query[:, 0, 3]": {"set": 2}},
    {"layers.1.layer_output": {"add": 0.5}, "layers.0.value": {"scale": [[2], [0.5]]}},
    {"attention_scores": {"set": LEAST}},
    {"layers.0.attention_scores[0]": {"set": LEAST}, "layers.1.attention_scores[:, -1]": {"set": LEAST}},
]


def plain_cases() -> list[Case]:
    """One of each length, whose probes need the same layers."""
    return [hidden_case("tiny", length, [length], outputs=OUTPUTS) for length in LENGTHS]


def changed_cases() -> list[Case]:
    """Two of each length, and any two of a length that is near with different interventions."""
    return [
        hidden_case("tiny", length, [length], interventions=INTERVENTIONS[number % len(INTERVENTIONS)], outputs=outputs)
        for number, (length, outputs) in enumerate(product(LENGTHS, (OUTPUTS, OUTPUTS[:1])))
    ]


def failed_runs(server: Server) -> int:
    return log_of(server).count('"run failed"')


@pytest.mark.long
@pytest.mark.thorough
def test_different_interventions_share_batches_and_each_answers_as_alone(server: Server) -> None:
    before = failed_runs(server)
    assert_equal_alone_and_together(server, changed_cases())
    assert failed_runs(server) == before


@pytest.mark.thorough
def test_a_neighbour_changed_to_3e38_harms_nobody(server: Server) -> None:
    at = ["layers.0.value", "layers.1.resid_mid[0]", "layers.0.attention_scores", "layers.1.ffn_post_activation"]
    huge = [
        hidden_case("tiny", 50 + n, [n], interventions={address: {"set": 3e38, "scale": -2}}, outputs=OUTPUTS)
        for n, address in zip((2, 9, 17, 33), at, strict=True)
    ]
    huge.append(hidden_case("tiny", 60, [9], interventions={"layers.1.layer_output": {"add": 3e38, "scale": 3e38}}))
    connection = connect(server)
    alone = [case.ask(connection) for case in huge]
    connection.close()
    assert json.loads(alone[-1][1])["error"] == NON_FINITE

    def send_huge(chance: np.random.Generator) -> None:
        if chance.random() < 0.5:
            index, own = int(chance.integers(len(huge))), connect(server)
            status, answer = huge[index].ask(own)
            own.close()
            assert status == alone[index][0]
            assert status != httpx.codes.OK or answer == alone[index][1]

    before = failed_runs(server)
    assert_equal_alone_and_together(server, [*plain_cases(), *changed_cases()[::2]], send_huge)
    assert failed_runs(server) == before


def sequences_of(answer: bytes) -> list[dict[str, str]]:
    """For each sequence of an answer its tensors as JSON text, by key."""
    outputs = json.loads(answer)["outputs"]
    count = len(next(iter(outputs.values())))
    return [{key: json.dumps(values[index]) for key, values in outputs.items()} for index in range(count)]


@pytest.mark.parametrize("outputs", [["block_output"], OUTPUTS], ids=["lean", "inside"])
def test_sequences_of_one_request_answer_as_each_does_in_a_request_of_its_own(
    server: Server, outputs: list[str]
) -> None:
    changes = [*INTERVENTIONS, *[None] * 6]  # without, alone it is run by model.onnx where block_output is asked for
    singles = [
        hidden_case("tiny", 70 + n, [1 + n], outputs=outputs, **({"interventions": change} if change else {}))
        for n, change in enumerate(changes)
    ]
    ask_alone(server, singles)
    sequences = [json.loads(case.body)["hidden_states"][0] for case in singles]
    body = {"hidden_states": sequences, "outputs": outputs, "interventions": changes}
    connection = connect(server)
    status, answer = Case("tiny", body).ask(connection)
    connection.close()
    assert status == httpx.codes.OK
    assert sequences_of(answer) == [sequences_of(case.alone[1])[0] for case in singles]


@pytest.mark.parametrize("length", [1, 2])
def test_padding_stays_hidden_though_it_attends_to_what_overflows(server: Server, length: int) -> None:
    signs = np.sign(np.random.default_rng(length).normal(size=(9, 2, 4)))
    connection = connect(server)
    for number, sign in enumerate(signs):
        # No query of the sequence looks at key 0; those of padding do.
        changes = {
            "layers.0.value[0]": {"set": (3e38 * sign).tolist()},
            "layers.0.attention_weights[..., 0]": {"set": 0},
        }
        alone = hidden_case("tiny", number, [length], interventions=[changes]).ask(connection)
        padded = hidden_case("tiny", number, [length, 9], interventions=[changes, None]).ask(connection)
        assert (alone[0], padded[0]) == (httpx.codes.OK, httpx.codes.OK)
        assert sequences_of(padded[1])[0] == sequences_of(alone[1])[0]
    connection.close()


def test_what_changes_no_number_changes_no_bit_but_that_adding_0_makes_minus_0_plus_0(client: httpx.Client) -> None:
    def ask(**fields: Any) -> dict[str, list[Any]]:
        body = json.loads(hidden_case("tiny", 5, [7, 2, 3], **fields).body)
        answer = client.post("/v1/models/tiny/forward", json=body)
        assert answer.status_code == httpx.codes.OK, answer.text
        outputs: dict[str, list[Any]] = answer.json()["outputs"]
        return outputs

    everything = [output["address"] for output in client.get("/v1/models/tiny").json()["outputs"]]
    plain, lean = ask(outputs=everything), ask()
    sites = [address.removeprefix("layers.0.") for address in everything if address.startswith("layers.0.")]
    assert len(sites) == 16
    for site in sites:
        assert text(ask(outputs=everything, interventions={site: {"scale": 1}})) == text(plain), site
        assert ask(outputs=everything, interventions={site: {"add": 0}}) == plain, site  # 0.0 == -0.0
        assert text(ask(interventions={site: {"scale": 1}})) == text(lean), site
        nowhere = {f"{site}[9:]": {"set": 7, "scale": 0, "add": 3}}
        assert text(ask(interventions=nowhere)) == text(lean), site


def text(outputs: dict[str, list[Any]]) -> str:
    """With the sign of zero."""
    return json.dumps(outputs)


def test_who_takes_from_another_answers_alike_alone_and_while_others_ask(server: Server) -> None:
    changes = [
        {"layers.0.context[:, 1]": {"scale": 2}},
        {"layers.0.context[-1]": {"set": {"from": 0}}, "layers.1.resid_mid[0]": {"set": {"from": 2}}},
        {"layers.0.resid_mid[:1]": {"set": {"from": 1}}},
    ]
    cases = [hidden_case("tiny", n, [n, 2 * n, 3], interventions=changes, outputs=OUTPUTS) for n in (1, 2, 5, 9)]
    assert_equal_alone_and_together(server, [*cases, *plain_cases()])
