"""Judge what the service may have done on an attempt, and make the error for it.

| outcome     | evidence                                                                                         |
| ----------- | ------------------------------------------------------------------------------------------------ |
| not sent    | a failure of the connect phase, before the transport began to write our headers                  |
| turned away | 429, 421, 425, with or without envelope; 503 with the envelope (*assumed*: nothing was done)     |
| refused     | envelope `ok: false` with any other 4xx                                                          |
| unknown     | everything else                                                                                  |
| done        | envelope `ok: true`                                                                              |

A 503 without the envelope comes from a gateway and proves nothing, even with Retry-After: Varnish sends it after the
service acted (*seen*). `Account.gateway_503` is for a gateway that is known to refuse before it forwards.
"""

from enum import StrEnum
from typing import Any, Final

from attrs import evolve

from tgmembership_async.errors import (
    APIError,
    CallError,
    DeadlineExceeded,
    NotSent,
    OutcomeUnknown,
    ReplyLost,
    UnexpectedReply,
)
from tgmembership_async.protocol.endpoints import GRANTS, may_hold_secret
from tgmembership_async.protocol.envelope import Envelope, NoEnvelope, excerpt
from tgmembership_async.protocol.wire import Gateway503, Request, Response, Safety

_TURNED_AWAY: Final = frozenset({421, 425, 429})
_UNAVAILABLE: Final = 503
TURNED_AWAY_BY_SERVICE: Final = _TURNED_AWAY | {_UNAVAILABLE}
"""The codes of an envelope that says that nothing was done."""
_CLIENT_ERRORS: Final = range(400, 500)
_KEPT_OF_A_BODY: Final = 65_536
QUOTES: Final = "; the reply: "
"""Precedes the first characters of a reply in the message of an UnexpectedReply; they may contain names."""


class Outcome(StrEnum):
    """The effect of one attempt on the service, as far as it is known."""

    NOT_SENT = "not sent"
    TURNED_AWAY = "turned away"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    DONE = "done"


