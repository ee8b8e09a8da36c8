"""A minimal HTTP server that returns one small JSON reply, in its own process to keep its CPU out of the figures.

python benchmarks/server.py [DELAY_IN_SECONDS [CERTIFICATE]]    prints its port, serves until its stdin closes

CERTIFICATE is a PEM file with the key and the certificate for 127.0.0.1; then the server talks TLS.
"""

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

PLANS = [
    {
        "plan_id": "1",
        "plan_name": "My first plan",
        "duration": "1 month",
        "cost": "9.99",
        "currency": "EUR",
        "recurring": "0",
    }
]
ME = {  # Telegram's reply to getMe, for the peer aiogram
    "id": 8047883872,
    "is_bot": True,
    "first_name": "My first bot",
    "username": "my_first_bot",
    "can_join_groups": True,
    "can_connect_to_business": False,
}
TOKEN = {"access_token": "aE1pu1lJo7XBetF5gIRHYH7L", "link": "https://t.me/my_fake_bot?start=aE1pu1lJo7XBetF5gIRHYH7L"}


SUBSCRIBED = [{"user_id": "42", "plan_id": "1", "started_at": "2100-01-01T00:00:00+00:00"}]


def _answer(result: object, headers: bytes = b"") -> bytes:
    body = json.dumps({"ok": True, "code": 200, "result": result}).encode()
    head = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (headers, len(body)) + body


READ, GRANTED, BOT = _answer(PLANS), _answer(TOKEN), _answer(ME)


def _subscribed() -> bytes:
    """Return a subscription that began after every attempt, with the Date that `reconcile` needs."""
    return _answer(SUBSCRIBED, f"date: {format_datetime(datetime.now(UTC), usegmt=True)}\r\n".encode())


def _answer_to(head: bytes) -> bytes:
    if b"/getSubscribers" in head:
        return _subscribed()
    return BOT if b"/getMe " in head else GRANTED if head.startswith(b"POST") else READ


class Answer(asyncio.Protocol):
    """Answer each GET with the same plans, or one subscription, each POST with the same token, and getMe with a bot."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._seen = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._seen += data
        while b"\r\n\r\n" in self._seen:
            head, _, rest = self._seen.partition(b"\r\n\r\n")
            length = 0
            if b"ontent-" in head:
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line[15:])
            if len(rest) < length:
                return
            self._seen = rest[length:]
            answer = _answer_to(head)
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._reply, answer)
            else:
                self._reply(answer)

    def _reply(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


@contextmanager
def server(delay: float, certificate: Path | None = None) -> Iterator[str]:
    """Start this module as a process and yield its URL, which is https with a certificate."""
    command = [sys.executable, __file__, str(delay), *([] if certificate is None else [str(certificate)])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http{'' if certificate is None else 's'}://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(10)


async def main(delay: float, *certificate: str) -> None:
    """Serve on a free port until stdin closes."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
    if context is not None:
        context.load_cert_chain(*certificate)
    server = await loop.create_server(lambda: Answer(delay), "127.0.0.1", 0, backlog=2048, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0, *sys.argv[2:]))
