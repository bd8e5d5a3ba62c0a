"""Names: which tensors an `outputs` may ask for, and which models and versions a path may name (faults 51 to 53)."""

import json

import httpx
import pytest

from tests.artifacts import SERVED
from tests.service.refusal import GOOD, GOOD_ROW, assert_refused, hidden_states, post

PROBE = "expected block_output, a probe, or layers.N.PROBE"
SEE = f"{PROBE}; GET the model to see its probes"
LAYERS = "expected layers.LAYERS.PROBE with LAYERS a number, a range A:B or *"
HOOK = "expected blocks.N.HOOK with a hook of TransformerLens that is a probe here"
LACKING = "expected what this model has, and it has no key_unrotated; GET the model to see its probes"
UNKNOWN = {
    "empty": ("", SEE),
    "NUL": ("\0", SEE),
    "of 1 MB": ("q" * 10**6, SEE),
    "of 1 MB in a layer": ("layers.0." + "q" * 10**6, SEE),
    "misspelt": ("qurey", f"{PROBE}; did you mean query?"),
    "misspelt in a layer": ("layers.0.qurey", f"{PROBE}; did you mean query?"),
    "accent": ("résid_mid", f"{PROBE}; did you mean resid_mid?"),
    "upper case": ("Block_Output", f"{PROBE}; did you mean block_output?"),
    "line end": ("block_output\n", f"{PROBE}; did you mean block_output or layer_output?"),
    "no probe": ("layers.0", SEE),
    "no layer": ("layers..query", LAYERS),
    "negative layer": ("layers.-1.query", LAYERS),
    "Arabic digit": ("layers.\u0661.query", LAYERS),
    "layer of 10 digits": ("layers.9999999999.query", LAYERS),
    "model's output in layers": ("layers.*.block_output", f"{PROBE}; did you mean block_output or layer_output?"),
    "alias of another export": ("last_hidden_state", SEE),
    "an input": ("hidden_states", SEE),
    "cut of nothing": ("[0]", SEE),
    "probe of another model": ("layers.0.key_unrotated", LACKING),
    "hook of no probe": ("blocks.0.hook_embed", HOOK),
    "misspelt hook": ("blocks.0.attn.hook_patern", f"{HOOK}; did you mean attn.hook_pattern?"),
    "hook in layers": ("layers.0.hook_resid_pre", SEE),
    "probe in blocks": ("blocks.0.query", LAYERS),
}


def _asking(*addresses: str) -> bytes:
    return hidden_states(f"[[{GOOD_ROW}]]", f',"outputs":{json.dumps(addresses)}')


