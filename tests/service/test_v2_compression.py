"""gzip and deflate, both ways, and what is no such stream (faults 28 to 30)."""

import functools
import gzip
import zlib
from collections.abc import Callable

import httpx
import orjson
import psutil
import pytest

from tests.server import Server
from tests.service.inference import HEADER, ROWS, ask_binary, binary, framed, mask, states
from tests.service.refusal import assert_refused

MIB = 2**20
PLAIN = orjson.dumps({"inputs": [states(), mask()]})
BINARY, LENGTH = framed(
    {"inputs": [binary("hidden_states", ROWS.tobytes(), [2, 3, 8], "FP32"), mask()]}, ROWS.tobytes()
)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, compresslevel=1),
    "deflate": functools.partial(zlib.compress, level=1),
}
INFLATE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
ENCODINGS = pytest.mark.parametrize("encoding", COMPRESS)


def raw(client: httpx.Client, body: bytes, headers: dict[str, str]) -> tuple[httpx.Headers, bytes]:
    """Headers and body as they came over the wire."""
    with client.stream("POST", "/v2/models/tiny/infer", content=body, headers=headers) as answer:
        assert answer.status_code == httpx.codes.OK
        return answer.headers, b"".join(answer.iter_raw())


@ENCODINGS
@pytest.mark.parametrize(("body", "headers"), [(PLAIN, {}), (BINARY, LENGTH)], ids=["JSON", "bytes"])
def test_a_compressed_request_gets_the_same_answer(
    unharmed: httpx.Client, encoding: str, body: bytes, headers: dict[str, str]
) -> None:
    sent = headers | {"Content-Encoding": encoding.upper()}
    answer = ask_binary(unharmed, COMPRESS[encoding](body), sent)
    assert answer.content == ask_binary(unharmed, body, headers).content


@ENCODINGS
def test_an_answer_is_compressed_for_who_names_one_encoding_alone(unharmed: httpx.Client, encoding: str) -> None:
    request = {"inputs": [states(), mask()], "parameters": {"binary_data_output": True}}
    body = orjson.dumps(request)
    plain, expected = raw(unharmed, body, {"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain
    for accepted in (encoding, f"{encoding};q=0.5", f"{encoding}, br;q=0"):
        headers, data = raw(unharmed, body, {"Accept-Encoding": accepted})
        assert (headers["content-encoding"], headers["vary"]) == (encoding, "Accept-Encoding")
        assert INFLATE[encoding](data) == expected
        assert headers[HEADER] == plain[HEADER]  # bytes of JSON before compression


@pytest.mark.parametrize(
    "accepted", ["gzip, deflate", "deflate, gzip, br, zstd", "*", "identity", "br", "", "gzip;q=0"]
)
def test_a_library_that_lists_what_it_knows_gets_the_answer_as_it_is(unharmed: httpx.Client, accepted: str) -> None:
    headers, data = raw(unharmed, PLAIN, {"Accept-Encoding": accepted})
    assert "content-encoding" not in headers
    assert orjson.loads(data)["model_name"] == "tiny"


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate, identity;q=0", "gzip"), ("deflate, br, identity;q=0.0", "deflate"), ("gzip, br, *;q=0", "gzip")],
)
def test_who_refuses_it_as_it_is_gets_it_compressed(unharmed: httpx.Client, accepted: str, encoding: str) -> None:
    headers, data = raw(unharmed, PLAIN, {"Accept-Encoding": accepted})
    assert headers["content-encoding"] == encoding
    assert orjson.loads(INFLATE[encoding](data))["model_name"] == "tiny"


def test_who_takes_nothing_that_is_written_here_is_told_so(unharmed: httpx.Client) -> None:
    message = "this server answers in gzip, deflate or as it is, all of which Accept-Encoding leaves out"
    answer = ask_binary(unharmed, PLAIN, {"Accept-Encoding": "br, *;q=0"})
    assert_refused(answer, 406, "not_acceptable", "Accept-Encoding", message)


def test_metadata_is_never_compressed(unharmed: httpx.Client) -> None:
    for path in ("/v2", "/v2/models/minilm.probes", "/v2/models/stats", "/v2/models/tiny/config"):
        assert "content-encoding" not in unharmed.get(path, headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x-gzip", "unheard-of"])
def test_another_encoding_is_415_and_says_which_are_read(unharmed: httpx.Client, encoding: str) -> None:
    answer = ask_binary(unharmed, PLAIN, {"Content-Encoding": encoding})
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    message = "expected Content-Encoding gzip, deflate or none, got another one"
    assert_refused(answer, 415, "unsupported_encoding", "Content-Encoding", message)


@ENCODINGS
def test_a_stream_that_is_none_is_400(unharmed: httpx.Client, encoding: str) -> None:
    whole = COMPRESS[encoding](BINARY)
    headers = LENGTH | {"Content-Encoding": encoding}
    cut, more = f"expected one whole stream of {encoding}: it is cut off", "other bytes follow"
    for end in range(0, len(whole), 5):
        assert_refused(ask_binary(unharmed, whole[:end], headers), 400, "invalid_encoding", "body", cut)
    after = cut.replace("it is cut off", more)
    assert_refused(ask_binary(unharmed, whole + b"0", headers), 400, "invalid_encoding", "body", after)
    message = f"expected a body of {encoding}, as Content-Encoding says, got other bytes"
    assert_refused(ask_binary(unharmed, BINARY, headers), 400, "invalid_encoding", "body", message)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 16
    assert ask_binary(unharmed, bytes(damaged), headers).status_code in {400, 422}


@ENCODINGS
def test_a_body_is_inflated_to_the_limit_and_no_further(server: Server, unharmed: httpx.Client, encoding: str) -> None:
    fits = COMPRESS[encoding](PLAIN + b" " * (16 * MIB - len(PLAIN)))
    assert ask_binary(unharmed, fits, {"Content-Encoding": encoding}).status_code == httpx.codes.OK
    bomb = COMPRESS[encoding](b" " * (128 * MIB))
    process = psutil.Process(server.process.pid)
    before_bytes = process.memory_info().rss
    for _ in range(4):
        answer = ask_binary(unharmed, bomb, {"Content-Encoding": encoding})
        assert_refused(answer, 413, "body_too_large", "", "expected a body of at most 16,777,216 bytes when inflated")
    assert process.memory_info().rss - before_bytes < 64 * MIB
