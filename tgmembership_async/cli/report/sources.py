"""Read what a report is about: the service's replies, a ledger's counts and held grants, an inbox's events."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Final, TypeVar

from tgmembership_async.cli.credentials import account
from tgmembership_async.cli.inbox_option import opened_inbox
from tgmembership_async.cli.ledger_option import Place, opened
from tgmembership_async.cli.output import console
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.cli.report import trends
from tgmembership_async.cli.report.buckets import Unit
from tgmembership_async.cli.report.events import Events
from tgmembership_async.cli.report.figures import (
    Hold,
    PlanNames,
    Section,
    broken_down,
    failed,
    glance,
    methods,
    performance,
)
from tgmembership_async.cli.report.held import MAX_HOLDS, held, hold
from tgmembership_async.errors import APIError, RateLimited, Unauthorized, UnexpectedReply, Unreadable
from tgmembership_async.grants.bot_ledger import BotLedger, key, ledger_of_bot
from tgmembership_async.grants.ledger import CountsByDay
from tgmembership_async.grants.model import UNDECIDED, DayCount, GrantStatus
from tgmembership_async.session import Session
from tgmembership_async.settings import service_of
from tgmembership_async.webhooks.events import Event, read_event
from tgmembership_async.webhooks.inbox import Entry, EntryStatus

T = TypeVar("T")
_LARGE_LEDGER: Final = 20_000
_LARGE_INBOX: Final = 2_000
"""The numbers of rows that take long enough for a progress bar."""
_EVENTS: Final = frozenset(EntryStatus) - {EntryStatus.REPEAT, EntryStatus.UNREADABLE}


class Service:
    """Calls methods one after another; for one that fails, a section describes the error."""

    def __init__(self, tg: Session) -> None:
        self._tg = tg
        self.problems: list[Section] = []
        self.names: PlanNames = PlanNames()

    async def totals(self) -> list[Section]:
        """Return the totals: orders, users, revenue, plans and payment methods."""
        tg = self._tg
        orders, users = await self._ask("Orders", tg.count_orders), await self._ask("Users", tg.count_users)
        sections = [glance(orders, users, await self._ask("Revenue", tg.get_revenue))]
        plans = await self._ask("Plans", tg.plans_performance)
        used = await self._ask("Payment methods", tg.most_popular_payment_methods)
        self.names = PlanNames(plans or ())
        sections += [] if plans is None else performance(plans)
        sections += [] if used is None else [methods(used)]
        sections += [] if orders is None else broken_down("Orders, in parts", orders)
        sections += [] if users is None else broken_down("Users, in parts", users)
        return sections

    async def subscriptions(self, now: datetime, by: Unit | None) -> list[Section]:
        """Return the subscriptions that the service lists."""
        found = await self._ask("Subscriptions", self._tg.get_subscribers)
        return [] if found is None else list(trends.subscriptions(found, now, self.names, by))

    async def _ask(self, title: str, method: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await method()
        except (Unauthorized, RateLimited):
            raise  # the other methods would fail in the same way
        except (APIError, UnexpectedReply) as error:
            self.problems.append(failed(title, str(error.args[0])))
            return None


async def sales(tg: Session) -> list[Section]:
    """Return the service's totals, and a section for each method that fails."""
    service = Service(tg)
    return await service.totals() + service.problems


async def ledger_sections(place: Place, names: PlanNames, by: Unit | None) -> tuple[list[Section], list[Section]]:
    """Return the held grants of the bot in a ledger, and its grants over time."""
    bot = account()
    async with opened(place, owner=False) as whole:
        rows = await ledger_of_bot(whole, service_of(bot), bot.bot_id, record=False)
        with Bar(console(stderr=True), None, ()) as bar:
            assert isinstance(rows, CountsByDay)  # noqa: S101 - as all ledgers that a command line can name
            days = await rows.count_by_day(counted=lambda done: bar.show(done, {}) if done >= _LARGE_LEDGER else None)
        counts = _by_status(days)
        holds: list[Hold] = []
        if any(counts[status] for status in UNDECIDED):
            async for grant in rows.grants(UNDECIDED):
                kept = key(bot.bot_id, grant.ref) if isinstance(rows, BotLedger) else grant.ref
                holds.append(hold(grant, kept, place, names))
                if len(holds) == MAX_HOLDS:
                    break
    return list(held(holds, counts, place)), list(trends.grants(days, names, by))


def _by_status(days: list[DayCount]) -> Counter[GrantStatus]:
    counts: Counter[GrantStatus] = Counter()
    for row in days:
        counts[row.status] += row.count
    return counts


async def inbox_sections(place: Place, names: PlanNames, by: Unit | None) -> list[Section]:
    """Return what the events in an inbox add up to. Raises UsageError if it is another bot's."""
    bot = account()
    async with opened_inbox(place) as inbox:
        await inbox.bind(service_of(bot), bot.bot_id, record=False)
        with Bar(console(stderr=True), None, ()) as bar, Events(names) as events:
            page = await inbox.entries(_EVENTS)
            while page:
                for event in _events(page):
                    events.add(event)
                if events.number >= _LARGE_INBOX:
                    bar.show(events.number, {})
                page = await inbox.entries(_EVENTS, after=page[-1].id)
            return list(trends.sales(events, by))


def _events(entries: list[Entry]) -> Iterator[Event]:
    for entry in entries:
        try:
            yield read_event(entry.delivery, entry.received_at)
        except Unreadable:  # it was stored again by hand, and has not been processed yet
            continue
