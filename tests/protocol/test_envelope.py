"""Parsing returns the envelope, or the reason why a body is not one, and never raises."""

import json
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_values import json_values

from tgmembership_async.protocol.envelope import Envelope, NoEnvelope, excerpt, parse, printable


def _why(body: bytes) -> str:
    envelope = parse(body)
    assert isinstance(envelope, NoEnvelope)
    return envelope.why


def _read(body: bytes) -> Envelope:
    envelope = parse(body)
    assert isinstance(envelope, Envelope)
    return envelope


def test_the_documented_envelope_is_read() -> None:
    assert _read(b'{"ok": true, "code": 200, "result": [1]}') == Envelope(ok=True, code=200, result=[1])
    assert _read(b'{"ok": false, "code": "404", "description": "No such plan"}') == Envelope(
        ok=False, code=404, result=None, description="No such plan"
    )


def test_what_a_later_generation_adds_is_kept() -> None:
    body = b'{"ok": true, "code": 200, "request_id": "r-1", "method": "GET", "path": "/v1"}'

    envelope = _read(body)

    assert envelope.request_id == "r-1"
    assert envelope.extra == {"method": "GET", "path": "/v1"}


@pytest.mark.parametrize(
    "code", [b"null", b"true", b'"two hundred"', b'"1_0"', b"[]", b"1.0", b"9" * 4000, b'"' + b"9" * 10 + b'"']
)
def test_a_code_that_does_not_read_matters_only_to_a_refusal(code: bytes) -> None:
    assert _read(b'{"ok": true, "code": %b, "result": 1}' % code).code is None
    assert _why(b'{"ok": false, "code": %b}' % code) == "'code' is not a number"


@pytest.mark.parametrize("ok", [b"null", b"1", b"0", b'"true"', b"[]"])
def test_ok_is_a_boolean(ok: bytes) -> None:
    assert _why(b'{"ok": %b, "code": 200}' % ok) == "'ok' is not true or false"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is empty"),
        (b" \r\n", "the body is empty"),
        (b"<html>Bad gateway</html>", "the body is not JSON"),
        (b'{"ok": true, "code": 200, "resu', "the body is not JSON"),
        (b'{"ok": true, "code": 200, "result": "\xff"}', "the body is not JSON"),
        (b"\x00\x01\x02\xff", "the body is not JSON"),
        (b"[]", "the JSON is not an object"),
        (b'"ok"', "the JSON is not an object"),
        (b"9" * 10_000, "the JSON is not an object"),
        (b"{}", "'ok' is not true or false"),
        (b'{"ok": true, "result": ' + b"[" * 200_000, "the JSON is nested too deeply"),
    ],
)
def test_anything_else_is_no_envelope(body: bytes, why: str) -> None:
    assert _why(body) == why


@pytest.mark.parametrize("number", [b"9" * 10_000, b"1e99999999999999999999", b"-1e-99999999999999999999"])
def test_a_number_that_python_refuses_does_not_undo_ok(number: bytes) -> None:
    envelope = _read(b'{"ok": true, "code": 200, "result": {"id": %b, "cost": 9.90, "n": 7}}' % number)

    assert envelope.result == {"id": number.decode(), "cost": Decimal("9.90"), "n": 7}


def test_fractions_are_exact() -> None:
    assert str(_read(b'{"ok": true, "code": 200, "result": 0.10}').result) == "0.10"


@pytest.mark.parametrize("description", [["a", 1], {"a": "b"}, 5, True])
def test_a_description_of_another_kind_is_shown_as_it_is(description: object) -> None:
    body = json.dumps({"ok": False, "code": 400, "description": description}).encode()

    assert _read(body).description == repr(description)


def test_a_description_may_be_nested_as_deeply_as_json_may() -> None:
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit(), 5):
        assert parse(b'{"ok": false, "code": 400, "description": ' + b"[" * depth + b"]" * depth + b"}")


def test_a_description_is_one_short_line() -> None:
    body = json.dumps({"ok": False, "code": 400, "description": "a\nb\x1b[31m\ud800" + "x" * 5000}).encode()

    description = _read(body).description

    assert description is not None
    assert description.startswith("a\\nb\\x1b[31m\\ud800xxx")
    assert len(description) == 1001


def test_an_excerpt_is_the_first_two_hundred_characters() -> None:
    assert excerpt(b"<html>\n") == "<html>\\n"
    assert excerpt("é".encode() * 500) == "é" * 200 + "…"
    assert excerpt(b"\xff") == "\ufffd"


def test_the_repr_of_an_envelope_shows_no_result() -> None:
    assert "t0ken" not in repr(_read(b'{"ok": true, "code": 200, "result": "t0ken", "other": "t0ken"}'))


@given(st.text(), st.integers(1, 50))
def test_printable_text_is_printable_and_bounded(text: str, limit: int) -> None:
    shown = printable(text, limit)

    assert shown.isprintable()
    assert len(shown) <= limit + 1


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_raise(body: bytes) -> None:
    assert isinstance(parse(body), Envelope | NoEnvelope)


@given(json_values, json_values, json_values, json_values)
def test_no_json_raises(ok: Any, code: Any, result: Any, description: Any) -> None:
    reply = {"ok": ok, "code": code, "result": result, "description": description}

    assert isinstance(parse(json.dumps(reply, default=str).encode()), Envelope | NoEnvelope)
