"""`tgmembership mcp`: answer an assistant about the bot, on stdin and stdout."""

import logging
import signal
import sys
from typing import Final

import anyio
import click

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.ledger_option import Place, check_there, ledger_option
from tgmembership_async.cli.mcp.tools import Tools
from tgmembership_async.cli.output import note
from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install

_EPILOG: Final = """
\b
Examples:
  tgmembership mcp --ledger grants.db
  tgmembership --bot shop mcp
  tgmembership --bot shop mcp --allow-decisions

\b
In the configuration of an assistant:
  {"mcpServers": {"shop": {"command": "tgmembership", "args": ["--bot", "shop", "mcp"]}}}

Each call is logged on stderr. A decision is recorded in the ledger with its reason, which begins with "assistant: ".
"""


@click.command("mcp", epilog=_EPILOG)
@ledger_option("Ledger file or server. [default: no tools for grants]", exists=True)
@click.option("--allow-decisions", is_flag=True, help="Let the assistant resolve grants. Requires a ledger.")
@click.option(
    "--show-links", is_flag=True, help="Also show links, tokens, notes and names. Anyone who has a link can join."
)
def command(*, ledger: Place | None, allow_decisions: bool, show_links: bool) -> None:
    """Let an assistant read plans, subscribers, sales and grants, with the Model Context Protocol.

    An assistant starts this command and communicates with it on stdin and stdout. Nothing can be changed, unless
    --allow-decisions is given. The program that owns the ledger may keep running. Requires the extra `mcp`.
    """
    if allow_decisions and ledger is None:
        msg = "--allow-decisions needs a ledger: --ledger FILE"
        raise UsageError(msg)
    if ledger is not None:
        check_there(ledger)
    if sys.stdin.isatty():
        note("Waiting for an assistant on stdin; it is meant to start this command. Ctrl-C ends it.")
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.getLogger("tgmembership_async").setLevel(logging.INFO)
    for ending in (signal.SIGINT, signal.SIGTERM):  # a thread that waits for stdin would hold back an orderly end
        signal.signal(ending, signal.SIG_DFL)
    anyio.run(_serve, ledger, allow_decisions, show_links)


async def _serve(ledger: Place | None, decisions: bool, links: bool) -> None:  # noqa: FBT001 - anyio.run passes no keywords
    try:
        from tgmembership_async.cli.mcp.server import server  # noqa: PLC0415 - an extra, and slow to load
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "mcp":
            raise
        msg = f"mcp needs an extra: {install('mcp')}"
        raise UsageError(msg) from None
    async with session() as tg:
        await server(Tools(tg, ledger, links), decisions=decisions).run_stdio_async()
