"""The chain of one call: deadline → user's middleware → retry → admission → user's attempt middleware → exchange.

Each layer is `async (request, call_next) -> Response`. An error status is a Response here; an attempt without a reply
raises `TransportFailure`. Typed errors are raised once, at the public boundary (`calls.py`).
`admission.py` has the layer between retry and attempt middleware.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from random import random
from typing import Final

from anyio import CancelScope, Event, current_time, get_cancelled_exc_class, sleep
from attrs import evolve

from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import cancellations, repeat_cancellation
from tgmembership_async.large_replies import opened
from tgmembership_async.protocol.envelope import LEGACY, Envelope
from tgmembership_async.protocol.gate import Gate, SharedGate
from tgmembership_async.protocol.outcome import Outcome, TransportFailure, code_of, error_of, judge, judge_failure
from tgmembership_async.protocol.reply_limits import takes_long
from tgmembership_async.protocol.retry import Budget, RetryPolicy, Stop, Wait, decide, parse_retry_after
from tgmembership_async.protocol.service_clock import ServiceClock
from tgmembership_async.protocol.wire import Headers, Request, Response, Safety
from tgmembership_async.transport.base import Transport
from tgmembership_async.transport.reasons import reason_of

Next = Callable[[Request], Awaitable[Response]]
Middleware = Callable[[Request, Next], Awaitable[Response]]

_PAUSES_ALL_CALLS: Final = frozenset({429, 503})
_CANCEL_TIMEOUT: Final = 2.0
_MAY_BE_CUT: Final = 1024
"""Bytes at the end of a truncated body that may be the beginning of a secret, which no scrubber finds."""


class OutOfTime(Exception):
    """The deadline of the call passed, or the Session was closed during the call (`progress.closed`)."""


def chain(layers: Iterable[Middleware], last: Next) -> Next:
    """Return the function that sends a request through all `layers`, the first one outermost, to `last`."""
    for layer in reversed(tuple(layers)):
        last = _link(layer, last)
    return last


def _link(layer: Middleware, call_next: Next) -> Next:
    def send(request: Request) -> Awaitable[Response]:
        return layer(request, call_next)

    return send


class Deadline:
    """Cancel a call at its deadline, or when the Session is closed."""

    __slots__ = ("__weakref__", "_closing", "_idle", "_running", "_scope")

    def __init__(self) -> None:
        self._scope: type[CancelScope] = CancelScope
        self._running: dict[CancelScope, Request] = {}
        self._closing = 0
        self._idle: Event | None = None

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the response, or raise OutOfTime."""
        if self._closing:  # begun now, it would be cancelled during its exchange
            request.progress.closed = True
            raise OutOfTime
        request.progress.cancellations = cancellations()
        with self._scope(deadline=request.progress.deadline) as scope:
            self._scope = type(scope)  # that of this event loop, which anyio looks up each time: an eighth of a call
            self._running[scope] = request
            try:
                return await call_next(request)
            finally:
                del self._running[scope]
                if self._idle is not None and not self._running:
                    self._idle.set()
                    self._idle = None
        await repeat_cancellation(request.progress.cancellations)
        raise OutOfTime

    async def close(self, grace: float) -> None:
        """Cancel all calls; an unsafe call during its exchange has `grace` seconds to finish first.

        A call that begins meanwhile ends before anything is sent.
        """
        self._closing += 1
        try:
            self._cut(lambda request: not (request.progress.begun and request.safety is Safety.UNSAFE))
            try:
                with CancelScope(deadline=current_time() + grace):
                    await self._until_idle()
            finally:
                self._cut(lambda _: True)
                with CancelScope(shield=True, deadline=current_time() + _CANCEL_TIMEOUT):
                    await self._until_idle()
        finally:
            self._closing -= 1

    async def _until_idle(self) -> None:
        while self._running:
            self._idle = self._idle or Event()
            await self._idle.wait()

    def _cut(self, which: Callable[[Request], bool]) -> None:
        for scope, request in self._running.items():
            request.progress.closed = True
            if which(request):
                scope.cancel()


