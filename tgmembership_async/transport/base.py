"""What a way out must do, and how it says whether our request was sent."""

from typing import Protocol, runtime_checkable

from tgmembership_async.protocol.outcome import TransportFailure
from tgmembership_async.protocol.wire import Request, Response

__all__ = ["Transport", "TransportFailure"]


@runtime_checkable
class Transport(Protocol):
    """One way to the service. A Session sends at most `max_connections` requests at a time, all on one event loop.

    `send` returns a whole answer, whatever its status, or raises `TransportFailure`. Its testimony goes into
    `request.progress`: a transport that can tell sets `begun = False` when it starts and `begun = True` right before it
    writes the first byte of our request; one that cannot leaves it alone, and is believed to have sent.
    """

    async def send(self, request: Request) -> Response:
        """Send one request once; follow no redirect, repeat nothing."""
        ...

    async def aclose(self) -> None:
        """Let go of all connections; called once, when no call runs any more."""
        ...
