"""The checks of `LEDGER_CHECKS` for storing and reading: what is stored, what a reopening finds, paging, purging."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

from anyio import create_task_group

from tgmembership_async.errors import GrantError, NotSent, OutcomeUnknown, UsageError
from tgmembership_async.grants.ledger import CountsByDay, get_many
from tgmembership_async.grants.model import SETTLES, DayKey, GrantRequest, GrantStatus, Settlement, day_counts
from tgmembership_async.testing.conformance.samples import (
    A_UUID,
    ERRORS,
    TOKEN,
    MakeLedger,
    bring_to,
    check,
    check_equal,
    check_raises,
    opened,
    plan_all,
    refs_of,
    request,
    settlement,
)


async def a_result_is_kept_whole(make: MakeLedger) -> None:
    """Token and error are returned at once, later, and after a reopening; the error with class, fields and cause."""
    async with opened(make) as ledger:
        before = {end: await bring_to(ledger, end, end) for end in SETTLES - {GrantStatus.PLANNED}}
        await ledger.claim(request(GrantStatus.PLANNED))
        before[GrantStatus.PLANNED] = await ledger.settle(GrantStatus.PLANNED, settlement(GrantStatus.PLANNED))
    async with opened(make) as ledger:
        for end, grant in before.items():
            found = await ledger.get(end)
            check_equal(found, grant)
            check_equal(grant.token, TOKEN if end is GrantStatus.GRANTED else None)
            for one in (grant.error, found and found.error):
                check_equal(type(one), type(ERRORS.get(end)))
                check_equal(str(one), str(ERRORS.get(end)))
        held = await ledger.get(GrantStatus.UNKNOWN)
        cause: Any = held and held.error and vars(held.error)["cause"]
        check(isinstance(cause, NotSent) and cause.elapsed == 0.25, "the cause of the error is not stored")  # noqa: PLR2004
        planned = (await ledger.claim(request(GrantStatus.PLANNED))).grant
        check_equal((planned.status, planned.attempts, planned.error), (GrantStatus.SENDING, 2, None))


async def attempts_and_decisions_are_kept_in_order(make: MakeLedger) -> None:
    """Store attempts with times, status and evidence, and decisions with time and reason, both in order."""
    async with opened(make) as ledger:
        await bring_to(ledger, "a", GrantStatus.UNKNOWN)
        await ledger.decide("a", "retry", None, "the customer waits")
        await ledger.claim(request("a"))
        open_one = (await ledger.attempts("a"))[-1]
        check_equal((open_one.number, open_one.ended_at, open_one.status, open_one.evidence), (2, None, None, ""))
        await ledger.settle("a", settlement(GrantStatus.REFUSED))
        granted = await ledger.decide("a", "granted", TOKEN, "seen in the panel")
        check_equal((granted.token, granted.error), (TOKEN, None))
    async with opened(make) as ledger:
        attempts = await ledger.attempts("a")
        check_equal([attempt.number for attempt in attempts], [1, 2])
        check_equal([attempt.status for attempt in attempts], [GrantStatus.UNKNOWN, GrantStatus.REFUSED])
        check_equal([attempt.evidence for attempt in attempts], ["it ended as unknown", "it ended as refused"])
        for attempt in attempts:
            check(
                attempt.ended_at is not None and attempt.began_at <= attempt.ended_at,
                "an attempt must have a beginning and an end",
            )
        made = await ledger.decisions("a")
        check_equal(
            [(one.decision, one.reason) for one in made],
            [("retry", "the customer waits"), ("granted", "seen in the panel")],
        )
        check_equal([one.decided_at.utcoffset() for one in made], [timedelta(0)] * 2)
        await bring_to(ledger, "b", GrantStatus.UNKNOWN)
        await check_raises(UsageError, ledger.decide("b", "retry", TOKEN, "a token proves that it was granted"))
        check_equal(await ledger.decisions("b"), [])


async def what_is_stored_is_there_after_a_reopening(make: MakeLedger) -> None:
    """Find every row unchanged after a reopening, except that rows in `sending` become `unknown`."""
    async with opened(make) as ledger:
        before = {status: await bring_to(ledger, status, status) for status in GrantStatus}
    async with opened(make) as ledger:
        check_equal(await refs_of(ledger.grants()), list(GrantStatus))
        for status, grant in before.items():
            if status is not GrantStatus.SENDING:
                check_equal(await ledger.get(status), grant)
        dead = await ledger.get(GrantStatus.SENDING)
        check_equal(dead and (dead.status, dead.attempts, type(dead.error)), (GrantStatus.UNKNOWN, 1, OutcomeUnknown))
        (attempt,) = await ledger.attempts(GrantStatus.SENDING)
        check_equal((attempt.status, attempt.ended_at), (GrantStatus.UNKNOWN, None))
        check("died" in attempt.evidence, "the evidence must say that the process died")
        await check_raises(GrantError, ledger.settle(GrantStatus.SENDING, settlement(GrantStatus.GRANTED)))


async def rows_come_in_pages_and_in_order(make: MakeLedger) -> None:
    """`grants()` returns each of 1,300 rows once, in order, while rows change; filters apply."""
    refs = [f"{number * 7919 % 1_300:04}" for number in range(1_300)]
    async with opened(make) as ledger:
        async with create_task_group() as group:
            group.start_soon(plan_all, ledger, refs)
        for ref in refs[::100]:
            await ledger.claim(request(ref))
        seen: list[str] = []
        async for grant in ledger.grants():
            seen.append(grant.ref)
            if grant.status is GrantStatus.SENDING:
                await ledger.settle(grant.ref, settlement(GrantStatus.UNKNOWN))
                await ledger.plan(request(f"new {grant.ref}"))
        check_equal([ref for ref in seen if not ref.startswith("new")], refs)
        check_equal(await refs_of(ledger.grants([GrantStatus.UNKNOWN])), refs[::100])
        check_equal(len(await refs_of(ledger.grants({GrantStatus.PLANNED, GrantStatus.UNKNOWN}))), 1_313)
        check_equal(await refs_of(ledger.grants([])), [])
        last = await ledger.get(refs[1_200])
        check(last is not None, "a row is missing")
        since = last.updated_at if last is not None else None
        check_equal(await refs_of(ledger.grants([GrantStatus.UNKNOWN], since)), refs[1_200:1_201])
        check_equal(await refs_of(ledger.grants(since=datetime.now(UTC) + timedelta(days=1))), [])
        check_equal(await refs_of(ledger.grants([GrantStatus.UNKNOWN], after=refs[1_100])), refs[1_200::100])
        await check_raises(GrantError, anext(aiter(ledger.grants(after="no such ref"))))
        check_equal(await anext(aiter(ledger.grants([GrantStatus.UNKNOWN])), None), await ledger.get(refs[0]))


async def rows_are_counted_and_searched(make: MakeLedger) -> None:
    """Rows are counted by status, and found by the member, and then by a part of the ref, the newest first."""
    async with opened(make) as ledger:
        for number, ref in enumerate(["pi_%", "pi_2", "in_2"], 1):
            await ledger.plan(GrantRequest(ref, 1, number * 100))
        await ledger.claim(GrantRequest("pi_2", 1, 200))
        counts = await ledger.count()
        check_equal({status: n for status, n in counts.items() if n}, {GrantStatus.PLANNED: 2, GrantStatus.SENDING: 1})
        for text, refs in {"_2": ["in_2", "pi_2"], "%": ["pi_%"], "100": ["pi_%"], "10": [], "PI": []}.items():
            check_equal([grant.ref for grant in await ledger.search(text, limit=5)], refs)
        check_equal([grant.ref for grant in await ledger.search("_", limit=2)], ["in_2", "pi_2"])
        await ledger.plan(GrantRequest("no member", 1))
        for ref in ("300 times", "300", "3000"):
            await ledger.plan(GrantRequest(ref, 1, 300 if ref == "300" else 2))
        check_equal([grant.ref for grant in await ledger.search("300", limit=3)], ["300", "in_2", "3000"])


async def many_rows_are_found_at_once(make: MakeLedger) -> None:
    """`get_many` finds what `get` finds, and leaves out refs without a row. A ledger need not have it."""
    refs = [f"{number}'\u00e9" for number in range(1_200)]
    async with opened(make) as ledger:
        await plan_all(ledger, refs[::2])
        await ledger.claim(request(refs[0]))
        found = await get_many(ledger, refs)
        check_equal(list(found.items()), [(row.ref, row) for row in found.values()])
        check_equal(set(found), set(refs[::2]))
        check_equal(found[refs[0]], await ledger.get(refs[0]))
        check_equal(dict(await get_many(ledger, [])), {})


async def rows_are_counted_by_day(make: MakeLedger) -> None:
    """Rows are counted by the day when they were granted or else last changed; a ledger need not count them."""
    async with opened(make) as ledger:
        if not isinstance(ledger, CountsByDay):
            return
        check_equal(await ledger.count_by_day(), [])
        for status in GrantStatus:
            for number in range(2):
                await bring_to(ledger, f"{status}{number}", status)
        await ledger.plan(GrantRequest("another plan", 2**63 - 1))
        await ledger.plan(GrantRequest("a project's plan", A_UUID))
        rows = [grant async for grant in ledger.grants()]
        days = Counter[DayKey](
            (utc_day(grant.granted_at or grant.updated_at), grant.plan_id, grant.status) for grant in rows
        )
        progress: list[int] = []
        counted = await ledger.count_by_day(counted=progress.append)
        check_equal(counted, day_counts(days))
        check_equal(progress[-1:], [len(rows)])


def utc_day(time: datetime) -> date:
    """Return the date of a time in UTC."""
    return time.astimezone(UTC).date()


async def any_text_is_kept_as_it_is(make: MakeLedger) -> None:
    """Refs and notes of any language, or that look like code; characters that no database keeps stop no record."""
    refs = ["Заказ №7", "訂單-😀", "é", "e\u0301", "a' OR '1'='1", '"; DROP TABLE grants; --', "%_\\", "x" * 1_000]
    async with opened(make) as ledger:
        for ref in refs:
            await ledger.claim(GrantRequest(ref, 1, note=f"{ref}\n\t\u2028"[:1_000]))
            await ledger.settle(ref, Settlement(GrantStatus.UNKNOWN, evidence=f"{ref}\0\ud800"))
            await ledger.decide(ref, "abandon", None, f"{ref}\0\ud800")
    async with opened(make) as ledger:
        check_equal(await refs_of(ledger.grants()), refs)
        for ref in refs:
            grant = await ledger.get(ref)
            check_equal(grant and grant.note, f"{ref}\n\t\u2028"[:1_000])
            check((await ledger.attempts(ref))[0].evidence.startswith(ref), "the evidence is not stored")
            check((await ledger.decisions(ref))[0].reason.startswith(ref), "the reason is not stored")


async def tokens_are_wiped_when_they_are_delivered_and_old(make: MakeLedger) -> None:
    """`purge` removes the tokens of grants that were delivered before a time, and nothing else."""
    async with opened(make) as ledger:
        granted = await bring_to(ledger, "granted", GrantStatus.GRANTED)
        old = await bring_to(ledger, "old", GrantStatus.DELIVERED)
        check_equal(old.token, TOKEN)
        check_equal(await ledger.purge(old.updated_at), 0)
        check_equal(await ledger.purge(old.updated_at + timedelta(microseconds=1)), 1)
        wiped = await ledger.get("old")
        check_equal(
            wiped and (wiped.status, wiped.token, wiped.updated_at), (GrantStatus.DELIVERED, None, old.updated_at)
        )
        check_equal(await ledger.get("granted"), granted)
        check_equal(await ledger.purge(datetime.now(UTC) + timedelta(days=1)), 0)
        check_equal((await ledger.mark_delivered("old")).token, None)
        naive = datetime.now(UTC).replace(tzinfo=None)
        await check_raises(UsageError, ledger.purge(naive))
        try:
            ledger.grants(since=naive)
        except UsageError:
            return
        msg = "grants() must refuse a time without an offset"
        raise AssertionError(msg)
