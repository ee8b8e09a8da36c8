"""Requests and responses: their form on the wire, and the API key only there."""

import json
import pickle
from typing import Any

import attrs
import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.envelope import Envelope, NoEnvelope
from tgmembership_async.protocol.wire import (
    BodyFormat,
    BotAccount,
    Headers,
    Progress,
    Request,
    Response,
    Safety,
    Timeouts,
    Verb,
)
from tgmembership_async.values.secret import Secret
from tgmembership_async.version import __version__

KEY = "aB3" * 13 + "x"


def account(key: str = KEY, **changes: Any) -> BotAccount:
    return attrs.evolve(BotAccount("https", "api.tgmembership.com", None, "", 8047883872, Secret(key)), **changes)


def request(
    verb: Verb = "GET", method: str = "getPlans", body_format: BodyFormat = "json", **params: str | int
) -> Request:
    progress = Progress(started=0.0, deadline=60.0)
    return Request(method, verb, params, Safety.SAFE, account(body_format=body_format), Timeouts(5, 10), progress)


def test_parameters_of_a_get_go_into_the_query() -> None:
    target, headers, body = request(plan_id=1, q="a b&c").encode()
    assert bytes(target) == f"/bot8047883872/{KEY}/getPlans?plan_id=1&q=a+b%26c".encode()
    assert (headers.get("User-Agent"), headers.get("accept")) == (
        f"tgmembership-async/{__version__}",
        "application/json",
    )
    assert headers.get("accept-encoding") == "identity"
    assert headers.get("content-type") is None
    assert body == b""


def test_parameters_of_a_post_go_into_the_body() -> None:
    target, headers, body = request("POST", "addMember", plan_id=1, member_id=42).encode()
    assert bytes(target) == f"/bot8047883872/{KEY}/addMember".encode()
    assert headers.get("content-type") == "application/json"
    assert body == b'{"plan_id": 1, "member_id": 42}'
    _, headers, body = request("POST", "addMember", "form", plan_id=1, member_id=42).encode()
    assert headers.get("content-type") == "application/x-www-form-urlencoded"
    assert body == b"plan_id=1&member_id=42"


def test_the_public_url_has_no_key() -> None:
    assert request().url == "https://api.tgmembership.com/bot8047883872/-/getPlans"
    assert account(scheme="http", host="::1", port=80, prefix="/v").base_url == "http://[::1]:80/v"


def test_no_repr_shows_the_key() -> None:
    wire = request()
    for shown in (
        repr(wire),
        repr(wire.account),
        repr(wire.encode()),
        f"{wire.encode()[0]}",
        str(account().api_key),
    ):
        assert KEY not in shown


def test_what_holds_the_key_does_not_pickle() -> None:
    for secret in (request().encode()[0], account().api_key):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(secret)


@pytest.mark.parametrize("key", [KEY, 'quo"te\\' * 4, "ключ" * 5, "a+b=c&d;" * 3])
def test_an_echoed_key_is_taken_out_however_it_is_spelled(key: str) -> None:
    owner = account(key)
    path = bytes(owner.target("x"))
    assert owner.scrubber.scrub(b"<a>" + path) == b"<a>/bot8047883872/-/x"
    assert key not in owner.scrubber.scrub(json.dumps({"k": key}).encode()).decode()
    assert json.loads(owner.scrubber.scrub(json.dumps({"k": key}).encode())) == {"k": "***"}
    assert owner.scrubber.scrub(key.encode()) == b"***"


def test_a_short_key_is_taken_out_only_where_it_is_one() -> None:
    owner = account("ok")
    assert (
        owner.scrubber.scrub(b'{"ok": true, "path": "/bot8047883872/ok/x"}')
        == b'{"ok": true, "path": "/bot8047883872/-/x"}'
    )


def test_headers_are_matched_in_any_case_and_keep_their_order() -> None:
    headers = Headers.of([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers.get("a") == "1"
    assert headers.get("c") is None
    assert list(headers.with_("A", "9")) == [("b", "2"), ("A", "9")]
    assert Headers.of(headers) is headers
    assert Headers.of({"x": "y"}).get("X") == "y"


@pytest.mark.parametrize("name", ["content-length", "Transfer-Encoding"])
def test_a_middleware_cannot_set_framing_headers(name: str) -> None:
    wire = attrs.evolve(request(), headers=Headers.of([(name, "1")]))
    with pytest.raises(UsageError, match=f"{name}.*only the Session may set"):
        wire.encode()


@pytest.mark.parametrize("pair", [("a b", "1"), ("", "1"), ("a", "1\r\nevil: 2"), ("a", "☃"), ("a\n", "1"), ("é", "1")])
def test_a_middleware_cannot_send_a_broken_header(pair: tuple[str, str]) -> None:
    wire = attrs.evolve(request(), headers=Headers.of([pair]))
    with pytest.raises(UsageError, match="header"):
        wire.encode()


@pytest.mark.parametrize("value", [1, None, b"1"])
def test_a_middleware_cannot_send_a_header_that_is_not_text(value: Any) -> None:
    wire = attrs.evolve(request(), headers=request().headers.with_("x-attempt", value))
    with pytest.raises(UsageError, match="a header that is not text: 'x-attempt'"):
        wire.encode()


@pytest.mark.parametrize("value", [" 1", "1 ", "\t1", "1\t", " ", "1\n"])
def test_a_value_has_no_blanks_around_it(value: str) -> None:
    """h11 would reject it only while sending, when the outcome is no longer "not sent"."""
    wire = attrs.evolve(request(), headers=Headers.of([("a", value)]))
    with pytest.raises(UsageError, match="header with an invalid name or value, under the name 'a'"):
        wire.encode()


def test_a_middleware_may_send_any_header_that_http_carries() -> None:
    wire = attrs.evolve(request(), headers=Headers.of([("X-Trace", "a\tb \xff"), ("y", "")]))
    _, headers, _ = wire.encode()
    assert headers.get("x-trace") == "a\tb \xff"


def test_an_envelope_is_read_once_and_not_from_a_part() -> None:
    whole = Response(200, Headers(), b'{"ok": true, "code": 200}')
    assert isinstance(whole.envelope, Envelope)
    assert whole.envelope is whole.envelope
    part = Response(200, Headers(), b'{"ok": true, "code": 200}', truncated=True)
    assert part.envelope == NoEnvelope("the body is too large")


def test_the_attempt_is_the_progress() -> None:
    wire = request()
    wire.progress.attempts = 3
    assert wire.attempt == 3
