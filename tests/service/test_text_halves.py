"""Texts that are halved between their caller and the thread that helps."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import float_text
from service.codec.float_text import read, read_flat, write


def _bits(array: Any) -> list[int]:
    return list(np.asarray(array, np.float32).ravel().view(np.uint32))


def _text(array: Any) -> bytes:
    return b"".join(write(array) or ())


@pytest.fixture(scope="module", autouse=True)
def helper() -> threading.Thread:
    """The thread that halves are offered to; the first test begins before it does, and others when it sleeps."""
    float_text.start_helper()
    return next(thread for thread in threading.enumerate() if thread.name == "float-text")


def _sequences(widths: list[int], lengths: list[int]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(len(lengths))
    return [
        random.standard_normal((length, widths[i % len(widths)])).astype(np.float32) for i, length in enumerate(lengths)
    ]


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([b"", b"]", b',"attention_mask":[[1,1],[1]]}', b" " * 3000]),
)
def test_ragged_sequences_are_the_same_whole_and_halved(
    widths: list[int], lengths: list[int], indent: int | None, after: bytes
) -> None:
    sequences = _sequences(widths, lengths)
    text = json.dumps([rows.tolist() for rows in sequences], indent=indent).encode()
    for least in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(float_text, "_HALVED_BYTES", least)
            found = read(b"x:" + text + after, 2)
        assert found is not None
        assert found[1] == 2 + len(text)
        assert [rows.shape for rows in found[0]] == [rows.shape for rows in sequences]
        assert [_bits(rows) for rows in found[0]] == [_bits(rows) for rows in sequences]


def test_long_rows_are_the_same_whole_and_halved_wherever_the_half_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)
    for parse, values in ((read, rows[None]), (read_flat, rows.ravel())):
        text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
        for behind in range(0, 400, 7):  # moves the middle
            body = text + b"," + b" " * behind
            for least in (0, 10**9):
                monkeypatch.setattr(float_text, "_HALVED_BYTES", least)
                found = parse(body, 0)
                assert found is not None
                assert found[1] == len(text)
                assert _bits(found[0]) == _bits(values)


def test_a_list_that_ends_before_the_middle_of_its_text_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_text, "_HALVED_BYTES", 0)
    for behind in (b",[1],[2],[3],[4]]", b",1,2,3,4,5,6,7,8,9]", b"]]]]]]]]1],[1],"):
        found, flat = read(b"[[[1,2]]]" + behind, 0), read_flat(b"[1,2]" + behind, 0)
        assert found
        assert flat
        assert (found[0][0].tolist(), found[1]) == ([[1, 2]], 9)
        assert (flat[0].tolist(), flat[1]) == ([1, 2], 5)


def test_a_long_text_is_read_and_written_by_two_threads(helper: threading.Thread) -> None:
    clock = time.pthread_getcpuclockid(helper.ident or 0)
    values = np.random.default_rng(1).standard_normal((1, 1000, 768)).astype(np.float32)
    text, flat = _text(values), _text(values.ravel())
    for work in (lambda: write(values[0]), lambda: read(text, 0), lambda: read_flat(flat, 0)):
        deadline_s = time.monotonic() + 20
        helped_s = 0.0
        while helped_s < 0.001:  # on a busy machine the caller may have done both halves before the other is awake
            assert time.monotonic() < deadline_s
            start_s = time.clock_gettime(clock)
            work()
            helped_s = time.clock_gettime(clock) - start_s


def test_without_a_helper_a_long_text_is_read_and_written_all_the_same() -> None:
    program = """
import numpy
from service.codec.float_text import read, read_flat, write
text = b"".join(write(numpy.ones((1, 100, 768), numpy.float32)))
assert read(text, 0)[1] == len(text)
assert len(read_flat(b"[1" + b",2" * 50_000 + b"]", 0)[0]) == 50_001
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_threads_that_read_and_write_at_once_each_get_their_own_text_and_numbers() -> None:
    def work(seed: int) -> None:
        values = np.random.default_rng(seed).standard_normal((1, 8 + seed, 768)).astype(np.float32)
        text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
        flat = orjson.dumps(values.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
        for _ in range(60):
            assert b"[%b]" % _text(values[0]) == text
            found, found_flat = read(text, 0), read_flat(flat, 0)
            assert found
            assert found_flat
            assert np.array_equal(found[0][0], values[0])
            assert np.array_equal(found_flat[0], values.ravel())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
