"""The chain of one call: deadline → user's middleware → retry → departure → user's attempt middleware → exchange.

One signature for all: `async (request, call_next) -> Response`. A status is a value in here; what ends without an
answer is a `TransportFailure`. Typed errors are raised once, at the public boundary (`calls.py`).
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from random import random
from typing import Final

from anyio import CancelScope, Event, Lock, Semaphore, WouldBlock, current_time, get_cancelled_exc_class, sleep
from attrs import evolve

from tgmembership_async.errors import UsageError
from tgmembership_async.large_replies import opened
from tgmembership_async.protocol.envelope import Envelope
from tgmembership_async.protocol.gate import Gate, SharedGate
from tgmembership_async.protocol.outcome import Outcome, TransportFailure, code_of, error_of, judge, judge_failure
from tgmembership_async.protocol.reply_limits import takes_long
from tgmembership_async.protocol.retry import Budget, RetryPolicy, Stop, Wait, decide, obey, told_wait
from tgmembership_async.protocol.service_clock import ServiceClock
from tgmembership_async.protocol.wire import Headers, Request, Response, Safety
from tgmembership_async.transport.base import Transport
from tgmembership_async.transport.reasons import reason_of

Next = Callable[[Request], Awaitable[Response]]
Middleware = Callable[[Request, Next], Awaitable[Response]]

_PAUSES_EVERYBODY: Final = frozenset({429, 503})
_LEAVING_TAKES_AT_MOST: Final = 2.0


class OutOfTime(Exception):
    """The deadline of the call passed, or the Session was closed meanwhile (`progress.closed`)."""


def chain(rings: Iterable[Middleware], last: Next) -> Next:
    """Return the function that sends a request through all `rings`, the first one outermost, to `last`."""
    for ring in reversed(tuple(rings)):
        last = _link(ring, last)
    return last


def _link(ring: Middleware, call_next: Next) -> Next:
    def send(request: Request) -> Awaitable[Response]:
        return ring(request, call_next)

    return send


class Deadline:
    """End a call when its time is up, or when the Session is closed under it."""

    __slots__ = ("__weakref__", "_idle", "_running")

    def __init__(self) -> None:
        self._running: dict[CancelScope, Request] = {}
        self._idle: Event | None = None

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the answer in time, or raise OutOfTime."""
        with CancelScope(deadline=request.progress.deadline) as scope:
            self._running[scope] = request
            try:
                return await call_next(request)
            finally:
                del self._running[scope]
                if self._idle is not None and not self._running:
                    self._idle.set()
        raise OutOfTime

    async def close(self, grace: float) -> None:
        """End all calls: at once, but an unsafe one in its exchange has `grace` seconds to end by itself."""
        if not self._running:
            return
        self._idle = Event()
        self._cut(lambda request: not (request.progress.begun and request.safety is Safety.UNSAFE))
        try:
            with CancelScope(deadline=current_time() + grace):
                await self._idle.wait()
        finally:
            self._cut(lambda _: True)
            with CancelScope(shield=True, deadline=current_time() + _LEAVING_TAKES_AT_MOST):
                await self._idle.wait()

    def _cut(self, which: Callable[[Request], bool]) -> None:
        for scope, request in self._running.items():
            if which(request):
                request.progress.closed = True
                scope.cancel()


