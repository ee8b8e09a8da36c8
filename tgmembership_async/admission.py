"""Admission control in the chain of a call: a limited number of calls at a time, the rate limit, and pauses."""

import json
from random import random

from anyio import Lock, Semaphore, WouldBlock, current_time, sleep

from tgmembership_async.middleware import Next
from tgmembership_async.protocol.gate import Gate, SharedGate
from tgmembership_async.protocol.retry import with_jitter
from tgmembership_async.protocol.wire import Headers, Request, Response


class Admission:
    """Admission control: acquire a slot of the Session in FIFO order, pass the gate, and release the slot at the end.

    The gate comes last: a call that has passed it does not wait for a slot, during which a pause could begin.
    """

    __slots__ = ("_gate", "_pause_cap", "_rate_lock", "_shared_gate", "_slots", "reserved")

    def __init__(
        self, gate: Gate, slots: int, shared_gate: SharedGate | None = None, *, pause_cap: float = float("inf")
    ) -> None:
        self._pause_cap = pause_cap
        self._gate = gate
        self._shared_gate = shared_gate
        self._slots = Semaphore(slots, fast_acquire=True)
        self._rate_lock = Lock(fast_acquire=True)
        self.reserved: int = 0

    @property
    def is_free(self) -> bool:
        """Tell whether one more call, besides those that `reserved` counts, would be sent at once."""
        if self._slots.value <= self.reserved or self._gate.limited:
            return False
        until = self._gate.paused_until
        return until < 0 or until <= current_time()  # -inf until the first pause

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the response, or a 429 made here without sending anything if a pause exceeds the deadline."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            self._slots.acquire_nowait()
        except WouldBlock:
            await _release_hold(request, "a free connection")
            await self._slots.acquire()
        try:
            return await self._pass_gate(request) or await call_next(request)
        finally:
            self._slots.release()

    async def _pass_gate(self, request: Request) -> Response | None:
        if self._gate.limited:
            if self._rate_lock.locked():
                await _release_hold(request, "its turn")
            async with self._rate_lock:
                return await self._pass_limits(request)
        if self._shared_gate is not None:
            return await self._pass_limits(request)
        return await self._wait_for_end_of_pause(request)

    async def _pass_limits(self, request: Request) -> Response | None:
        counted = False
        while True:
            refusal = await self._wait_for_end_of_pause(request)
            if refusal is not None:
                return refusal
            wait = self._gate.rate_wait(current_time())
            if self._shared_gate is not None:
                reply = await self._shared_gate.ask(request.account.number, None if counted else self._gate.limit)
                if reply is not None and reply.pause > 0:
                    self._gate.pause(current_time() + min(reply.pause, self._pause_cap))
                    counted = False  # the request was counted for a time within the pause
                    continue
                wait = wait if reply is None else reply.wait
                counted = True
            if wait <= 0:
                self._gate.take(current_time())
                return None
            await _release_hold(request, "the rate limit")
            await sleep(wait)

    async def _wait_for_end_of_pause(self, request: Request) -> Response | None:
        if self._gate.paused_until <= request.progress.started:
            return None
        while (wait := self._gate.paused_until - (now := current_time())) > 0:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            await _release_hold(request, "the end of a pause")
            await sleep(with_jitter(wait, request.progress.deadline - now, random()))  # noqa: S311 - jitter
        return None

    def _refusal(self, request: Request) -> Response | None:
        until = self._gate.paused_until
        if until < request.progress.deadline:
            return None
        description = "nothing was sent: the pause that the service asked for ends after the deadline"
        body = json.dumps({"ok": False, "code": 429, "description": description}).encode()
        wait = max(0.0, until - current_time())
        return Response(429, Headers((("retry-after", f"{wait:.3f}"),)), body)


async def _release_hold(request: Request, what_for: str) -> None:
    """Release the hold of a call before it waits."""
    if request.progress.hold is not None:
        await request.progress.hold.release(f"nothing was sent: the call waits for {what_for}")
