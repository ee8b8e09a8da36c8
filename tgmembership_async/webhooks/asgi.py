"""The Receiver as an ASGI application. It does not need Starlette, ignores the path and responds to every verb."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer, DeliveryEndpoint, in_time

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_CLOSE: Final = (b"connection", b"close")


class ASGIReceiver:
    """An application for any ASGI server or framework, for example Starlette's `Route("/tgmembership", receiver.asgi)`.

    This is an object because frameworks wrap functions and restrict their verbs. If a server runs it as the whole
    application, it opens and closes the Receiver with the server. Another application has to do that itself.
    """

    def __init__(self, receiver: DeliveryEndpoint) -> None:
        self._receiver = receiver

    def __repr__(self) -> str:
        return f"{self._receiver!r}.asgi"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI 3 specifies."""
        if scope["type"] == "http":
            answer = await self._answer(scope, receive)
            if answer is not None:
                await _respond(send, answer, scope)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Message, receive: Receive) -> Answer | None:
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        length = next((value.decode("latin-1") for name, value in headers if name.lower() == b"content-length"), None)
        early = self._receiver.before_body(scope["method"], length)
        if early is not None:
            return early
        body = await in_time(_read(receive, self._receiver.max_body), self._receiver.body_timeout)
        return body if body is None or isinstance(body, Answer) else await self._receiver.handle(headers, body)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._receiver.open()
        except TGMembershipError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._receiver.aclose()
        await send({"type": "lifespan.shutdown.complete"})


async def _read(receive: Receive, limit: int) -> bytes | Answer | None:
    """Return the body, TOO_LARGE as soon as it exceeds `limit`, or None if the client has disconnected."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > limit:
            return answers.TOO_LARGE
        if not message.get("more_body", False):
            return bytes(body)


async def _respond(send: Send, answer: Answer, scope: Message) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    if answer is answers.TOO_SLOW and scope.get("http_version", "1.1").startswith("1"):
        headers.append(_CLOSE)  # else the server would wait for the rest of the body
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
