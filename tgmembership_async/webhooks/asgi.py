"""The Receiver as a bare ASGI application: no Starlette needed, no path looked at, every verb answered."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer, DeliveryEndpoint

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ASGIReceiver:
    """An application for any ASGI server or framework: Starlette's `Route("/tgmembership", receiver.asgi)`, say.

    An object, not a function: frameworks wrap functions, and add verbs and redirects of their own. Run as a whole
    application it opens and closes the Receiver with the server; in another application that one does.
    """

    def __init__(self, receiver: DeliveryEndpoint) -> None:
        self._receiver = receiver

    def __repr__(self) -> str:
        return f"{self._receiver!r}.asgi"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection as ASGI 3 has it."""
        if scope["type"] == "http":
            answer = await self._answer(scope, receive)
            if answer is not None:
                await _respond(send, answer, with_body=scope["method"] != "HEAD")
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Message, receive: Receive) -> Answer | None:
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        length = next((value.decode("latin-1") for name, value in headers if name.lower() == b"content-length"), None)
        early = self._receiver.before_body(scope["method"], length)
        if early is not None:
            return early
        body = await _read(receive, self._receiver.max_body)
        return body if body is None or isinstance(body, Answer) else await self._receiver.handle(headers, body)

    async def _live(self, receive: Receive, send: Send) -> None:
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
    """Return the body, 413 as soon as it is too long, or None if the client went away."""
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


async def _respond(send: Send, answer: Answer, *, with_body: bool) -> None:
    length = (b"content-length", str(len(answer.body)).encode())
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})
