"""Parsing in slices gives the same values and rejects the same texts as `json.loads`."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.protocol import envelope, sliced_json
from tgmembership_async.protocol.envelope import Envelope, NoEnvelope, parse, parse_in_slices
from tgmembership_async.protocol.reply_limits import MOST_COMMAS, MOST_CONTAINERS, holds_too_much, takes_long

DECODER = json.JSONDecoder(parse_float=Decimal)
SCALARS = st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False).map(float) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40)
LAYOUTS = st.sampled_from([{}, {"indent": 3}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def nothing() -> None:
    return


def load(text: str, window: int) -> Any:
    try:
        return sliced_json.load(text, DECODER, nothing, window)
    except ValueError:
        return ValueError


def whole(text: str) -> Any:
    try:
        return DECODER.decode(text)
    except ValueError:
        return ValueError


@given(VALUES, LAYOUTS, st.integers(1, 80))
def test_a_window_of_any_size_gives_the_same_values(value: Any, layout: dict[str, Any], window: int) -> None:
    text = json.dumps(value, **layout)
    assert repr(load(text, window)) == repr(whole(text))


@given(st.text(alphabet='[]{},:"\\ \n1-.eanul', max_size=40), st.integers(1, 20))
def test_what_is_no_json_is_refused_alike(text: str, window: int) -> None:
    assert repr(load(text, window)) == repr(whole(text))


@given(VALUES, st.integers(0, 200), st.integers(1, 80))
def test_a_part_of_json_is_refused_alike(value: Any, length: int, window: int) -> None:
    text = json.dumps(value)[:length]
    assert repr(load(text, window)) == repr(whole(text))


@pytest.mark.parametrize(
    "text",
    [
        '[{"a":"},{"},{"b":[{},{}]},{}] ',
        '[{"a":1},{"a":2}],{"a":3}',
        "[1,2,[3,4,[5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]],21]",
        "[[],[],[],[],[],[],[],[]]",
        '{"a" : {"b" : [ ] , "c" : { } } , "d" : "' + "x" * 40 + '"}',
        "[1.5,-2.25e+10,[1e5,2E-3],0.0,-0.0e+0]",
        "1.5e+10",
        "[1,2,3,]",
        "[1,2 3]",
        '{"a":1,}',
        '{"a" 1}',
        '{"a":1 "b":2}',
        "{1:2}",
        "[1",
        "",
    ],
)
def test_brackets_and_commas_are_told_apart(text: str) -> None:
    for window in range(1, 70):
        assert load(text, window) == whole(text)


def test_others_may_run_in_between() -> None:
    pauses: list[None] = []
    sliced_json.load(f"[{' ' * 1_000}{'1,' * 10_000}1]", DECODER, lambda: pauses.append(None), 100)
    assert len(pauses) > 200


def test_numbers_that_python_refuses_stay_as_their_text() -> None:
    for number in ("9" * 5_000, "1e99999999999999999999", "9" * 70_000, "1." + "9" * 70_000):
        body = b'{"ok":true,"code":200,"result":[%b,{"a":1.50}]}' % number.encode()
        read = parse_in_slices(body, nothing)
        assert isinstance(read, Envelope)
        assert read.result == [number, {"a": Decimal("1.50")}]


@pytest.mark.parametrize("body", [b"\xff" * 20, b"[" * 200_000, b'{"a":' * 200_000, b"[1]", b'{"ok":true', b"{} {}"])
def test_what_is_no_envelope_says_so(body: bytes) -> None:
    assert isinstance(parse_in_slices(body, nothing), NoEnvelope)
    assert parse_in_slices(body, nothing) == parse(body)


def test_other_encodings_are_found_out() -> None:
    body = '{"ok":true,"code":200,"result":"ü"}'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-le"):
        assert parse_in_slices(body.encode(encoding), nothing) == parse(body.encode(encoding)) == parse(body.encode())


def test_too_many_values_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "sliced_json", None)
    for body in (b"[" * (MOST_CONTAINERS + 1), b"," * (MOST_COMMAS + 1)):
        assert holds_too_much(body)
        assert parse_in_slices(body, nothing) == NoEnvelope("the JSON has too many values")


def test_what_takes_long_is_known_before_it_is_read() -> None:
    assert not takes_long(b"{}," * 1_000)
    assert not takes_long(b"x" * 200_000)
    assert takes_long(b"{}," * 4_000)
    assert takes_long(b"x" * 300_000)
