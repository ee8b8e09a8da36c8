"""The protocol of a transport, including how it reports whether a request was sent."""

from typing import Protocol, runtime_checkable

from tgmembership_async.protocol.outcome import TransportFailure
from tgmembership_async.protocol.wire import Request, Response

__all__ = ["Transport", "TransportFailure"]


@runtime_checkable
class Transport(Protocol):
    """Sends requests to the service: at most `max_connections` at a time, all on one event loop.

    `send` returns a complete response, whatever its status, or raises `TransportFailure`. A transport that knows
    whether it sent the request sets `request.progress.begun` to False when it starts, and to True before it writes the
    first byte of the request. Any other transport leaves it unchanged, and the request counts as sent.
    """

    async def send(self, request: Request) -> Response:
        """Send one request once, without retries and redirects."""
        ...

    async def aclose(self) -> None:
        """Close all connections; called once, after the last call."""
        ...
