"""The fake service as an ASGI application that can also hang up: FIN, RST and cut bodies, for real."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response as HTTPResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.fault_plan import Ending, Service, exchange

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Connection(H11Protocol):
    """One connection, whose transport the application finds in `scope["state"]`. No access log: paths hold the key."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take note of the transport."""
        self.access_log = False
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}
        super().connection_made(transport)


Before = Callable[[str, bytes, Headers, bytes], Awaitable[None]]
"""Is called with verb, target, headers and body of every request before the service acts on it."""


class Application:
    """The ASGI application around a service."""

    def __init__(self, service: Service, closing: asyncio.Event, before: Before | None = None) -> None:
        self._service = service
        self._closing = closing
        self._before = before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or end the connection, as the service and its faults say."""
        try:
            body = await HTTPRequest(scope, receive).body()
        except ClientDisconnect:
            return
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        if self._before is not None:
            await self._before(scope["method"], target, headers, body)
        answer, ending = await exchange(self._service, scope["method"], target, headers, body, sleep=self._sleep)
        await _ENDINGS[ending](answer)(scope, receive, send)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the server: what has arrived is carried out before."""
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return


def _whole(answer: Response) -> ASGIApp:
    return HTTPResponse(answer.body, answer.status, dict(answer.headers))


def _cut(answer: Response) -> ASGIApp:
    """Send half of the body that Content-Length announces, then FIN."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        announced = (*answer.headers, ("content-length", str(len(answer.body))))
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in announced]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await _hang_up(scope, receive)

    return respond


def _closed(_: Response) -> ASGIApp:
    """Send nothing but FIN."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - the signature is ASGI's
        await _hang_up(scope, receive)

    return respond


def _reset(_: Response) -> ASGIApp:
    """Send nothing but RST."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - the signature is ASGI's
        transport: asyncio.Transport = scope["state"]["transport"]
        if not transport.is_closing():
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        await _gone(receive)

    return respond


async def _hang_up(scope: Scope, receive: Receive) -> None:
    transport: asyncio.Transport = scope["state"]["transport"]
    transport.close()  # what is written goes out first
    await _gone(receive)


async def _gone(receive: Receive) -> None:
    """Wait until uvicorn knows that the connection has ended; it would send a 500 of its own otherwise."""
    while (await receive())["type"] != "http.disconnect":
        pass


_ENDINGS: Final[Mapping[Ending, Callable[[Response], ASGIApp]]] = {
    "whole": _whole,
    "cut": _cut,
    "closed": _closed,
    "reset": _reset,
}
