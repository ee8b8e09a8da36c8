"""The fake service as an ASGI application. It can also end connections with FIN, RST or a cut body."""

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
from tgmembership_async.testing.fake.fault_effects import Ending, Service, exchange

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Connection(H11Protocol):
    """One connection. Its transport is in `scope["state"]`. No access log: paths contain the API key."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Store the transport for the application."""
        self.access_log = False
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}
        super().connection_made(transport)


Before = Callable[[str, bytes, Headers, bytes], Awaitable[None]]
"""Called with verb, target, headers and body of each request before the service handles it."""


class Application:
    """The ASGI application for a service."""

    def __init__(self, service: Service, closing: asyncio.Event, before: Before | None = None) -> None:
        self._service = service
        self._closing = closing
        self._before = before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or end the connection, according to the service and its faults."""
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
        """Wait, at most until the server closes: requests that have arrived still take effect."""
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return


def _whole(answer: Response) -> ASGIApp:
    return HTTPResponse(answer.body, answer.status, dict(answer.headers))


def _cut(answer: Response) -> ASGIApp:
    """Send half of the body that Content-Length declares, then FIN."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        announced = (*answer.headers, ("content-length", str(len(answer.body))))
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in announced]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await _close(scope, receive)

    return respond


def _closed(_: Response) -> ASGIApp:
    """Send FIN without a response."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - the signature is ASGI's
        await _close(scope, receive)

    return respond


def _reset(_: Response) -> ASGIApp:
    """Send RST without a response."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - the signature is ASGI's
        transport: asyncio.Transport = scope["state"]["transport"]
        if not transport.is_closing():
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        await _wait_for_disconnect(receive)

    return respond


async def _close(scope: Scope, receive: Receive) -> None:
    transport: asyncio.Transport = scope["state"]["transport"]
    transport.close()  # sends what is in the buffer first
    await _wait_for_disconnect(receive)


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until uvicorn notices that the connection has ended; otherwise uvicorn would send a 500."""
    while (await receive())["type"] != "http.disconnect":
        pass


_ENDINGS: Final[Mapping[Ending, Callable[[Response], ASGIApp]]] = {
    "whole": _whole,
    "cut": _cut,
    "closed": _closed,
    "reset": _reset,
}
