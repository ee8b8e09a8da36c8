"""The outcome table, row by row, without an event loop."""

import json
from itertools import product
from typing import Any

import pytest

from tgmembership_async.errors import (
    APIError,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    ReplyLost,
    ServerError,
    Unauthorized,
    UnexpectedReply,
)
from tgmembership_async.protocol.outcome import (
    Outcome,
    TransportFailure,
    code_of,
    error_of,
    facts_of,
    judge,
    judge_failure,
    late,
    unexpected,
)
from tgmembership_async.protocol.wire import BotAccount, Headers, Progress, Request, Response, Safety, Timeouts
from tgmembership_async.values.secret import Secret

ACCOUNT = BotAccount("https", "api.tgmembership.com", None, "", 8047883872, Secret("k" * 40))


def request(safety: Safety = Safety.SAFE, method: str = "getPlans", *, unsettled: bool = False) -> Request:
    progress = Progress(started=0.0, deadline=60.0, attempts=1, unsettled=unsettled)
    return Request(method, "GET", {}, safety, ACCOUNT, Timeouts(5, 10), progress)


def answer(status: int, body: Any, **headers: str) -> Response:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, Headers.of({name.replace("_", "-"): value for name, value in headers.items()}), text)


def failure(*, connecting: bool, begun: bool) -> TransportFailure:
    failure = TransportFailure("ConnectError: refused", connecting=connecting)
    failure.begun = begun
    return failure


def test_not_sent_needs_a_connect_failure_and_no_headers_begun() -> None:
    for connecting, begun in product((False, True), repeat=2):
        expected = Outcome.NOT_SENT if connecting and not begun else Outcome.UNKNOWN
        assert judge_failure(failure(connecting=connecting, begun=begun)) is expected


def test_a_transport_that_does_not_set_begun_counts_as_having_sent() -> None:
    assert judge_failure(TransportFailure("gone", connecting=True)) is Outcome.UNKNOWN


ENVELOPED = [
    ({"ok": True, "code": 200}, Outcome.DONE),
    ({"ok": True, "code": "200"}, Outcome.DONE),
    ({"ok": True, "code": 500}, Outcome.DONE),
    ({"ok": True}, Outcome.UNKNOWN),
    ({"ok": True, "code": [1]}, Outcome.UNKNOWN),
    ({"ok": False, "code": 400}, Outcome.REFUSED),
    ({"ok": False, "code": 404}, Outcome.REFUSED),
    ({"ok": False, "code": 499}, Outcome.REFUSED),
    ({"ok": False, "code": 421}, Outcome.TURNED_AWAY),
    ({"ok": False, "code": 425}, Outcome.TURNED_AWAY),
    ({"ok": False, "code": 429}, Outcome.TURNED_AWAY),
    ({"ok": False, "code": 503}, Outcome.TURNED_AWAY),
    ({"ok": False, "code": "503"}, Outcome.TURNED_AWAY),
    ({"ok": False, "code": 500}, Outcome.UNKNOWN),
    ({"ok": False, "code": 200}, Outcome.UNKNOWN),
    ({"ok": False, "code": 302}, Outcome.UNKNOWN),
    ({"ok": False}, Outcome.UNKNOWN),
    ({"ok": 1, "code": 200}, Outcome.UNKNOWN),
]


@pytest.mark.parametrize(("body", "expected"), ENVELOPED)
@pytest.mark.parametrize("status", [200, 204, 400, 500, 502, 503])
def test_the_envelope_wins_over_the_http_status(body: dict[str, Any], expected: Outcome, status: int) -> None:
    assert judge(answer(status, body), ok_alone_decides=False) is expected


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b'{"ok": fal', b"[]", b'{"ok": "false", "code": 400}'])
@pytest.mark.parametrize("wait", [{}, {"retry_after": "5"}], ids=["no wait", "a wait"])
@pytest.mark.parametrize("status", [429, 421, 425, 200, 201, 204, 301, 304, 400, 401, 404, 500, 502, 503, 504])
def test_without_an_envelope_only_three_statuses_turn_away(body: bytes, status: int, wait: dict[str, str]) -> None:
    expected = Outcome.TURNED_AWAY if status in (421, 425, 429) else Outcome.UNKNOWN
    assert judge(answer(status, body, **wait), ok_alone_decides=False) is expected


