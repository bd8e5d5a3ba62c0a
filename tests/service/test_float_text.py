"""float_text.c against Python's own reading of numbers, and against orjson's writing of them."""

import json
import runpy
import shutil
import sys
import tracemalloc
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import float_text
from service.codec.float_text import LIBRARY, read, read_flat, write
from service.codec.inference_input import cut_numbers

ROOT = Path(__file__).parent.parent.parent
VZEROUPPER = b"\xc5\xf8\x77"  # the instruction at the end of what computes with AVX, which not every x86-64 has
DIGITS = st.text("0123456789", min_size=1, max_size=30)
EXPONENTS = st.builds(
    str.__add__, st.sampled_from(["e", "E", "e+", "e-", "E-"]), st.text("0123456789", min_size=1, max_size=3)
)
NUMBERS = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{int(whole)}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    DIGITS,
    st.one_of(st.just(""), DIGITS.map(".{}".format)),
    st.one_of(st.just(""), EXPONENTS),
)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False).map(repr)


def _near_half(significand: int, power: int, digits: int) -> str:
    with localcontext(prec=200):
        half = Decimal(2 * significand + 1) * Decimal(2) ** power
    return format(half, f".{digits}g")


# Between two float64 neighbours, where rounding is hardest.
NEAR_HALVES = st.builds(_near_half, st.integers(2**52, 2**53 - 1), st.integers(-100, -45), st.integers(16, 40))


def _float32(text: str) -> Any:
    return _float32_of(np.float64(float(text)))


def _float32_of(values: Any) -> Any:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _bits(array: Any) -> list[int]:
    return list(np.asarray(array, np.float32).ravel().view(np.uint32))


def _text(array: Any) -> bytes | None:
    pieces = write(np.asarray(array, np.float32, order="C"))
    return None if pieces is None else b"".join(pieces)


@given(st.one_of(NUMBERS, DOUBLES, NEAR_HALVES))
def test_a_number_is_read_as_python_reads_it_and_rounded_to_float32(text: str) -> None:
    found = read(f"[[[{text}]]]".encode(), 0)
    if not np.isfinite(float(text)):
        assert found is None
        return
    assert found is not None
    assert _bits(found[0][0]) == _bits(_float32(text))


# What is read several at a time: a digit, a point and some decimals, up to one more than are read so.
PLAIN = st.builds(
    "{}{}.{}".format, st.sampled_from(["", "-"]), st.integers(0, 9), st.text("0123456789", min_size=1, max_size=15)
)


@given(st.lists(st.one_of(PLAIN, PLAIN, PLAIN, NUMBERS, DOUBLES), min_size=1, max_size=60), st.integers(0, 20))
def test_numbers_in_a_row_are_read_as_each_of_them_alone(texts: list[str], before: int) -> None:
    texts = [text for text in texts if np.isfinite(float(text))] or ["0"]
    expected = _bits([_float32(text) for text in texts])
    list_text = b" " * before + b"[" + ",".join(texts).encode() + b"]"
    flat, nested = read_flat(list_text, before), read(list_text.replace(b"[", b"[[[") + b"]]", before)
    assert flat is not None
    assert nested is not None
    assert _bits(flat[0]) == _bits(nested[0][0]) == expected


def test_a_row_of_plain_numbers_with_one_byte_changed_is_jsons_reading_or_none() -> None:
    text = b"[[[0.25,-0.5,1.125,-9.875,0.0001,-0.0,3.14159265,2.71828182845904,-1.6180339887498,0.1,-0.2,0.3,0.4,0.5]]]"
    for place in range(2, len(text) - 2):
        for byte in b'[]",.-+e0:/9 \n\x00\xb0':
            changed = text[:place] + bytes([byte]) + text[place + 1 :]
            found = read(changed, 0)
            try:
                rows = np.asarray(json.loads(changed, parse_int=float), np.float64)
            except ValueError:
                assert found is None
            else:
                assert (found is None) == (not np.isfinite(rows).all())
                assert found is None or _bits(found[0][0]) == _bits(_float32_of(rows))


WRONG = """
[ [[ [[[ [[[1 [[[1] [[[1]] [] [[]] [[[]]] [1] [[1]] [[[[1]]]] [[[1],2]] [[[1]],2] [[[1],[2,3]]]
[[[1,2,3],[4]]] [[[1,]]] [[[,1]]]
[[[1]],] [[[1],]] [[[1]][[2]]] [[[1][2]]] [[[01]]] [[[-]]] [[[+1]]] [[[.5]]] [[[1.]]] [[[1.e5]]] [[[1e]]] [[[1e+]]]
[[[1e999]]] [[[-1e999]]] [[[0x10]]] [[[NaN]]] [[[Infinity]]] [[[null]]] [[[true]]] [[["1"]]] [[[1_0]]] [[[1;2]]]
[[[1.5.5]]] [[[inf]]]
"""
WRONG_SPACE = ["", "[[[- 1]]]", "[[[1 2]]]", "[[[1\x00]]]", "[[[1\xa0]]]", "[[[1\v]]]"]


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("text", [*WRONG.split(), *WRONG_SPACE])
def test_what_is_no_list_of_sequences_is_not_read(monkeypatch: pytest.MonkeyPatch, text: str, halved: bool) -> None:  # noqa: FBT001
    if halved:
        monkeypatch.setattr(float_text, "_HALVED_BYTES", 0)
    assert read(text.encode("latin-1"), 0) is None


