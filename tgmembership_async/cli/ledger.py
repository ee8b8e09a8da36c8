"""`tgmembership ledger`: make a ledger, migrate, copy, back up, accept a restored one, show pauses."""

from functools import partial
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
from tgmembership_async.grants.model import GrantStatus
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.grants.sqlite.tables import LEDGER
from tgmembership_async.grants.transitions import utc_now
from tgmembership_async.storage.sqlite.database import SqliteStorage
from tgmembership_async.storage.sqlite.generations import GENERATIONS, Gap, gaps
from tgmembership_async.storage.sqlite.schema import holds

if TYPE_CHECKING:
    from tgmembership_async.storage.postgres.gate import Pause

_EPILOG: Final = """
\b
Examples:
  tgmembership ledger init --ledger postgresql://shop@db/shop --queue
  tgmembership ledger copy grants.db postgresql://shop@db/shop
  tgmembership ledger copy postgresql://shop@db/shop grants.db
  tgmembership ledger pauses --ledger postgresql://shop@db/shop
  tgmembership ledger backup backups/grants-monday.db --ledger grants.db
  tgmembership ledger accept-restore --ledger grants.db

The password of a server comes from the URL, from PGPASSWORD or from ~/.pgpass, and is never shown.
"""


def _example(arguments: str) -> str:
    return f"\b\nExample:\n  tgmembership ledger {arguments}"


@click.group("ledger", epilog=_EPILOG)
def command() -> None:
    """Make a ledger of grants, bring it up to date, copy it, back it up, and accept one that was restored."""


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
@click.argument("bot_id", type=click.IntRange(min=1), required=False)
@click.option("--lift", is_flag=True, help="End the pauses that are shown, so that workers send again.")
@format_option
def pauses(*, ledger: Place, bot_id: int | None, lift: bool, form: Format) -> None:
    """Show the pauses that all workers of BOT_ID (or of every bot) keep, and lift them with --lift.

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


@command.command("backup", epilog=_example("backup backups/grants-monday.db --ledger grants.db"))
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@ledger_option("The file that is backed up.", required=True, exists=True)
def backup(*, target: Path, ledger: Place) -> None:
    """Copy a ledger to a new FILE, whole and as it is now, beside the process that has it open.

    Never use `cp` while it is in use: the copy may be torn. FILE holds tokens, and is for your user alone (mode 0600).
    """
    anyio.run(_back_up, _file(ledger, "pg_dump, or what your server offers"), target)
    note(f"{target} is a backup of {ledger}. Read `Back up and restore` in the docs before you use it.")


async def _back_up(ledger: Path, target: Path) -> None:
    async with SqliteLedger(ledger, owner=False) as opened_:
        await opened_.backup(target)


@command.command("accept-restore", epilog=_example("accept-restore --ledger grants.db"))
@ledger_option("The file that was restored.", required=True, exists=True)
@format_option
def accept_restore(*, ledger: Place, form: Format) -> None:
    """Accept a file that is older than the one that was in use, and print the period that it lacks.

    Put the latest file back instead, if there is one. Rows that are planned in it become unknown, for they may have
    been sent since; so do new refs that were paid in that period, where the program says when they were paid. All
    other new refs are sent.
    """
    gap, unknown = anyio.run(_accept, _file(ledger, "its own means"))
    if gap is None:
        note(f"{ledger} is no older copy: there is nothing to accept.")
        return
    write_one(form, {"begins": gap.begins, "ends": gap.ends, "accepted_at": gap.accepted_at, "unknown": unknown})
    note(f"Accepted. What was granted {gap} is not in {ledger}.")
    if unknown:
        note(f"Decide what is unknown: {hint('grants', 'list', '--status', 'unknown', '--ledger', ledger)}")


async def _accept(file: Path) -> tuple[Gap | None, int]:
    """Return the gap that was accepted, if there was one, and how many rows of the ledger are unknown now."""
    began = utc_now()
    storage = SqliteStorage(file, GENERATIONS, restored=True)  # an inbox alone will do too
    await storage.open()
    try:
        found = await storage.read(gaps)
        has_ledger = await storage.read(partial(holds, component=LEDGER))
    finally:
        await storage.aclose()
    if not found or found[-1].accepted_at < began:
        return None, 0
    if not has_ledger:
        return found[-1], 0
    async with SqliteLedger(file) as ledger:
        return found[-1], len([grant async for grant in ledger.grants([GrantStatus.UNKNOWN])])


def _file(ledger: Place, instead: str) -> Path:
    if not isinstance(ledger, Path):
        msg = f"{ledger} is on a server: back it up and restore it by {instead}"
        raise UsageError(msg)
    return ledger


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