@pytest.mark.parametrize(("address", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_address_of_no_tensor_is_refused(unharmed: httpx.Client, address: str, message: str) -> None:
    response = post(unharmed, _asking("block_output", address))
    assert_refused(response, 422, "unknown_output", "outputs[1]", message)


RANGE = "expected a range of at least one layer within 0:2"
OUTSIDE = {
    "layers.2.query": "expected a layer from 0 to 1",
    "layers.0:3.query": RANGE,
    "layers.1:1.query": RANGE,
    "layers.1:0.query": RANGE,
}


@pytest.mark.parametrize(("address", "message"), OUTSIDE.items())
def test_a_layer_out_of_range_is_refused(unharmed: httpx.Client, address: str, message: str) -> None:
    assert_refused(post(unharmed, _asking(address)), 422, "layer_out_of_range", "outputs[0]", message)


TWICE = {
    "plain": (["block_output", "block_output"], "block_output"),
    "by expansion": (["layers.0.query", "layers.*.query"], "layers.0.query"),
    "bare, then full": (["query", "layers.1.query"], "layers.1.query"),
    "10,000 times": (["block_output"] * 10_000, "block_output"),
}


@pytest.mark.parametrize(("addresses", "key"), TWICE.values(), ids=TWICE)
def test_a_tensor_asked_for_twice_is_refused(unharmed: httpx.Client, addresses: list[str], key: str) -> None:
    response = post(unharmed, _asking(*addresses))
    assert_refused(response, 422, "duplicate_output", "outputs[1]", f"{key} is asked for twice")


def test_10_000_unknown_addresses_are_refused_at_the_first(unharmed: httpx.Client) -> None:
    response = post(unharmed, _asking(*(f"nothing{i}" for i in range(10_000))))
    assert_refused(response, 422, "unknown_output", "outputs[0]", SEE)


LISTS = {
    "null": ("null", "wrong_type", "outputs", "expected a list of addresses, got null"),
    "string": ('"block_output"', "wrong_type", "outputs", "expected a list of addresses, got a string"),
    "number": ("1", "wrong_type", "outputs", "expected a list of addresses, got a number"),
    "object": ("{}", "wrong_type", "outputs", "expected a list of addresses, got an object"),
    "empty": ("[]", "no_outputs", "outputs", "expected at least one address, got an empty list"),
    "of null": ("[null]", "wrong_type", "outputs[0]", "expected a string, got null"),
    "of a number": ('["query",1]', "wrong_type", "outputs[1]", "expected a string, got a number"),
    "of lists": ('[["block_output"]]', "wrong_type", "outputs[0]", "expected a string, got a list"),
}


@pytest.mark.parametrize(("outputs", "code", "at", "message"), LISTS.values(), ids=LISTS)
def test_outputs_that_are_no_list_of_addresses_are_refused(
    unharmed: httpx.Client, outputs: str, code: str, at: str, message: str
) -> None:
    body = hidden_states(f"[[{GOOD_ROW}]]", f',"outputs":{outputs}')
    assert_refused(post(unharmed, body), 422, code, at, message, body)


def test_an_address_means_to_each_model_its_own_layers(client: httpx.Client) -> None:
    for model in ("tiny", "minilm") * 2:
        described = client.get(f"/v1/models/{model}").json()
        asked = {"hidden_states": [[[0.5] * described["hidden_size"]]], "outputs": ["attention_weights"]}
        names = [f"layers.{layer}.attention_weights" for layer in range(described["num_layers"])]
        answer = client.post(f"/v1/models/{model}/forward", json=asked).json()
        assert list(answer["outputs"]) == (["attention_weights"] if len(names) == 1 else names)


MODELS = [
    *("nowhere", "Tiny", "TINY", "CON", "tiny;x", "tiny.", "tiny%20", "%09tiny", "tiny%0a", "tiny%0d%0aX: y"),
    *("%2e%2e", "%252e%252e", "a%5cb", "tiny%3f", "%00", "tiny%00", "%ff", "t%D1%96ny", "%E2%80%8Btiny", "a" * 300),
]


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_model_is_refused_by_any_name(unharmed: httpx.Client, name: str) -> None:
    message = f"no such model; this server has {', '.join(sorted(SERVED))}"
    response = post(unharmed, GOOD, name.replace(" ", "%20"))
    assert_refused(response, 404, "unknown_model", "path", message, name.replace("tiny", "").encode())


VERSIONS = ["0", "2", "-1", "1.0", "01", "+1", "latest", f"1{'0' * 30}", "%D9%A1", "1%0a", "%201", "%2e%2e", "%00"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_version_is_refused_by_any_name(unharmed: httpx.Client, version: str) -> None:
    message = "model tiny has no such version; it has 1"
    response = post(unharmed, GOOD, f"tiny/versions/{version}")
    assert_refused(response, 404, "unknown_version", "path", message, version.encode())


PATHS = [
    "%2e%2e%2ftiny",
    "tiny%2f1",
    "..%2f..%2f..%2fetc%2fpasswd",
    "tiny/",
    "/tiny",
    "tiny/1",
    "tiny/versions/%2e%2e%2f1",
]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_leads_elsewhere_is_no_route(unharmed: httpx.Client, name: str) -> None:
    message = "no such route; GET /docs for the list"
    assert_refused(post(unharmed, GOOD, name), 404, "unknown_route", "path", message)


def test_no_name_that_a_caller_wrote_becomes_a_label(unharmed: httpx.Client) -> None:
    post(unharmed, GOOD, "a-name-nobody-has")
    metrics = unharmed.get("/metrics").text
    assert "/v1/models/{model}/forward" in metrics
    assert "a-name-nobody-has" not in metrics