class Retry:
    """Try again what may be tried again, as `protocol.outcome` judges and `protocol.retry` decides."""

    __slots__ = ("_budget", "_gate", "_policy", "_shared_gate")

    def __init__(self, policy: RetryPolicy, budget: Budget, gate: Gate, shared_gate: SharedGate | None = None) -> None:
        self._policy = policy
        self._budget = budget
        self._gate = gate
        self._shared_gate = shared_gate

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the last answer, whatever it says, or raise the last failure."""
        progress, spent, attempt = request.progress, 0, 0
        while True:
            attempt += 1
            unsettled_before = progress.unsettled
            result: Response | TransportFailure
            try:
                result = await call_next(request)
            except TransportFailure as failure:
                result = failure.with_traceback(None)
            outcome, told = verdict(result, request)
            if outcome not in (Outcome.UNKNOWN, Outcome.DONE):  # done has acted: whoever sends it again is stopped
                progress.unsettled = unsettled_before
            if outcome is Outcome.DONE:
                self._budget.refund(spent)
                return _returned(result)
            step = decide(
                self._policy,
                outcome,
                request.safety,
                attempt=attempt,
                told=told,
                remaining=progress.deadline - current_time(),
                tokens=self._budget.tokens,
                random=random,
            )
            pause = _pause_for_everybody(result, told, step) if outcome is Outcome.TURNED_AWAY else 0.0
            pause = min(pause, self._policy.pause_cap)
            if pause > 0:
                self._gate.pause(current_time() + pause)
            if isinstance(step, Wait) and step.seconds > 0 and progress.hold is not None:
                error = error_of(result, outcome, told, request, current_time() - progress.started)
                await progress.hold.release(f"{type(error).__name__}: {error}", error)
            if self._shared_gate is not None and pause > 0:
                await self._shared_gate.pause(request.account.bot_id, pause)
            if isinstance(step, Stop):
                progress.out_of_time = step is Stop.DEADLINE
                return _returned(result)
            self._budget.take(step.cost)
            spent += step.cost
            await sleep(step.seconds)


def _pause_for_everybody(result: Response | TransportFailure, told: float | None, step: Wait | Stop) -> float:
    """Return the seconds for which an answer that turned a request away lets nobody through."""
    if not isinstance(result, Response) or code_of(result) not in _PAUSES_EVERYBODY:
        return 0.0
    own = step.seconds if isinstance(step, Wait) else 0.0
    return own if told is None else told


async def _let_go(request: Request, what_for: str) -> None:
    """Release what the call holds, for it has to wait."""
    if request.progress.hold is not None:
        await request.progress.hold.release(f"nothing was sent: it waits for {what_for}")


def verdict(result: Response | TransportFailure, request: Request) -> tuple[Outcome, float | None]:
    """Return what an attempt's end proves, and the seconds that it tells to wait, if any."""
    if isinstance(result, TransportFailure):
        return judge_failure(result), None
    envelope = result.envelope
    done = isinstance(envelope, Envelope) and envelope.ok
    told = None if done else told_wait(result.headers, datetime.now(UTC))
    ok_alone_decides = request.safety is Safety.UNSAFE
    return judge(result, ok_alone_decides=ok_alone_decides, gateway_503=request.account.gateway_503), told


def _returned(result: Response | TransportFailure) -> Response:
    if isinstance(result, TransportFailure):
        raise result
    return result


