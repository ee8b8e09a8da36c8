"""A webhook server process to kill: a Receiver with an inbox, on uvicorn and Starlette or on aiohttp.

python webhook_server.py uvicorn|aiohttp PORT FOLDER; the webhook secret is in FOLDER/secret. Each call of the handler
adds a line to FOLDER/handled: process id, order id, attempt, and "yes" for what is forged.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.routing import Route

from tgmembership_async.webhooks import Event, Receiver, SqliteInbox, Verifier


def shop(folder: Path) -> Receiver:
    """Return the Receiver."""
    verifier = Verifier((folder / "secret").read_text(encoding="utf-8"))
    receiver = Receiver(verifier, SqliteInbox(folder / "inbox.db"))
    handled = os.open(folder / "handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @receiver.on(Event)
    async def handle(event: Event) -> None:
        line = f"{os.getpid()} {event.data['order_id']} {event.attempt} {event.data.get('forged', 'no')}\n"
        os.write(handled, line.encode())

    return receiver


def on_uvicorn(receiver: Receiver, port: int) -> None:
    """Serve until SIGTERM."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with receiver:
            yield

    app = Starlette(routes=[Route("/tgmembership", receiver.asgi)], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def on_aiohttp(receiver: Receiver, port: int) -> None:
    """Serve until SIGTERM, as aiogram's webhook server does."""

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with receiver:
            yield

    app = web.Application()
    app.router.add_route("*", "/tgmembership", receiver.aiohttp_handler)
    app.cleanup_ctx.append(lifetime)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    serve = {"uvicorn": on_uvicorn, "aiohttp": on_aiohttp}[sys.argv[1]]
    serve(shop(Path(sys.argv[3])), int(sys.argv[2]))
