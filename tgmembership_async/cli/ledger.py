"""`tgmembership ledger`: make a ledger, bring it up to date, copy it from a file to a server and back, show pauses."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click
from rich.console import Console

from tgmembership_async.cli.ledger_option import Place, Server, check_there, ledger_option, opened, place, server
from tgmembership_async.cli.output import Format, format_option, hint, note, write_one, writing
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.errors import UsageError
from tgmembership_async.grants.copying import Copied, Store, copy

if TYPE_CHECKING:
    from tgmembership_async.storage.postgres.gate import Pause

_EPILOG: Final = """
\b
Examples:
  tgmembership ledger init --ledger postgresql://shop@db/shop --queue
  tgmembership ledger copy grants.db postgresql://shop@db/shop
  tgmembership ledger copy postgresql://shop@db/shop grants.db
  tgmembership ledger pauses --ledger postgresql://shop@db/shop

The password of a server comes from the URL, from PGPASSWORD or from ~/.pgpass, and is never shown.
"""


def _example(arguments: str) -> str:
    return f"\b\nExample:\n  tgmembership ledger {arguments}"


@click.group("ledger", epilog=_EPILOG)
def command() -> None:
    """Make a ledger of grants, bring it up to date, and copy it from a file to a server and back."""


@command.command("init", epilog=_example("init --ledger postgresql://shop@db/shop --queue"))
@ledger_option("The file or the server that shall have it.", required=True)
@click.option("--queue", is_flag=True, help="Make the tables of the job queue too, for `provision --enqueue`.")
def init(*, ledger: Place, queue: bool) -> None:
    """Make a ledger, or bring the one that is there up to date.

    Whatever opens a ledger does so by itself; this does it ahead of time, with the rights to create tables.
    """
    if queue:
        server(ledger, "--queue")
    anyio.run(_ready, ledger, queue)
    note(f"{ledger} is ready.")


@command.command("migrate", epilog=_example("migrate --ledger grants.db"))
@ledger_option("The file or the server that has it.", required=True, exists=True)
def migrate(*, ledger: Place) -> None:
    """Bring the tables of a ledger that is there up to date with this package, and keep all rows."""
    check_there(ledger)
    anyio.run(_ready, ledger, False)
    note(f"{ledger} is up to date.")


@command.command("pauses", epilog=_example("pauses --ledger postgresql://shop@db/shop --lift"))
@ledger_option("The server that the workers share.", required=True)
@click.option("--bot-id", type=click.IntRange(min=1), help="Show or lift the pause of this bot only.")
@click.option("--lift", is_flag=True, help="End the pauses that are shown, so that workers send again.")
@format_option
def pauses(*, ledger: Place, bot_id: int | None, lift: bool, form: Format) -> None:
    """Show the pauses that all workers of a bot keep, and lift them with --lift.

    The service asks for a pause with status 429 and Retry-After. Workers with --ledger postgresql://... share it, also
    across restarts, for an hour at most (RetryPolicy.pause_cap). Lift one that is wrong, such as a gateway's; the
    service answers 429 again if it was right. A worker that runs keeps the pause it knows of until it is restarted. A
    ledger in a file shares no pause: it ends with the process.
    """
    where = server(ledger, "ledger pauses")
    check_there(where)
    found = anyio.run(_pauses, where, bot_id, lift)
    with writing(form, ("bot_id", "until", "seconds")) as out:
        for pause in found:
            out.row({"bot_id": pause.bot_id, "until": pause.until, "seconds": round(pause.seconds, 1)})
    how_many = f"{len(found):,} pause{'' if len(found) == 1 else 's'}"
    note(f"{how_many} lifted; restart workers that run." if lift and found else f"{how_many}.")


async def _pauses(where: Server, bot_id: int | None, lift: bool) -> "list[Pause]":  # noqa: FBT001 - anyio.run takes no names
    from tgmembership_async.storage.postgres.gate import PostgresGate  # noqa: PLC0415 - an extra, and slow to load

    async with PostgresGate(where.url) as gate:
        found = [pause for pause in await gate.pauses() if bot_id in (None, pause.bot_id)]
        if lift:
            await gate.lift(bot_id)
        return found


async def _ready(ledger: Place, queue: bool) -> None:  # noqa: FBT001 - anyio.run takes no names
    async with opened(ledger):
        pass
    if queue:
        from tgmembership_async.cli.queue import app_at, opened_queue  # noqa: PLC0415 - an extra

        async with opened_queue(app_at(server(ledger, "--queue"))):
            pass


@command.command("copy", epilog=_example("copy grants.db postgresql://shop@db/shop"))
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@format_option
def copy_(*, source: str, target: str, form: Format) -> None:
    """Copy every row FROM a ledger TO another, each a file or a server, with attempts, decisions, tokens and times.

    Stop what sends from either of them before. A copy that was cut off goes on where it stopped when it is run again; a
    row that is there already and differs ends it, and is left as it is. Afterwards use TO, and FROM no more: what is
    granted in one of them is not known to the other.
    """
    from_, to = place(source, exists=True), place(target)
    if from_ == to:
        msg = "FROM and TO are the same ledger"
        raise UsageError(msg)
    check_there(from_)
    copied = anyio.run(_copy, _store(from_), _store(to))
    write_one(form, {"rows": copied.rows, "added": copied.added})
    note(f"{copied.rows:,} rows, {copied.added:,} of them new. From now on use {to}, and {from_} no more.")
    note(f"Look: {hint('grants', 'list', '--ledger', to)}")


def _store(where: Place) -> Store:
    if isinstance(where, Path):
        from tgmembership_async.grants.sqlite.copying import SqliteStore  # noqa: PLC0415 - one of the two

        return SqliteStore(where)
    from tgmembership_async.grants.postgres.copying import PostgresStore  # noqa: PLC0415 - an extra

    return PostgresStore(where.url)


async def _copy(source: Store, target: Store) -> Copied:
    await source.open()
    try:
        await target.open()
        try:
            with Bar(Console(stderr=True, highlight=False), (await source.state()).rows, ()) as bar:
                return await copy(source, target, lambda done, _: bar.show(done, {}))
        finally:
            await target.aclose()
    finally:
        await source.aclose()
