"""Signed deliveries for tests, and a manual clock."""

import json
import time
from typing import Any

from canary import CANARY_SECRET

from tgmembership_async.webhooks import Event, sign


def body(number: int = 1, *, event: str = "order_completed", debug_id: str = "d", **data: Any) -> bytes:
    """Return the body of an event that is unique to `number`."""
    return json.dumps({"event": event, "debug_id": debug_id, "data": {"order_id": number, **data}}).encode()


def signed(content: bytes, *, nonce: str | None = "65f0c0ffee123", at: float | None = None) -> dict[str, str]:
    """Return the headers of an authentic delivery."""
    return sign(CANARY_SECRET, content, nonce=nonce, timestamp=time.time() if at is None else at)


class Clock:
    """A clock in unix seconds that the test advances."""

    def __init__(self, now: float | None = None) -> None:
        self.now = float(int(time.time())) if now is None else now

    def __call__(self) -> float:
        return self.now


class Seen:
    """A handler that records its calls, and raises the given failures first."""

    def __init__(self, *failures: BaseException) -> None:
        self.events: list[Event] = []
        self.failures = list(failures)

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.failures:
            raise self.failures.pop(0)

    @property
    def attempts(self) -> list[int]:
        """Return the attempt number of each call."""
        return [event.attempt for event in self.events]