@pytest.mark.parametrize("wait", [{}, {"retry_after": "5"}], ids=["no wait", "a wait"])
def test_a_503_of_a_gateway_that_is_known_to_refuse_turns_away(wait: dict[str, str]) -> None:
    page = answer(503, b"<html>Service Temporarily Unavailable</html>", **wait)
    assert judge(page, ok_alone_decides=True, gateway_503="turned away") is Outcome.TURNED_AWAY
    assert judge(answer(502, b""), ok_alone_decides=True, gateway_503="turned away") is Outcome.UNKNOWN


@pytest.mark.parametrize("code", [None, "x", [], {}, 1.5, True, "²", "1" * 400])
def test_for_add_member_ok_alone_decides(code: object) -> None:
    assert judge(answer(500, {"ok": True, "code": code}), ok_alone_decides=True) is Outcome.DONE
    assert judge(answer(200, {"ok": "true", "code": 200}), ok_alone_decides=True) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (418, APIError),
        (429, RateLimited),
        (500, ServerError),
        (599, ServerError),
        (302, APIError),
    ],
)
def test_a_code_has_its_error_with_all_that_the_service_said(code: int, kind: type[APIError]) -> None:
    reply = answer(200, {"ok": False, "code": code, "description": "No such plan", "request_id": "r-1"})
    outcome = judge(reply, ok_alone_decides=False)
    error = error_of(reply, outcome, 2.5, request(), 0.25)
    assert type(error) is kind
    assert (error.code, error.description, error.status, error.request_id) == (code, "No such plan", 200, "r-1")
    assert (error.retry_after, error.method, error.attempts, error.elapsed) == (2.5, "getPlans", 1, 0.25)
    assert str(error) == f"getPlans: {code} No such plan (try again in 2.5 s)"


def test_an_error_without_a_description_still_reads() -> None:
    reply = answer(200, {"ok": False, "code": 401})
    assert str(error_of(reply, Outcome.REFUSED, None, request(), 0)) == "getPlans: 401 without a description"


def test_a_bare_429_is_rate_limited() -> None:
    error = error_of(answer(429, b""), Outcome.TURNED_AWAY, 7.0, request(), 0)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7.0
    assert error.code == 429


def test_what_is_not_the_envelope_shows_its_first_200_characters() -> None:
    error = error_of(answer(502, b"<h1>" + b"x" * 100_000), Outcome.UNKNOWN, None, request(), 0)
    assert isinstance(error, UnexpectedReply)
    assert "HTTP 502: the body is not JSON" in str(error)
    assert "<h1>" + "x" * 196 + "…" in str(error)
    assert len(error.body) == 65_536


def test_an_ok_without_a_code_is_unexpected_for_a_read() -> None:
    error = error_of(answer(200, {"ok": True}), Outcome.UNKNOWN, None, request(), 0)
    assert isinstance(error, UnexpectedReply)


@pytest.mark.parametrize(
    "result",
    [
        answer(200, b""),
        answer(500, {"ok": False, "code": 500}),
        failure(connecting=False, begun=True),
        failure(connecting=False, begun=False),
        failure(connecting=True, begun=True),
    ],
)
@pytest.mark.parametrize("method", ["addMember", "other"])
def test_an_unsafe_call_that_may_have_acted_is_outcome_unknown(
    result: Response | TransportFailure, method: str
) -> None:
    error = error_of(result, Outcome.UNKNOWN, None, request(Safety.UNSAFE, method), 0)
    assert isinstance(error, OutcomeUnknown)
    assert error.maybe_applied
    assert isinstance(error.cause, UnexpectedReply | ServerError | ReplyLost)
    assert ("granted" in str(error)) is (method == "addMember")