class Retry:
    """Repeat attempts, by the outcomes of `protocol.outcome` and the decisions of `protocol.retry`."""

    __slots__ = ("_budget", "_gate", "_policy", "_shared_gate")

    def __init__(self, policy: RetryPolicy, budget: Budget, gate: Gate, shared_gate: SharedGate | None = None) -> None:
        self._policy = policy
        self._budget = budget
        self._gate = gate
        self._shared_gate = shared_gate

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the last response, whatever its status, or raise the last TransportFailure."""
        progress, spent, attempt = request.progress, 0, 0
        while True:
            attempt += 1
            progress.repeats, attempts_before = progress.unsettled, progress.attempts
            result: Response | TransportFailure
            try:
                result = await call_next(request)
            except TransportFailure as failure:
                result = failure.with_traceback(None)
            outcome, retry_after = verdict(result, request)
            if outcome not in (Outcome.UNKNOWN, Outcome.DONE):  # DONE stays unsettled: Exchange refuses to repeat it
                progress.unsettled = progress.repeats
            if outcome is Outcome.DONE:
                self._budget.refund(spent)
                progress.done = done = _response_or_raise(result)
                return done
            step = decide(
                self._policy,
                outcome,
                request.safety,
                attempt=attempt,
                retry_after=retry_after,
                remaining=progress.deadline - current_time(),
                tokens=self._budget.tokens,
                random=random,
            )
            # A call that was refused here, during a pause, does not lengthen it.
            is_told = outcome is Outcome.TURNED_AWAY and progress.attempts > attempts_before
            pause = _shared_pause(result, retry_after, step) if is_told else 0.0
            pause = min(pause, self._policy.pause_cap)
            if pause > 0:
                self._gate.pause(current_time() + pause)
            if isinstance(step, Wait) and step.seconds > 0 and progress.hold is not None:
                error = error_of(result, outcome, retry_after, request, current_time() - progress.started)
                await progress.hold.release(f"{type(error).__name__}: {error}", error)
            if self._shared_gate is not None and pause > 0:
                await self._shared_gate.pause(request.account.number, pause)
            if isinstance(step, Stop):
                progress.out_of_time = step is Stop.DEADLINE
                return _response_or_raise(result)
            if progress.closed:
                raise OutOfTime
            self._budget.take(step.cost)
            spent += step.cost
            await sleep(step.seconds)


def _shared_pause(result: Response | TransportFailure, retry_after: float | None, step: Wait | Stop) -> float:
    """Return the seconds for which a request that was turned away pauses all calls."""
    if not isinstance(result, Response) or code_of(result) not in _PAUSES_ALL_CALLS:
        return 0.0
    own = step.seconds if isinstance(step, Wait) else 0.0
    return own if retry_after is None else retry_after


def verdict(result: Response | TransportFailure, request: Request) -> tuple[Outcome, float | None]:
    """Return the outcome of an attempt, and the seconds of its Retry-After header, if any."""
    if isinstance(result, TransportFailure):
        return judge_failure(result), None
    if not isinstance(result, Response):
        msg = f"a middleware returned {type(result).__name__} in place of a Response"
        raise TypeError(msg)
    envelope = result.envelope
    done = isinstance(envelope, Envelope) and envelope.ok
    retry_after = None if done else parse_retry_after(result.headers, datetime.now(UTC))
    ok_alone_decides = request.safety is Safety.UNSAFE
    return judge(result, ok_alone_decides=ok_alone_decides, gateway_503=request.account.gateway_503), retry_after


def _response_or_raise(result: Response | TransportFailure) -> Response:
    if isinstance(result, TransportFailure):
        raise result
    return result


class Exchange:
    """Pass the request to the transport, record whether it was sent, and scrub the API key from the response."""

    __slots__ = ("_clock", "_scope", "_transport")

    def __init__(self, transport: Transport, clock: ServiceClock) -> None:
        self._scope: type[CancelScope] = CancelScope
        self._transport = transport
        self._clock = clock

    async def __call__(self, request: Request) -> Response:
        """Return the response, or raise TransportFailure."""
        failure: BaseException
        progress = request.progress
        if (progress.unsettled or progress.in_flight) and request.safety is Safety.UNSAFE:
            msg = f"a middleware repeated {request.method}, which may have taken effect; leave retries to the Session"
            raise UsageError(msg)
        progress.in_flight = True
        try:
            if progress.hold is not None:
                await progress.hold.take()
            progress.attempts += 1
            progress.begun = True
            sent = self._clock.now()
            response = await self._send_in_time(request)
            self._clock.observe(response.headers, sent)
            response = _scrubbed(response, request)
            if request.account.dialect is not LEGACY:
                response = _in_dialect(response, request)
            return await opened(response, request) if takes_long(response.body) else response
        except (TransportFailure, OSError) as error:
            failure = _with_facts(error, request)
        except get_cancelled_exc_class() as cancelled:
            # Raise the same exception without the frames below, whose locals may hold the path with the key.
            failure = cancelled.with_traceback(None)
        finally:
            progress.unsettled = progress.unsettled or progress.begun
            progress.begun = progress.in_flight = False
        raise failure

    async def _send_in_time(self, request: Request) -> Response:
        limit = request.timeouts.exchange
        if limit is None:
            return await self._transport.send(request)
        with self._scope(deadline=current_time() + limit) as scope:
            self._scope = type(scope)  # as in Deadline
            return await self._transport.send(request)
        await repeat_cancellation(request.progress.cancellations)
        msg = f"no complete reply within {limit:g} s"
        raise TransportFailure(msg, connecting=not request.progress.begun)


def _scrubbed(response: Response, request: Request) -> Response:
    scrubber = request.account.scrubber
    # One look at all of it: two take a fiftieth of a call, and secrets are rare.
    everything = (
        "\n".join([value for _, value in response.headers.items]).encode("utf-8", "surrogatepass") + response.body
    )
    if scrubber.scrub(everything) is not everything:
        clean = Headers((name, scrubber.scrub_text(value)) for name, value in response.headers)
        response = evolve(response, headers=clean, body=scrubber.scrub(response.body))
    return evolve(response, body=response.body[:-_MAY_BE_CUT]) if response.truncated else response


def _in_dialect(response: Response, request: Request) -> Response:
    """Return the response as its generation of the API writes it; without a body, nothing proves an unsafe call."""
    dialect = request.account.dialect
    if response.body or response.status not in dialect.without_body or request.safety is Safety.UNSAFE:
        return evolve(response, dialect=dialect)
    return evolve(
        response, dialect=dialect, parsed=(response.body, Envelope(ok=True, code=response.status, result=None))
    )


def _with_facts(error: TransportFailure | OSError, request: Request) -> TransportFailure:
    if not isinstance(error, TransportFailure):
        reason = reason_of(error, request.account.scrubber)
        error = TransportFailure(reason, connecting=not request.progress.begun)
    failure = TransportFailure(error.reason, connecting=error.connecting)
    failure.begun = request.progress.begun
    return failure
