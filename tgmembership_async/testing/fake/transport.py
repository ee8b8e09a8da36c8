"""A Transport that calls the fake service in process, without a socket."""

from typing import Final

import anyio
import anyio.lowlevel

from tgmembership_async.protocol.outcome import TransportFailure
from tgmembership_async.protocol.wire import Headers, Request, Response
from tgmembership_async.testing.fake.fault_effects import Ending, Service, exchange

_REASONS: Final[dict[Ending, str]] = {
    "cut": "the body ended before its Content-Length",
    "closed": "the connection was closed without an answer",
    "reset": "the connection was reset",
}


class FakeTransport:
    """Passes requests to a `FakeService` in process, with its faults, on asyncio and trio.

    A fault that would end a connection raises `TransportFailure`, as a real transport does. The request counts as
    begun. A response after the read or exchange timeout is lost, although the request has taken effect.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def send(self, request: Request) -> Response:
        """Send one request to the service, and return the response. Raises TransportFailure."""
        request.progress.begun = False
        await anyio.lowlevel.checkpoint()
        target, headers, body = request.encode()
        secret = request.account.secret_fields  # the token of a Project, which only the wire has
        headers = Headers((*headers, *((name.decode(), value.decode()) for name, value in secret)))
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
        """Do nothing: there is no connection."""
        await anyio.lowlevel.checkpoint()
