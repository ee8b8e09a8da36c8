"""The fake service in process: a Transport without a socket."""

from typing import Final

import anyio
import anyio.lowlevel

from tgmembership_async.protocol.outcome import TransportFailure
from tgmembership_async.protocol.wire import Request, Response
from tgmembership_async.testing.fake.fault_plan import Ending, Service, exchange

_REASONS: Final[dict[Ending, str]] = {
    "cut": "the body ended before its Content-Length",
    "closed": "the connection was closed without an answer",
    "reset": "the connection was reset",
}


class FakeTransport:
    """Hand requests to a `FakeService` in process, faults included, on asyncio and trio.

    What would break a connection raises `TransportFailure` with the testimony that a real transport gives: each request
    that arrives was begun, and an answer later than the read or exchange timeout is lost, its effect is not.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def send(self, request: Request) -> Response:
        """Let the service act on one request once."""
        request.progress.begun = False
        await anyio.lowlevel.checkpoint()
        target, headers, body = request.encode()
        request.progress.begun = True
        limits = request.timeouts
        patience = limits.read if limits.exchange is None else min(limits.read, limits.exchange)
        with anyio.move_on_after(patience):
            answer, ending = await exchange(self._service, request.verb, target, headers, body, sleep=anyio.sleep)
            if ending == "whole":
                return Response(answer.status, answer.headers, request.account.scrubber.scrub(answer.body))
            raise TransportFailure(_REASONS[ending])
        reason = f"no answer within {patience:g} s"
        raise TransportFailure(reason)

    async def aclose(self) -> None:
        """Let go of nothing: there is no connection."""
        await anyio.lowlevel.checkpoint()