class Departure:
    """Wait for one of the Session's places, first come first served, then for the gate; hold the place until the end.

    The gate comes last, so that nobody who was let through still waits for a place while a pause begins.
    """

    __slots__ = ("_gate", "_pause_cap", "_places", "_shared_gate", "_turn", "coming")

    def __init__(
        self, gate: Gate, places: int, shared_gate: SharedGate | None = None, *, pause_cap: float = float("inf")
    ) -> None:
        self._pause_cap = pause_cap
        self._gate = gate
        self._shared_gate = shared_gate
        self._places = Semaphore(places, fast_acquire=True)
        self._turn = Lock(fast_acquire=True)
        self.coming: int = 0

    @property
    def is_free(self) -> bool:
        """Tell whether one more call would leave at once, besides the `coming` ones that were told so before."""
        if self._places.value <= self.coming or self._gate.limited:
            return False
        until = self._gate.paused_until
        return until < 0 or until <= current_time()  # it is -inf as long as nobody told to pause

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the answer, or a 429 of our own, nothing sent, where a pause outlasts the deadline."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            self._places.acquire_nowait()
        except WouldBlock:
            await _let_go(request, "a free connection")
            await self._places.acquire()
        try:
            return await self._at_the_gate(request) or await call_next(request)
        finally:
            self._places.release()

    async def _at_the_gate(self, request: Request) -> Response | None:
        if self._gate.limited:
            if self._turn.locked():
                await _let_go(request, "its turn")
            async with self._turn:
                return await self._let_through(request)
        if self._shared_gate is not None:
            return await self._let_through(request)
        return await self._sit_out_the_pause(request)

    async def _let_through(self, request: Request) -> Response | None:
        counted = False
        while True:
            refusal = await self._sit_out_the_pause(request)
            if refusal is not None:
                return refusal
            wait = self._gate.rate_wait(current_time())
            if self._shared_gate is not None:
                told = await self._shared_gate.ask(request.account.bot_id, None if counted else self._gate.limit)
                if told is not None and told.pause > 0:
                    self._gate.pause(current_time() + min(told.pause, self._pause_cap))
                    counted = False  # the pause has put off what was counted
                    continue
                wait = wait if told is None else told.wait
                counted = True
            if wait <= 0:
                self._gate.take(current_time())
                return None
            await _let_go(request, "the rate limit")
            await sleep(wait)

    async def _sit_out_the_pause(self, request: Request) -> Response | None:
        if self._gate.paused_until <= request.progress.started:
            return None
        while (wait := self._gate.paused_until - (now := current_time())) > 0:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            await _let_go(request, "the end of a pause")
            await sleep(obey(wait, request.progress.deadline - now, random()))  # noqa: S311 - jitter
        return None

    def _refusal(self, request: Request) -> Response | None:
        until = self._gate.paused_until
        if until < request.progress.deadline:
            return None
        description = "the service asked this Session to pause for longer than the deadline allows; nothing was sent"
        body = json.dumps({"ok": False, "code": 429, "description": description}).encode()
        wait = max(0.0, until - current_time())
        return Response(429, Headers((("retry-after", f"{wait:.3f}"),)), body)


class Exchange:
    """Hand the request to the transport, take its testimony, and keep the key out of what comes back."""

    __slots__ = ("_clock", "_transport")

    def __init__(self, transport: Transport, clock: ServiceClock) -> None:
        self._transport = transport
        self._clock = clock

    async def __call__(self, request: Request) -> Response:
        """Return the answer, or raise TransportFailure."""
        failure: BaseException
        progress = request.progress
        if progress.unsettled and request.safety is Safety.UNSAFE:
            msg = (
                f"a middleware sent {request.method} again after it may have taken effect; leave retries to the Session"
            )
            raise UsageError(msg)
        if progress.hold is not None:
            await progress.hold.take()
        progress.attempts += 1
        progress.begun = True
        try:
            sent = self._clock.now()
            response = await self._within_bounds(request)
            self._clock.learn(response.headers, sent)
            response = _scrubbed(response, request)
            return await opened(response, request) if takes_long(response.body) else response
        except (TransportFailure, OSError) as error:
            failure = _stamped(error, request)
        except get_cancelled_exc_class() as cancelled:
            # The same exception goes on, without the frames below: one of them may just be writing our path.
            failure = cancelled.with_traceback(None)
        finally:
            progress.unsettled = progress.unsettled or progress.begun
            progress.begun = False
        raise failure

    async def _within_bounds(self, request: Request) -> Response:
        limit = request.timeouts.exchange
        if limit is None:
            return await self._transport.send(request)
        with CancelScope(deadline=current_time() + limit):
            return await self._transport.send(request)
        msg = f"no whole reply within {limit:g} s"
        raise TransportFailure(msg, connecting=not request.progress.begun)


def _scrubbed(response: Response, request: Request) -> Response:
    scrubber = request.account.scrubber
    # One look at all of it: two take a fiftieth of a call, and secrets are rare.
    everything = "\n".join([value for _, value in response.headers]).encode(errors="surrogatepass") + response.body
    if scrubber.scrub(everything) is everything:
        return response
    clean = Headers((name, scrubber.scrub_text(value)) for name, value in response.headers)
    return evolve(response, headers=clean, body=scrubber.scrub(response.body))


def _stamped(error: TransportFailure | OSError, request: Request) -> TransportFailure:
    if not isinstance(error, TransportFailure):
        error = TransportFailure(reason_of(error, request.account.scrubber))
    failure = TransportFailure(error.reason, connecting=error.connecting)
    failure.begun = request.progress.begun
    return failure
