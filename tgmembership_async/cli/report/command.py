"""`tgmembership report`: show sales, grants and subscriptions, as tables or as an HTML page."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import click

from tgmembership_async.cli.credentials import account, session
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.inbox_option import inbox_option
from tgmembership_async.cli.ledger_option import Place, check_there, ledger_option
from tgmembership_async.cli.output import Format, format_option, note, resolved, writing
from tgmembership_async.cli.report.buckets import UNITS, Unit
from tgmembership_async.cli.report.figures import COLUMNS, Section, rows_of
from tgmembership_async.cli.report.sources import Service, inbox_sections, ledger_sections
from tgmembership_async.errors import UsageError

_EPILOG: Final = """
\b
Examples:
  tgmembership report
  tgmembership report --ledger grants.db --inbox inbox.db --html report.html
  tgmembership report --ledger grants.db --by month --format csv > figures.csv

Exit code 1: some figures are missing because a call failed. The report names them and shows the others.
"""


@click.command("report", epilog=_EPILOG)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write an HTML page that needs no network to this file. Requires the extra `report`.",
)
@ledger_option("Add the grants of this ledger, and the commands for those that are held.", exists=True)
@inbox_option("Add the orders, renewals and terminations in this inbox of the webhook's events.")
@click.option(
    "--by",
    type=click.Choice(UNITS),
    show_default="chosen from the time span",
    help="Unit of all figures over time; days are those of UTC, and weeks begin on Monday.",
)
@format_option
def command(*, html: Path | None, ledger: Place | None, inbox: Place | None, by: Unit | None, form: Format) -> None:
    """Show orders, users, revenue and subscriptions, by plan, by payment method and over time.

    With --ledger also the grants, by the day of the grant, and the held ones with the commands that settle them; with
    --inbox also orders, renewals, revenue and terminations, as far as the inbox goes back.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # the command prints the same itself
    if html is not None and form != "auto":
        msg = "choose one of --html and --format"
        raise UsageError(msg)
    if html is not None:
        from tgmembership_async.cli.report.charts import pygal  # noqa: PLC0415 - only --html needs it

        pygal()
    if ledger is not None:
        check_there(ledger)
    now = utc_now()
    sections = anyio.run(_collect, ledger, inbox, by, now)
    if html is not None:
        _write(html, sections, now)
    elif resolved(form) == "table":
        from tgmembership_async.cli.report.view import show  # noqa: PLC0415 - only tables need rich

        show(sections)
    else:
        with writing(form, COLUMNS) as out:
            for row in rows_of(sections):
                out.row(row)
    missing = [section.title for section in sections if section.problem]
    if missing:
        note(f"Missing figures: {', '.join(missing)}. Run `tgmembership doctor` for the cause.")
        raise SystemExit(Exit.FAILED)


def utc_now() -> datetime:
    """Return the time of the report."""
    return datetime.now(UTC)


def _write(html: Path, sections: list[Section], now: datetime) -> None:
    from tgmembership_async.cli.report.page import page  # noqa: PLC0415 - imports pygal

    text = page(sections, account().bot_id, now)
    try:
        html.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{html} cannot be written: {error.strerror}"
        raise UsageError(msg) from None
    note(f"Wrote {html}. Open it in a browser.")


async def _collect(ledger: Place | None, inbox: Place | None, by: Unit | None, now: datetime) -> list[Section]:
    async with session() as tg:
        service = Service(tg)
        first, *totals = await service.totals()
        subscriptions = await service.subscriptions(now, by)
    held, grants = ([], []) if ledger is None else await ledger_sections(ledger, service.names, by)
    events = [] if inbox is None else await inbox_sections(inbox, service.names, by)
    return [first, *held, *events, *grants, *subscriptions, *totals, *service.problems]
