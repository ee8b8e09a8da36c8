"""`tgmembership desk`: serve the desk on loopback until interrupted."""

import asyncio
import logging
import secrets
import socket
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import click

from tgmembership_async.cli.inbox_option import inbox_option, opened_inbox
from tgmembership_async.cli.ledger_option import Place, check_there, ledger_option, opened
from tgmembership_async.cli.output import note
from tgmembership_async.cli.serving import bound, serve
from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install
from tgmembership_async.values.secret import Secret

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_HOST: Final = "127.0.0.1"
_HTTP: Final = 80
_EPILOG: Final = """
\b
Examples:
  tgmembership desk --ledger grants.db
  tgmembership desk --ledger grants.db --inbox inbox.db --port 8090
  TGMEMBERSHIP_LEDGER=postgresql://shop@db/shop tgmembership desk
"""


@click.command("desk", epilog=_EPILOG)
@ledger_option("Ledger file or server.", exists=True, required=True)
@inbox_option("Inbox whose dead letters are shown. It may be the file or server of the ledger.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="Port to listen on."
)
def command(*, ledger: Place, inbox: Place | None, port: int) -> None:
    """Serve a page for your browser: what is held, owed and undelivered, and your decisions.

    The command prints one URL, which works on this machine only. The URL contains a token that is new at each start:
    anyone who has the URL can decide. The bot may keep running. Ctrl-C ends the desk.
    """
    if not all(map(find_spec, ("jinja2", "starlette", "uvicorn"))):
        msg = f"desk needs starlette, uvicorn and jinja2: {install('desk')}"
        raise UsageError(msg)
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())
    check_there(ledger)
    with bound(_HOST, port) as listening:
        try:
            asyncio.run(_serve(ledger, inbox, listening))
        except KeyboardInterrupt:
            return


async def _serve(ledger: Place, inbox: Place | None, listening: socket.socket) -> None:
    from tgmembership_async.desk import Guard, desk_app  # noqa: PLC0415 - an extra

    port = listening.getsockname()[1]
    host = _HOST if port == _HTTP else f"{_HOST}:{port}"
    token, path = secrets.token_urlsafe(32), secrets.token_urlsafe(12)
    async with AsyncExitStack() as stack:
        rows = await stack.enter_async_context(opened(ledger, owner=False))
        letters = None if inbox is None else opened_inbox(inbox)
        if letters is not None:
            await stack.enter_async_context(letters)
        app = desk_app(rows, letters, guard=Guard(token=Secret(token), host=host))

        async def mounted(scope: "Scope", receive: "Receive", send: "Send") -> None:
            # The path is random too: the browser sends a cookie to every port of a host, but not to every path.
            await app({**scope, "root_path": f"/{path}"}, receive, send)

        async def started() -> None:
            click.echo(f"http://{host}/?token={token}")
            note("Open this URL in a browser on this machine. It contains a token: do not pass it on. Ctrl-C ends it.")

        await serve(mounted, listening, started)
