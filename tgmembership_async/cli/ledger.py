"""`tgmembership ledger`: create, migrate, copy and back up a ledger, accept a restored one, show pauses."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click
from rich.console import Console

from tgmembership_async.cli.help_pages import example
from tgmembership_async.cli.ledger_option import (
    Place,
    Server,
    check_there,
    ledger_argument,
    ledger_option,
    opened,
    place,
    server,
)
from tgmembership_async.cli.output import Format, counted, format_option, hint, note, write_one, writing
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

The password of a server is read from PGPASSWORD, ~/.pgpass, or the URL in TGMEMBERSHIP_LEDGER. It is refused as an
argument, which the list of processes shows, and never printed.
"""


@click.group("ledger", epilog=_EPILOG)
def command() -> None:
    """Create, migrate, copy and back up a ledger of grants, and accept a restored one."""


@command.command("init", epilog=example("ledger init --ledger postgresql://shop@db/shop --queue"))
@ledger_argument("Ledger to create.")
@click.option("--queue", is_flag=True, help="Also create the tables of the job queue, for `provision --enqueue`.")
def init(*, ledger: Place, queue: bool) -> None:
    """Create a ledger, or migrate an existing one.

    Commands that write to a ledger create and migrate its tables when they open it. Use this command to do so
    beforehand, as a database user that may create tables.
    """
    if queue:
        server(ledger, "--queue")
    anyio.run(_create, ledger, queue)
    note(f"{ledger} is ready.")


@command.command("migrate", epilog=example("ledger migrate --ledger grants.db"))
@ledger_argument("Ledger to migrate.", exists=True)
def migrate(*, ledger: Place) -> None:
    """Migrate an existing ledger to this version.

    All rows are kept.
    """
    check_there(ledger)
    anyio.run(_create, ledger, False)
    note(f"{ledger} is up to date.")


@command.command("pauses", epilog=example("ledger pauses --ledger postgresql://shop@db/shop --lift"))
@ledger_option("Server that the workers share.", required=True)
@click.argument("bot_id", type=click.IntRange(min=1), required=False)
@click.option("--lift", is_flag=True, help="End the pauses shown, so that workers send requests again.")
@format_option
def pauses(*, ledger: Place, bot_id: int | None, lift: bool, form: Format) -> None:
    """Show or lift the pauses shared by all workers.

    With BOT_ID, only the pause of that bot is shown. The service requests a pause with status 429 and Retry-After.
    Workers with --ledger postgresql://... share the pause, also across restarts, for one hour at most
    (RetryPolicy.pause_cap). Lift a pause that is wrong, for example one requested by a gateway; if the pause was right,
    the service answers 429 again. A running worker keeps the pause until the worker is restarted. Processes with a
    ledger in a file share no pauses.
    """
    where = server(ledger, "ledger pauses")
    check_there(where)
    found = anyio.run(_pauses, where, bot_id, lift)
    with writing(form, ("bot_id", "until", "seconds")) as out:
        for pause in found:
            out.row({"bot_id": pause.bot_id, "until": pause.until, "seconds": round(pause.seconds, 1)})
    how_many = counted(len(found), "pause")
    note(f"{how_many} lifted; restart the running workers." if lift and found else f"{how_many}.")


async def _pauses(where: Server, bot_id: int | None, lift: bool) -> "list[Pause]":  # noqa: FBT001 - anyio.run passes no keywords
    from tgmembership_async.storage.postgres.gate import PostgresGate  # noqa: PLC0415 - an extra, and slow to load

    async with PostgresGate(where.url) as gate:
        found = [pause for pause in await gate.pauses() if bot_id in (None, pause.bot_id)]
        if lift:
            await gate.lift(bot_id)
        return found


async def _create(ledger: Place, queue: bool) -> None:  # noqa: FBT001 - anyio.run passes no keywords
    async with opened(ledger):
        pass
    if queue:
        from tgmembership_async.cli.queue import app_at, opened_queue  # noqa: PLC0415 - an extra

        async with opened_queue(app_at(place := server(ledger, "--queue")), place):
            pass