class TransportFailure(Exception):
    """An attempt got no complete reply; `reason` is one short phrase without URL or key.

    `connecting`: the failure belongs to the connect phase. `begun`: the transport began to write our headers, which is
    assumed until it is set from `request.progress`.
    """

    def __init__(self, reason: str, *, connecting: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.connecting = connecting
        self.begun = True


def judge_failure(failure: TransportFailure) -> Outcome:
    """Return the outcome of a failed attempt: NOT_SENT needs both a connect failure and no headers begun."""
    return Outcome.NOT_SENT if failure.connecting and not failure.begun else Outcome.UNKNOWN


def judge(response: Response, *, ok_alone_decides: bool, gateway_503: Gateway503 = "unknown") -> Outcome:
    """Return the outcome of a response; the envelope takes precedence over the HTTP status.

    With `ok_alone_decides`, `ok: true` without a valid code is DONE, as `addMember` needs it: the member was granted.
    `gateway_503` is the outcome of a 503 without the envelope.
    """
    envelope = response.envelope
    if isinstance(envelope, NoEnvelope):
        status = response.status
        believed = status in _TURNED_AWAY or (status == _UNAVAILABLE and gateway_503 == "turned away")
        return Outcome.TURNED_AWAY if believed else Outcome.UNKNOWN
    if envelope.ok:
        return Outcome.DONE if ok_alone_decides or envelope.code is not None else Outcome.UNKNOWN
    code = code_of(response)
    if code in TURNED_AWAY_BY_SERVICE:
        return Outcome.TURNED_AWAY
    return Outcome.REFUSED if code in _CLIENT_ERRORS else Outcome.UNKNOWN


def code_of(response: Response) -> int:
    """Return the envelope's code, or the HTTP status if there is none."""
    code = response.envelope.code if isinstance(response.envelope, Envelope) else None
    return response.status if code is None else code


def error_of(
    result: Response | TransportFailure,
    outcome: Outcome,
    retry_after: float | None,
    request: Request,
    elapsed: float,
) -> CallError:
    """Return the typed error for the last attempt of a call that ended without a result."""
    facts = facts_of(request, elapsed)
    error = (
        _error_of_failure(result, outcome, request, facts)
        if isinstance(result, TransportFailure)
        else _error_of_answer(_without_learned(result, request), outcome, retry_after, request, facts)
    )
    if outcome is Outcome.UNKNOWN and request.safety is Safety.UNSAFE:
        return unknown(error, request, elapsed)
    return error


def _without_learned(response: Response, request: Request) -> Response:
    """Return an answer without the secrets of earlier replies, which the service may repeat."""
    body = request.account.learned.scrub(response.body)
    return response if body is response.body else evolve(response, body=body)


def facts_of(request: Request, elapsed: float) -> dict[str, Any]:
    """Return the fields that every CallError carries."""
    return {
        "method": request.method,
        "attempts": request.progress.attempts,
        "elapsed": elapsed,
        "maybe_applied": request.progress.unsettled and request.safety is not Safety.SAFE,
    }


def unknown(cause: CallError, request: Request, elapsed: float) -> OutcomeUnknown:
    """Return the error for an unsafe call on which the service may have acted."""
    if request.method in GRANTS:
        message = f"the member may or may not have been granted ({cause.args[0]}): {GRANTS[request.method]}"
    else:
        message = f"the service may or may not have acted ({cause.args[0]}); check its effect before repeating it"
    return OutcomeUnknown(message, cause=cause, **{**facts_of(request, elapsed), "maybe_applied": True})


def late(request: Request, elapsed: float, *, last: CallError | None = None) -> CallError:
    """Return the error for a call whose deadline passed, or would pass before another attempt after `last`."""
    facts = facts_of(request, elapsed)
    if last is not None:
        message = f"the deadline leaves no time for another attempt after this one: {last.args[0]}"
    elif facts["maybe_applied"]:
        message = f"the deadline passed after {elapsed:.3g} s, during the exchange"
    else:
        message = f"the deadline passed after {elapsed:.3g} s, and the service changed nothing; calling again is safe"
    error = DeadlineExceeded(message, **facts)
    error.__cause__ = last
    return unknown(error, request, elapsed) if facts["maybe_applied"] and request.safety is Safety.UNSAFE else error


def _error_of_failure(
    failure: TransportFailure, outcome: Outcome, request: Request, facts: dict[str, Any]
) -> CallError:
    reason = request.account.learned.scrub_text(failure.reason)
    if outcome is not Outcome.NOT_SENT:
        return ReplyLost(f"the request was sent, and no complete reply came back: {reason}", **facts)
    if request.progress.unsettled:
        return ReplyLost(f"an earlier attempt was sent and got no complete reply; the last: {reason}", **facts)
    return NotSent(f"nothing was sent ({reason}); calling again is safe", **facts)


def _error_of_answer(
    response: Response, outcome: Outcome, retry_after: float | None, request: Request, facts: dict[str, Any]
) -> CallError:
    envelope = response.envelope
    if isinstance(envelope, NoEnvelope) and outcome is Outcome.UNKNOWN:
        return unexpected(f"HTTP {response.status}: {envelope.why}", response, request, facts)
    code = code_of(response)
    if isinstance(envelope, NoEnvelope):
        return APIError.for_code(
            code,
            f"a gateway turned the request away with HTTP {code}{_wait(retry_after)}",
            status=response.status,
            retry_after=retry_after,
            **facts,
        )
    if envelope.ok:
        return unexpected("'code' is missing or not a number", response, request, facts)
    return APIError.for_code(
        code,
        f"{code} {_reason(response, code, envelope)}{_wait(retry_after)}",
        description=envelope.description,
        error_code=envelope.error_code,
        status=response.status,
        request_id=envelope.request_id,
        retry_after=retry_after,
        **facts,
    )


def _reason(response: Response, code: int, envelope: Envelope) -> str:
    if envelope.description:
        return f"{envelope.error_code}: {envelope.description}" if envelope.error_code else envelope.description
    return envelope.error_code or response.dialect.meanings.get(code) or "without a description"


def _wait(retry_after: float | None) -> str:
    return "" if retry_after is None else f" (try again in {retry_after:.3g} s)"


def unexpected(why: str, response: Response, request: Request, facts: dict[str, Any]) -> UnexpectedReply:
    """Return the error for an unusable reply. A body that may hold an access token or a webhook secret is not shown.

    The method decides that, not the body: PHP prints notices, which are HTML, before the JSON.
    """
    body = _without_learned(response, request).body
    if not body or not may_hold_secret(request.method, request.safety):
        return UnexpectedReply(f"{why}{QUOTES}{excerpt(body)}", body=body[:_KEPT_OF_A_BODY], **facts)
    kind = " that look like HTML" if body.lstrip()[:1] == b"<" else ""
    shown = f"{len(body)} bytes{kind}, not shown because they may hold a secret"
    return UnexpectedReply(f"{why}; the reply: {shown}", **facts)
