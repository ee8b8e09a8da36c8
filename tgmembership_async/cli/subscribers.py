"""`tgmembership subscribers`: who has access, filtered and sorted here, because the service filters by user only."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import click

from tgmembership_async.cli import time_arguments
from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.output import Format, format_option, writing
from tgmembership_async.cli.rows import columns_of, row_of
from tgmembership_async.values.models import Subscriber

_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_SORTS: Final = ("user_id", "plan_id", "started_at", "expires_at")

_EPILOG: Final = """
\b
Examples:
  tgmembership subscribers --user-id 4200
  tgmembership subscribers --plan-id 1 --expiring 7d --sort expires_at
  tgmembership subscribers --since 2026-11-01 --format csv > new.csv
"""


@click.command("subscribers", epilog=_EPILOG)
@click.option("--user-id", type=click.IntRange(1), help="Show only this user.")
@click.option("--plan-id", type=click.IntRange(1), help="Show only subscribers of this plan.")
@click.option(
    "--expiring",
    metavar="DURATION",
    callback=time_arguments.duration_option,
    help="Show only those whose access ends within this time from now: 12h, 7d, 2w.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=time_arguments.option,
    help="Show only those whose access began at this time or later: 2026-11-01, or 7d for seven days ago.",
)
@click.option("--sort", type=click.Choice(_SORTS), help="Sort by this column; an unknown value comes last.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of rows.")
@format_option
def command(
    form: Format,
    *,
    user_id: int | None,
    plan_id: int | None,
    expiring: timedelta | None,
    since: datetime | None,
    sort: str | None,
    limit: int | None,
) -> None:
    """List the subscribers and their plans.

    Times are in UTC. The service filters by user only; everything else is filtered on this machine. A member with an
    unused link is no subscriber yet.
    """
    found = anyio.run(_subscribers, user_id)
    shown = select(found, datetime.now(UTC), plan_id=plan_id, expiring=expiring, since=since, sort=sort)
    with writing(form, columns_of(Subscriber)) as out:
        for one in shown[:limit]:
            out.row(row_of(one))


async def _subscribers(user_id: int | None) -> list[Subscriber]:
    async with session() as tg:
        return await tg.get_subscribers(user_id)


def select(
    found: Iterable[Subscriber],
    now: datetime,
    *,
    plan_id: int | None = None,
    expiring: timedelta | None = None,
    since: datetime | None = None,
    sort: str | None = None,
) -> list[Subscriber]:
    """Return the subscribers that pass the filters; one without the date that a filter needs does not pass it."""
    until = None if expiring is None else min(expiring, _LATEST - now) + now
    kept = [
        one
        for one in found
        if (plan_id is None or one.plan_id == plan_id)
        and (until is None or (one.expires_at is not None and now <= one.expires_at <= until))
        and (since is None or (one.started_at is not None and one.started_at >= since))
    ]
    if sort is None:
        return kept
    known = [one for one in kept if getattr(one, sort) is not None]
    unknown = [one for one in kept if getattr(one, sort) is None]
    return [*sorted(known, key=lambda one: getattr(one, sort)), *unknown]
