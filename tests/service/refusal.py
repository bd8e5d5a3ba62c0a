"""What every refusal of the forward route looks like, held against a whole answer."""

import re

import httpx

GOOD_ROW = "[1,0,0,0,0,0,0,1]"
GOOD = f'{{"hidden_states":[[{GOOD_ROW}]]}}'.encode()
NAMES = {
    *("hidden_states", "input_ids", "text", "attention_mask", "outputs", "block_output", "layers", "minilm", "tiny"),
    *("timeout_s", "priority", "interventions", "scale", "from"),
    *("layer_output", "query", "layers.0.query", "layers.1.query", "resid_mid", "attention_weights"),
    *("null", "true", "false", "Infinity", "-Infinity"),
}


def hidden_states(text: str, more: str = "") -> bytes:
    """A body with these hidden states, and more fields if wanted."""
    return f'{{"hidden_states":{text}{more}}}'.encode()


def post(client: httpx.Client, body: bytes, model: str = "tiny", **headers: str) -> httpx.Response:
    """Sends bytes to a model's forward route; none of them is touched on the way."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"/v1/models/{model}/forward", content=body, headers=named)


def assert_refused(response: httpx.Response, status: int, code: str, at: str, message: str, body: bytes = b"") -> None:
    """The answer is this refusal, whole and in the one form, and repeats nothing that the caller wrote."""
    assert response.headers["content-type"] == "application/json"
    assert len(response.content) <= 2048
    found = response.json()
    expected = {
        "error": f"{message} - at {at}" if at else message,
        "code": code,
        "at": at,
        "request_id": response.headers["x-request-id"],
    }
    assert (response.status_code, found) == (status, expected)
    words = set(re.findall(r"[\w.+-]{4,}", body[:2_000_000].decode("utf-8", "replace")))
    said = f"{found['error']} {found['at']}"
    assert not [word for word in words if word in said and not any(word in name for name in NAMES)]
