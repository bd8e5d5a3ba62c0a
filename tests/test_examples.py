"""The examples, run as a person runs them, against a real server."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.client import Client
from tests.server import Server

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_attention_example_finds_the_cat(server: Server) -> None:
    command = [sys.executable, str(EXAMPLES / "attention.py"), server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "it -> cat    0.712"


def test_the_curl_example_answers_every_request(server: Server) -> None:
    command = ["bash", str(EXAMPLES / "curl.sh"), server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    models, two_sentences, weights, every_layer, inferred, head = map(json.loads, done.stdout.splitlines())
    assert "minilm" in [model["name"] for model in models["models"]]
    assert [len(rows) for rows in two_sentences["outputs"]["block_output"]] == [6, 5]
    assert np.asarray(weights["outputs"]["layers.0.attention_weights"][0]).shape == (12, 5, 5)
    assert list(every_layer["outputs"]) == [f"layers.{layer}.resid_mid" for layer in range(6)]
    assert (inferred["id"], inferred["outputs"][0]["shape"]) == ("1", [1, 12, 2, 2])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 3072}


def test_the_httpx_example_reads_attention_weights_from_bytes(server: Server) -> None:
    command = [sys.executable, str(EXAMPLES / "inference_httpx.py"), server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "layers.5.attention_weights (1, 12, 5, 5) rows sum to 1.000000\n"


def test_the_example_of_named_tensors_gets_one_rectangle_a_tensor(server: Server) -> None:
    command = [sys.executable, str(EXAMPLES / "named_tensors.py"), server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert sorted(lines[:3]) == [
        "block_output float32 (2, 5, 384)",
        "layers.0.attention_weights float32 (2, 12, 5, 5)",
        "sequence_lengths int64 (2,)",
    ]
    assert [len(line.split()) for line in lines[3:]] == [5, 3]


def test_the_clients_cache_holds_arrays_by_address(server: Server) -> None:
    with Client(server.url, "minilm") as model:
        output, cache = model.run_with_cache("The cat sat.", ["layers.5.attention_weights", "resid_mid"])
    assert output[0].shape == (6, 384)
    assert cache["layers.5.attention_weights"][0].shape == (12, 6, 6)
    assert len(cache) == 7


def test_the_client_raises_the_servers_sentence(server: Server) -> None:
    with Client(server.url, "minilm") as model, pytest.raises(ValueError, match="hidden_size 384, got 2") as caught:
        model.run([np.zeros((3, 2), np.float32)])
    assert str(caught.value) == "expected hidden_size 384, got 2 - at hidden_states[0][0]"


def test_the_client_is_short() -> None:
    assert len((EXAMPLES / "client.py").read_text().splitlines()) <= 70
