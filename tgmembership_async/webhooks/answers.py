"""What the service is answered: one table of statuses, and nothing in it that helps a forger."""

from collections.abc import Awaitable, Mapping
from contextlib import nullcontext
from typing import Final, Protocol, TypeVar

from anyio import CancelScope, move_on_after
from attrs import frozen

from tgmembership_async.webhooks.headers import HeadersLike

T = TypeVar("T")
PLAIN: Final = ("content-type", "text/plain; charset=utf-8")


@frozen
class Answer:
    """An HTTP answer to a delivery."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (PLAIN,)


class DeliveryEndpoint(Protocol):
    """What an adapter to a web server needs of a Receiver."""

    max_body: int
    body_timeout: float

    def before_body(self, verb: str, length: str | None = None) -> Answer | None:
        """Return what to answer without reading a body, or None."""
        ...

    async def handle(self, headers: HeadersLike, body: bytes) -> Answer:
        """Return what to answer to a POST."""
        ...

    async def open(self) -> object:
        """Begin to take deliveries."""
        ...

    async def aclose(self) -> None:
        """Take no more deliveries."""
        ...


def _answer(status: int, text: str, **headers: str) -> Answer:
    named = ((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, f"{text}\n".encode(), (PLAIN, *named))


OK: Final = _answer(200, "ok")
UNREADABLE: Final = _answer(400, "not an event")
CUT_SHORT: Final = _answer(400, "cut short")
NOT_AUTHENTIC: Final = _answer(401, "not authentic")
TOO_SLOW: Final = _answer(408, "too slow")
TOO_LARGE: Final = _answer(413, "too large")
FAILED: Final = _answer(500, "failed, send it again")
NOT_READY: Final = _answer(503, "not ready, send it again", retry_after="5")
NOT_STORED: Final = _answer(503, "cannot store it now, send it again", retry_after="30")


def not_allowed(allowed: str) -> Answer:
    """Return the answer to any other verb than those."""
    return _answer(405, "method not allowed", allow=allowed)


async def in_time(reading: Awaitable[T], seconds: float) -> T | Answer:
    """Return the body that is read, or TOO_SLOW: a client that sends a byte now and then would hold a connection."""
    with _limit(seconds):
        return await reading
    return TOO_SLOW


def _limit(seconds: float) -> CancelScope | nullcontext[None]:
    try:
        return move_on_after(seconds)
    except RuntimeError:  # no event loop, and so no clock: somebody steps through the application by hand
        return nullcontext()


ALLOWED: Final[Mapping[bool, tuple[str, ...]]] = {False: ("POST",), True: ("GET", "HEAD", "POST")}
"""The verbs that are answered, without and with probes."""