@command.command("copy", epilog=example("ledger copy grants.db postgresql://shop@db/shop"))
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--forget-gaps", is_flag=True, help="Copy without the periods that an accepted restore lacks.")
@format_option
def copy_(*, source: str, target: str, forget_gaps: bool, form: Format) -> None:
    """Copy all rows of ledger FROM to ledger TO.

    FROM and TO are each a file or a server. Attempts, decisions, tokens and times are copied too. First stop all
    programs that use either ledger. An interrupted copy continues when run again. A row of TO that differs from FROM's
    is left unchanged and ends the copy. A server cannot hold refs that were paid in the period that a restored FROM
    lacks, and refuses such a FROM without --forget-gaps. Afterwards use only TO: grants made with one ledger are not
    known to the other. An inbox in the same file or database is not copied.
    """
    from_, to = place(source, exists=True), place(target)
    if from_ == to:
        msg = "FROM and TO are the same ledger"
        raise UsageError(msg)
    check_there(from_)
    copied = anyio.run(_copy, _store(from_), _store(to), forget_gaps)
    write_one(form, {"rows": copied.rows, "added": copied.added})
    note(f"Copied {counted(copied.rows, 'row')}, {copied.added:,} of them new. From now on use {to}, not {from_}.")
    note(f"List the grants: {hint('grants', 'list', '--ledger', to)}")


def _store(where: Place) -> Store:
    if isinstance(where, Path):
        from tgmembership_async.grants.sqlite.copying import SqliteStore  # noqa: PLC0415 - one of two alternatives

        return SqliteStore(where)
    from tgmembership_async.grants.postgres.copying import PostgresStore  # noqa: PLC0415 - an extra

    return PostgresStore(where.url)


@command.command("backup", epilog=example("ledger backup backups/grants-monday.db --ledger grants.db"))
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@ledger_option("Ledger file to back up.", required=True, exists=True)
def backup(*, target: Path, ledger: Place) -> None:
    """Copy a consistent snapshot of a ledger to a new FILE.

    Another process may use the ledger meanwhile. Do not use `cp` then: the copy may be inconsistent. FILE contains
    tokens, and only your user can read it (mode 0600).
    """
    anyio.run(_back_up, _file(ledger, "pg_dump or another tool of your server"), target)
    note(f"{target} is a backup of {ledger}. Before restoring it, read `Back up and restore` in the docs.")


async def _back_up(ledger: Path, target: Path) -> None:
    async with SqliteLedger(ledger, owner=False) as opened_:
        await opened_.backup(target)


@command.command("accept-restore", epilog=example("ledger accept-restore --ledger grants.db"))
@ledger_argument("Restored ledger file.", exists=True)
@format_option
def accept_restore(*, ledger: Place, form: Format) -> None:
    """Accept an older copy of a ledger file.

    The period whose grants the copy lacks is printed. If the latest file still exists, restore that file instead. The
    planned rows of the copy become unknown, because they may have been sent in the missing period. New refs that were
    paid in that period become unknown too, if the program passes the time of payment. All other new refs are sent.
    """
    gap, unknown = anyio.run(_accept, _file(ledger, "pg_restore or another tool of your server"))
    if gap is None:
        note(f"{ledger} is not an older copy: nothing to accept.")
        return
    write_one(form, {"begins": gap.begins, "ends": gap.ends, "accepted_at": gap.accepted_at, "unknown": unknown})
    note(f"Accepted. {ledger} lacks the grants made {gap}.")
    if unknown:
        note(f"Decide about the unknown grants: {hint('grants', 'list', '--status', 'unknown', '--ledger', ledger)}")


async def _accept(file: Path) -> tuple[Gap | None, int]:
    """Return the gap that was accepted, or None, and how many rows of the ledger are unknown now."""
    began = utc_now()
    storage = SqliteStorage(file, GENERATIONS, restored=True)  # the file may hold only an inbox
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
    """Return the path of a ledger file. Raises UsageError, which names the tool to use instead, for a server."""
    if not isinstance(ledger, Path):
        msg = f"{ledger} is on a server: back up and restore it with {instead}"
        raise UsageError(msg)
    return ledger


async def _copy(source: Store, target: Store, forget_gaps: bool) -> Copied:  # noqa: FBT001 - anyio.run passes no keywords
    await source.open()
    try:
        await target.open()
        try:
            with Bar(Console(stderr=True, highlight=False), (await source.state()).rows, ()) as bar:
                return await copy(source, target, lambda done, _: bar.show(done, {}), forget_gaps=forget_gaps)
        finally:
            await target.aclose()
    finally:
        await source.aclose()
