"""The HTTP responses to deliveries. Their texts give a forger no information."""

from collections.abc import Awaitable, Mapping
from contextlib import nullcontext
from typing import Final, Protocol, TypeVar

from anyio import CancelScope, move_on_after
from attrs import frozen

from tgmembership_async.webhooks.headers import HeadersLike

T = TypeVar("T")
_DIGITS: Final = 20
PLAIN: Final = ("content-type", "text/plain; charset=utf-8")


@frozen
class Answer:
    """An HTTP response to a delivery."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (PLAIN,)


class DeliveryEndpoint(Protocol):
    """The part of a Receiver that the adapters to web servers use."""

    max_body: int
    body_timeout: float

    def before_body(self, verb: str, length: str | None = None) -> Answer | None:
        """Return the response if it does not depend on the body, else None."""
        ...

    async def handle(self, headers: HeadersLike, body: bytes) -> Answer:
        """Return the response to a POST."""
        ...

    async def open(self) -> object:
        """Begin to accept deliveries."""
        ...

    async def aclose(self) -> None:
        """Stop accepting deliveries."""
        ...


def _answer(status: int, text: str, **headers: str) -> Answer:
    named = ((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, f"{text}\n".encode(), (PLAIN, *named))


OK: Final = _answer(200, "ok")
UNREADABLE: Final = _answer(400, "not an event")
CUT_SHORT: Final = _answer(400, "cut short")
UNKNOWN_CODING: Final = _answer(400, "unknown content coding")
NOT_AUTHENTIC: Final = _answer(401, "not authentic")
TOO_SLOW: Final = _answer(408, "too slow")
TOO_LARGE: Final = _answer(413, "too large")
FAILED: Final = _answer(500, "failed, send it again")
NOT_READY: Final = _answer(503, "not ready, send it again", retry_after="5")
CANNOT_VERIFY: Final = _answer(503, "cannot verify it now, send it again", retry_after="30")
NOT_STORED: Final = _answer(503, "cannot store it now, send it again", retry_after="30")


def not_allowed(allowed: str) -> Answer:
    """Return the response to a verb that is not allowed."""
    return _answer(405, "method not allowed", allow=allowed)


def is_too_large(length: str | None, limit: int) -> bool:
    """Tell whether a Content-Length exceeds `limit` bytes."""
    return length is not None and length.isdecimal() and (len(length) > _DIGITS or int(length) > limit)


async def in_time(reading: Awaitable[T], seconds: float) -> T | Answer:
    """Return the body, or TOO_SLOW if reading takes too long: a slow client must not occupy a connection."""
    with _limit(seconds):
        return await reading
    return TOO_SLOW


def _limit(seconds: float) -> CancelScope | nullcontext[None]:
    try:
        return move_on_after(seconds)
    except RuntimeError:  # no event loop, and so no clock: the application is stepped by hand
        return nullcontext()


ALLOWED: Final[Mapping[bool, tuple[str, ...]]] = {False: ("POST",), True: ("GET", "HEAD", "POST")}
"""The allowed verbs, without and with `probes`."""