def test_every_cut_of_a_good_text_is_not_read_and_every_changed_byte_is_jsons_reading_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float_text, "_HALVED_BYTES", 0)
    text = b"[[[1.25,-0.5e1],[3,4]],[[12345678.9,0]]]"
    assert [read(text[:end], 0) for end in range(len(text))] == [None] * len(text)
    for place in range(len(text)):
        for byte in b'[]",.-+eE0129 \n\x00{}':
            changed = text[:place] + bytes([byte]) + text[place + 1 :]
            if (found := read(changed, 0)) is not None:
                lists = json.loads(changed[: found[1]])
                assert [_bits(rows) for rows in found[0]] == [_bits(np.asarray(rows, np.float32)) for rows in lists]


def test_more_sequences_than_the_bound_are_not_read() -> None:
    assert read(b"[[[1]],[[1]],[[1]]]", 0, 3) is not None
    assert read(b"[[[1]],[[1]],[[1]],[[1]]]", 0, 3) is None


SHAPES = [
    (1,),
    (5,),
    (2, 3),
    (1, 1, 1),
    (4, 1, 2),
    (2, 3, 4, 5),
    (0,),
    (2, 0),
    (700, 30),
    (5000,),
    (3, 2, 1000),
    (1, 5000),
]


def test_a_number_alone_is_written_without_brackets() -> None:
    assert _text(np.float32(0.1)) == b"0.1"


@pytest.mark.parametrize("shape", SHAPES)
def test_lists_are_written_as_orjson_writes_them(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert _text(values) == orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)


def _assert_written(bits: Any) -> None:
    values = bits.astype(np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    assert _text(values) == orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50), st.integers(0, 2**32 - 2000))
def test_the_shortest_text_of_a_float32_is_orjsons(anywhere: list[int], start: int) -> None:
    _assert_written(np.asarray(anywhere, np.uint64))
    _assert_written(np.arange(start, start + 1000, dtype=np.uint64))


def test_the_texts_of_powers_of_two_and_ten_and_of_their_neighbours_are_orjsons() -> None:
    powers = [*(2.0**power for power in range(-149, 128)), *(10.0**power for power in range(-45, 39))]
    bits = np.asarray(powers, np.float32).view(np.uint32).astype(np.int64)
    _assert_written(np.concatenate([bits + step for step in (-2, -1, 0, 1, 2)]).clip(0))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_text_of_every_seventeenth_float32_is_orjsons() -> None:
    for start in range(0, 2**32, 2**25):
        _assert_written(np.arange(start, start + 2**25, 17, dtype=np.uint64))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 19_999, 39_999])
def test_what_is_not_finite_is_not_written(value: float, place: int) -> None:
    values = np.zeros(40_000, np.float32)
    values[place] = value
    assert _text(values.reshape(400, 100)) is None


def test_the_table_of_powers_is_what_python_computes() -> None:
    source = (Path(LIBRARY).parent / "float_text.c").read_text()
    table = source.partition("SCALES[] = {")[2].partition("}")[0]
    found = [int(word, 16) for word in table.replace(",", " ").split()]
    expected = []
    for power in range(-31, 46):
        scaled = Fraction(10) ** power
        while scaled >= 2:
            scaled /= 2
        while scaled < 1:
            scaled *= 2
        expected.append(-(-scaled.numerator * 2**63 // scaled.denominator))
    assert found == expected


def test_a_short_list_takes_no_room_for_the_text_behind_its_quote() -> None:
    behind = b',"data":[' + b"1," * 10**6
    for text, parse in ((b"[1]", read_flat), (b"[[[1]]]", read)):
        body, wrong = text + behind, text[:-1] + b"x" + behind
        tracemalloc.start()
        assert parse(body, 0) is not None
        assert parse(wrong, 0) is None
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 10_000


@pytest.mark.parametrize("sequences", [1, 3])
def test_numbers_keep_no_more_room_than_theirs(sequences: int) -> None:
    rows = np.random.default_rng(0).standard_normal((sequences, 40, 200)).astype(np.float32)
    flat, nested = (parse(_text(array) or b"", 0) for parse, array in ((read_flat, rows.ravel()), (read, rows)))
    assert flat
    assert nested
    for array in (flat[0], *nested[0]):
        assert isinstance(array, np.ndarray)
        owner = array if array.base is None else array.base
        assert isinstance(owner, np.ndarray)
        assert owner.size == rows.size


def test_so_many_lists_as_no_request_has_are_left_to_the_parser() -> None:
    for most, all_of_them in ((2**9, False), (2**13, True)):
        text = b'"data":[1] ' * most
        assert len(cut_numbers(text, all_of_them=all_of_them)[1]) == most
        assert cut_numbers(text + b'"data":[1]', all_of_them=all_of_them) == (text + b'"data":[1]', {})


def test_the_library_runs_on_every_processor_of_its_platform() -> None:
    assert VZEROUPPER not in LIBRARY.read_bytes()


@pytest.mark.parametrize(
    ("found", "command"),
    [("/usr/bin/cc", ["cc"]), (None, [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"])],
    ids=["cc", "none"],
)
def test_zig_which_compiles_where_there_is_no_cc_is_told_not_to_do_so_for_the_processor_it_runs_on(
    monkeypatch: pytest.MonkeyPatch, found: str | None, command: list[str]
) -> None:
    hatchling = SimpleNamespace(BuildHookInterface=list)  # a stand-in: the real one is there while building alone
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", hatchling)
    monkeypatch.setattr(shutil, "which", lambda _: found)
    assert runpy.run_path(str(ROOT / "hatch_build.py"))["compiler"]() == command
