"""The public boundary of a call: send a request through the middleware chain, and turn its end into a typed error."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from anyio import current_time
from attrs import field, frozen

from tgmembership_async.errors import CallError, OutcomeUnknown, ReplyLost, TGMembershipError, UsageError
from tgmembership_async.large_replies import structured
from tgmembership_async.middleware import Next, OutOfTime, verdict
from tgmembership_async.protocol.endpoints import may_hold_secret
from tgmembership_async.protocol.envelope import Envelope
from tgmembership_async.protocol.outcome import (
    Outcome,
    TransportFailure,
    error_of,
    facts_of,
    late,
    unexpected,
    unknown,
)
from tgmembership_async.protocol.reply_limits import takes_long
from tgmembership_async.protocol.structuring.results import ShapeError
from tgmembership_async.protocol.wire import Request, Response, Safety
from tgmembership_async.values.models import AccessToken, Reply, Webhook

_logger: Final = logging.getLogger("tgmembership_async")
_SECRET_FIELDS: Final = ("access_token", "token", "code", "secret")

T = TypeVar("T")


@frozen
class CallEnded:
    """The argument of an observer, passed when a call ends: `error` is None for a result; `elapsed` is in seconds.

    A cancelled `addMember` raises no CallError; only `maybe_applied` shows that it may have taken effect.
    """

    method: str
    url: str
    attempts: int
    elapsed: float
    maybe_applied: bool
    error: BaseException | None = field(repr=False)


Observer = Callable[[CallEnded], object]


async def perform(
    send: Next, request: Request, convert: Callable[[Any], T], observer: Observer | None
) -> tuple[T, Response]:
    """Return the structured result of a successful call and its response, or raise the typed error for its outcome.

    Notify the observer.
    """
    error: BaseException | None = None
    try:
        response = await _judged(send, request)
        return await read(convert, response, request), response
    except BaseException as raised:
        error = raised
        raise
    finally:
        _report(request, error, observer)


async def _judged(send: Next, request: Request) -> Response:
    result = await _sent(send, request)
    # Outside of `except`, so that the traceback of our errors has no frames of the libraries below.
    if isinstance(result, Response) and result is request.progress.done:
        return result
    elapsed = current_time() - request.progress.started
    if isinstance(result, OutOfTime):
        raise _cut_short(request, elapsed)
    if not isinstance(result, Response | TransportFailure):
        raise _unknown_after(result, request, elapsed) from result
    outcome, retry_after = verdict(result, request)
    error = error_of(result, outcome, retry_after, request, elapsed)
    if request.progress.out_of_time and outcome is not Outcome.TURNED_AWAY:
        error = late(request, elapsed, last=error)
    raise error


async def _sent(send: Next, request: Request) -> Response | TransportFailure | Exception:
    """Send through the chain, and return how it ended; raise a foreign exception if nothing was done before it."""
    progress = request.progress
    try:
        result = await send(request)
        if result is not progress.done or progress.done is None:  # a middleware has replaced it
            progress.done = result if verdict(result, request)[0] is Outcome.DONE else None
    except TransportFailure as failure:
        return failure.with_traceback(None)
    except OutOfTime as ended:
        if request.safety is Safety.UNSAFE and progress.done is not None:
            return progress.done  # it came in time, and a middleware held it
        return ended.with_traceback(None)
    except Exception as foreign:
        if not _may_have_acted(request, foreign):
            raise
        return foreign
    return result


def _may_have_acted(request: Request, error: Exception) -> bool:
    """Tell whether an unsafe call may have acted although a foreign exception, such as a bug, ended it."""
    if request.safety is not Safety.UNSAFE or not request.progress.attempts:
        return False
    return request.progress.unsettled or not isinstance(error, TGMembershipError)


def _unknown_after(foreign: Exception, request: Request, elapsed: float) -> OutcomeUnknown:
    cause = ReplyLost(f"{type(foreign).__name__} was raised during the call", **facts_of(request, elapsed))
    return unknown(cause, request, elapsed)


def _cut_short(request: Request, elapsed: float) -> TGMembershipError:
    error = late(request, elapsed)
    if not request.progress.closed:
        return error
    if isinstance(error, OutcomeUnknown):
        cause = ReplyLost("the Session was closed during the exchange", **facts_of(request, elapsed))
        return unknown(cause, request, elapsed)
    return UsageError(f"{request.method}: the Session was closed during the call; close it after the last call")


async def read(convert: Callable[[Any], T], response: Response, request: Request) -> T:
    """Return the structured result of a successful response; raise UnexpectedReply if it has no accepted shape.

    Raise DeadlineExceeded if the deadline passes meanwhile, but never for an unsafe call, whose result is known.
    """
    envelope: Any = response.envelope
    why: str | None
    try:
        if takes_long(response.body):
            result = await structured(convert, envelope.result, request)
        else:
            result = convert(envelope.result)
    except ShapeError as shape:
        why = f"the result has no accepted shape: {shape}"
    except TimeoutError:
        why = None
    else:
        if may_hold_secret(request.method, request.safety):
            for secret in _secrets_in(result):
                request.account.learned.add(secret)
        return result
    elapsed = current_time() - request.progress.started
    if why is None:
        raise late(request, elapsed)
    facts = {**facts_of(request, elapsed), "maybe_applied": request.safety is not Safety.SAFE}
    raise unexpected(why, response, request, facts)


def envelope_of(response: Response) -> Envelope:
    """Return the envelope of a successful response."""
    envelope = response.envelope
    assert isinstance(envelope, Envelope)  # noqa: S101 - a successful response has one
    return envelope


def reply(result: Any, response: Response, request: Request) -> Reply[Any]:
    """Return a structured result together with its envelope and the facts of the call."""
    envelope, progress = envelope_of(response), request.progress
    of_envelope = (envelope.code, envelope.description, envelope.request_id)
    return Reply(result, *of_envelope, progress.attempts, current_time() - progress.started, envelope.extra)


def _secrets_in(result: object) -> Iterator[str]:
    """Yield the access token, link or webhook secret of a result, also of one that `call` did not structure."""
    if isinstance(result, AccessToken):
        yield from filter(None, (result.token, result.link))
    elif isinstance(result, Webhook):
        yield "" if result.secret is None else result.secret.reveal()
    elif isinstance(result, str):
        yield result
    elif isinstance(result, dict):
        fields = cast("dict[object, object]", result)
        yield from (value for name in _SECRET_FIELDS if isinstance(value := fields.get(name), str))


def _report(request: Request, error: BaseException | None, observer: Observer | None) -> None:
    progress = request.progress
    if error is None and observer is None and not _logger.isEnabledFor(logging.DEBUG):
        return
    maybe_applied = error is not None and progress.unsettled and request.safety is not Safety.SAFE
    elapsed = current_time() - progress.started
    with suppress(Exception):  # a log handler that raises must not replace the outcome
        if maybe_applied and request.safety is Safety.UNSAFE and not isinstance(error, CallError):
            _logger.warning(
                "%s was cancelled during its exchange: the service may or may not have acted on it",
                request.method,
            )
        _logger.debug(
            "%s %s after %d attempt(s) in %.1f ms",
            request.method,
            "done" if error is None else type(error).__name__,
            progress.attempts,
            1000 * elapsed,
        )
    if observer is None:
        return
    ended = CallEnded(request.method, request.url, progress.attempts, elapsed, maybe_applied, error)
    try:
        observer(ended)
    except Exception:
        with suppress(Exception):
            _logger.exception("an observer raised; the call itself is not affected")
