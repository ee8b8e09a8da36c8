"""`tgmembership report`: what the bot sold and granted, on the terminal or as a page."""

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
from tgmembership_async.cli.output import Format, format_option, note, resolved, writing
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
_COLUMNS: Final = ("section", "name", "series", "value", "problem")
_EPILOG: Final = """
\b
Examples:
  tgmembership report
  tgmembership report --ledger grants.db --html report.html
  tgmembership report --format csv > figures.csv

Exit code 1: some figures could not be had; the report says which, and shows the others.
"""


@click.command("report", epilog=_EPILOG)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page to this file: it opens from disk, without a network. Needs the extra `report`.",
)
@ledger_option("Add the grants of this ledger over time.", exists=True)
@format_option
def command(*, html: Path | None, ledger: Place | None, form: Format) -> None:
    """Show orders, users, revenue, plans and payment methods, and with --ledger the grants over time."""
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # all of it is told on stdout or stderr
    if html is not None:
        from tgmembership_async.cli.report.charts import pygal  # noqa: PLC0415 - only for a page

        pygal()
    if ledger is not None:
        check_there(ledger)
    sections = anyio.run(_collect, ledger)
    if html is not None:
        _write(html, sections)
    elif resolved(form) == "table":
        from tgmembership_async.cli.report.view import show  # noqa: PLC0415 - a pipe has no use for rich

        show(sections)
    else:
        with writing(form, _COLUMNS) as out:
            for row in rows_of(sections):
                out.row(row)
    missing = [section.title for section in sections if section.problem]
    if missing:
        note(f"Without figures: {', '.join(missing)}. `tgmembership doctor` tells more.")
        raise SystemExit(Exit.FAILED)


def _write(html: Path, sections: list[Section]) -> None:
    from tgmembership_async.cli.report.page import page  # noqa: PLC0415 - it loads what draws

    text = page(sections, account().bot_id, datetime.now(UTC))
    try:
        html.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{html} cannot be written: {error.strerror}"
        raise UsageError(msg) from None
    note(f"Wrote {html}: open it in a browser.")


async def _collect(ledger: Place | None) -> list[Section]:
    async with session() as tg:
        sections = await _sold(tg)
    if ledger is not None:
        sections.append(over_time(await _days(ledger)))
    return sections


async def _sold(tg: Session) -> list[Section]:
    """Ask one method after the other; one that fails leaves a gap, and not the owner without a report."""
    problems: list[Section] = []

    async def ask(title: str, method: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await method()
        except (Unauthorized, RateLimited):
            raise  # no other method would fare better
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
        async for grant in rows.grants():
            days[grant.updated_at.astimezone(UTC).date(), grant.status] += 1
    return days