def test_what_may_hold_a_token_is_not_shown() -> None:
    body = b'{"ok": true, "code": 200, "result": "https://t.me/bot?start=SECRET'
    error = error_of(answer(200, body), Outcome.UNKNOWN, None, request(Safety.UNSAFE, "addMember"), 0)
    assert isinstance(error, OutcomeUnknown)
    assert isinstance(error.cause, UnexpectedReply)
    assert error.cause.body == b""
    assert "SECRET" not in f"{error} {error.cause}"


NOTICE = b"<br />\n<b>Notice</b>: Undefined index in <b>/srv/api.php</b>\n"
"""PHP prints this before a reply if display_errors is on."""


@pytest.mark.parametrize("safety", Safety)
@pytest.mark.parametrize("method", ["addMember", "ADDMEMBER", "webhook", "unknownMethod"])
def test_what_may_hold_a_token_is_known_by_the_method_and_not_by_the_reply(method: str, safety: Safety) -> None:
    body = NOTICE + b'{"ok": true, "code": 200, "result": "SECRET"}'
    error = unexpected("HTTP 200: the body is not JSON", answer(200, body), request(safety, method), {})
    if method == "unknownMethod" and safety is Safety.SAFE:
        assert "SECRET" in str(error)
        assert error.body == body
    else:
        assert "SECRET" not in f"{error} {error!r}"
        assert error.body == b""
        assert f"HTTP 200: the body is not JSON; the reply: {len(body)} bytes that look like HTML" in str(error)


def test_a_gateways_page_to_a_read_is_shown() -> None:
    assert "<p>down</p>" in str(unexpected("why", answer(502, b"<p>down</p>"), request(), {}))


def test_nothing_sent_says_that_calling_again_is_safe() -> None:
    error = error_of(failure(connecting=True, begun=False), Outcome.NOT_SENT, None, request(Safety.UNSAFE), 0)
    assert isinstance(error, NotSent)
    assert not error.maybe_applied
    assert "calling again is safe" in str(error)


def test_a_last_attempt_that_was_not_sent_does_not_hide_an_earlier_one_that_was() -> None:
    lost = request(Safety.IDEMPOTENT, unsettled=True)
    error = error_of(failure(connecting=True, begun=False), Outcome.NOT_SENT, None, lost, 0)
    assert isinstance(error, ReplyLost)
    assert error.maybe_applied


def test_a_read_never_claims_to_have_been_applied() -> None:
    assert facts_of(request(Safety.SAFE, unsettled=True), 0)["maybe_applied"] is False


@pytest.mark.parametrize("safety", Safety)
@pytest.mark.parametrize("unsettled", [False, True])
def test_a_late_call_is_unknown_only_in_the_middle_of_an_unsafe_exchange(safety: Safety, *, unsettled: bool) -> None:
    error = late(request(safety, unsettled=unsettled), 60.0)
    if safety is Safety.UNSAFE and unsettled:
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(error.cause, DeadlineExceeded)
    else:
        assert isinstance(error, DeadlineExceeded)
        assert isinstance(error, TimeoutError)
        assert error.maybe_applied is (unsettled and safety is Safety.IDEMPOTENT)


def test_a_deadline_without_room_for_another_attempt_names_the_last_one() -> None:
    error = late(request(), 1.0, last=NotSent("refused"))
    assert "refused" in str(error)
    assert isinstance(error.__cause__, NotSent)


def test_the_code_of_an_answer_is_the_envelopes() -> None:
    assert code_of(answer(200, {"ok": False, "code": "404"})) == 404
    assert code_of(answer(502, b"")) == 502
    assert code_of(answer(200, {"ok": True})) == 200
