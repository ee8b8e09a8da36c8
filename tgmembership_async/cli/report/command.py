"""`tgmembership report`: show sales and grants, as tables or as an HTML page."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, TypeVar

import anyio
import click

from tgmembership_async.cli.credentials import account, session
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.ledger_option import Place, check_there, ledger_option, opened
from tgmembership_async.cli.output import Format, console, format_option, note, resolved, writing
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.cli.report.figures import (
    Section,
    broken_down,
    failed,
    glance,
    methods,
    over_time,
    performance,
    rows_of,
)
from tgmembership_async.errors import APIError, RateLimited, Unauthorized, UnexpectedReply, UsageError
from tgmembership_async.grants.model import GrantStatus
from tgmembership_async.session import Session

T = TypeVar("T")
_OFTEN: Final = 20_000  # rows between two updates of the bar, and the least that show one
_COLUMNS: Final = ("section", "name", "series", "value", "problem")
_EPILOG: Final = """
\b
Examples:
  tgmembership report
  tgmembership report --ledger grants.db --html report.html
  tgmembership report --format csv > figures.csv

Exit code 1: some figures are missing because a call failed. The report names them and shows the others.
"""


@click.command("report", epilog=_EPILOG)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write an HTML page that needs no network to this file. Requires the extra `report`.",
)
@ledger_option("Add the grants of this ledger over time.", exists=True)
@format_option
def command(*, html: Path | None, ledger: Place | None, form: Format) -> None:
    """Show orders, users, revenue, plans and payment methods; with --ledger also the grants over time."""
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # the command prints the same itself
    if html is not None:
        from tgmembership_async.cli.report.charts import pygal  # noqa: PLC0415 - only --html needs it

        pygal()
    if ledger is not None:
        check_there(ledger)
    sections = anyio.run(_collect, ledger)
    if html is not None:
        _write(html, sections)
    elif resolved(form) == "table":
        from tgmembership_async.cli.report.view import show  # noqa: PLC0415 - only tables need rich

        show(sections)
    else:
        with writing(form, _COLUMNS) as out:
            for row in rows_of(sections):
                out.row(row)
    missing = [section.title for section in sections if section.problem]
    if missing:
        note(f"Missing figures: {', '.join(missing)}. Run `tgmembership doctor` for the cause.")
        raise SystemExit(Exit.FAILED)


def _write(html: Path, sections: list[Section]) -> None:
    from tgmembership_async.cli.report.page import page  # noqa: PLC0415 - imports pygal

    text = page(sections, account().bot_id, datetime.now(UTC))
    try:
        html.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{html} cannot be written: {error.strerror}"
        raise UsageError(msg) from None
    note(f"Wrote {html}. Open it in a browser.")


async def _collect(ledger: Place | None) -> list[Section]:
    async with session() as tg:
        sections = await sales(tg)
    if ledger is not None:
        sections.append(over_time(await _days(ledger)))
    return sections


async def sales(tg: Session) -> list[Section]:
    """Call the methods one after another; for one that fails, return a section that describes the error."""
    problems: list[Section] = []

    async def ask(title: str, method: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await method()
        except (Unauthorized, RateLimited):
            raise  # the other methods would fail in the same way
        except (APIError, UnexpectedReply) as error:
            problems.append(failed(title, str(error.args[0])))
            return None

    orders, users = await ask("Orders", tg.count_orders), await ask("Users", tg.count_users)
    sections = [glance(orders, users, await ask("Revenue", tg.get_revenue))]
    plans = await ask("Plans", tg.plans_performance)
    used = await ask("Payment methods", tg.most_popular_payment_methods)
    sections += [] if plans is None else performance(plans)
    sections += [] if used is None else [methods(used)]
    sections += [] if orders is None else broken_down("Orders, in parts", orders)
    sections += [] if users is None else broken_down("Users, in parts", users)
    return sections + problems


async def _days(ledger: Place) -> Counter[tuple[date, GrantStatus]]:
    days: Counter[tuple[date, GrantStatus]] = Counter()
    async with opened(ledger, owner=False) as rows:
        with Bar(console(stderr=True), None, ()) as bar:
            async for grant in rows.grants():
                days[grant.updated_at.astimezone(UTC).date(), grant.status] += 1
                if (done := days.total()) % _OFTEN == 0:
                    bar.show(done, {})
    return days
