"""Obey the rate limit that replies announce before a 429 comes: an attempt middleware that feeds the gate."""

import re
from datetime import UTC, datetime
from typing import Final

from anyio import current_time
from attrs import evolve

from tgmembership_async.middleware import Next
from tgmembership_async.protocol.envelope import Envelope
from tgmembership_async.protocol.gate import Gate
from tgmembership_async.protocol.service_clock import http_date
from tgmembership_async.protocol.wire import Headers, Request, Response

_NUMBER: Final = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,9})?", re.ASCII)
_MOMENT: Final = 10**9
_MILLISECONDS: Final = 10**12
_TOO_MANY: Final = 429


class RateHeaders:
    """Pause the gate when `X-RateLimit-Remaining` is 0, until `X-RateLimit-Reset` (names *documented*).

    The unit of the reset is *assumed*: a small number is seconds from now, a large one unix seconds or milliseconds. A
    429 without Retry-After gets the `retry_after` of its body.
    """

    def __init__(self, gate: Gate, pause_cap: float) -> None:
        self._gate = gate
        self._pause_cap = pause_cap

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Return the response."""
        response = await call_next(request)
        wait = self._wait(response.headers)
        if wait > 0:
            self._gate.pause(current_time() + min(wait, self._pause_cap))
        return _with_retry_after(response) if response.status == _TOO_MANY else response

    def _wait(self, headers: Headers) -> float:
        if _number(headers.get("x-ratelimit-remaining")) != 0:
            return 0.0
        reset = _number(headers.get("x-ratelimit-reset")) or 0.0
        if reset < _MOMENT:
            return reset
        now = http_date(headers.get("date") or "") or datetime.now(UTC)
        return (reset / 1000 if reset >= _MILLISECONDS else reset) - now.timestamp()


def _number(value: object) -> float | None:
    text = str(value).strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _with_retry_after(response: Response) -> Response:
    envelope = response.envelope
    if response.headers.get("retry-after") is not None or not isinstance(envelope, Envelope):
        return response
    seconds = _number(envelope.extra.get("retry_after"))
    return (
        response if seconds is None else evolve(response, headers=response.headers.with_("retry-after", f"{seconds:f}"))
    )
