"""The checks of `LEDGER_CHECKS` about what a ledger keeps, and how it is read."""

from datetime import UTC, datetime, timedelta
from typing import Any

from anyio import create_task_group

from tgmembership_async.errors import GrantError, NotSent, OutcomeUnknown, UsageError
from tgmembership_async.grants.model import SETTLES, GrantRequest, GrantStatus, Settlement
from tgmembership_async.testing.conformance.samples import (
    ERRORS,
    TOKEN,
    MakeLedger,
    bring,
    opened,
    plan_all,
    raises,
    refs_of,
    request,
    same,
    settlement,
    true,
)


async def a_result_is_kept_whole(make: MakeLedger) -> None:
    """Token and error are told at once, later, and after a reopening, the error with its class, fields and cause."""
    async with opened(make) as ledger:
        told = {end: await bring(ledger, end, end) for end in SETTLES - {GrantStatus.PLANNED}}
        await ledger.claim(request(GrantStatus.PLANNED))
        told[GrantStatus.PLANNED] = await ledger.settle(GrantStatus.PLANNED, settlement(GrantStatus.PLANNED))
    async with opened(make) as ledger:
        for end, grant in told.items():
            found = await ledger.get(end)
            same(found, grant)
            same(grant.token, TOKEN if end is GrantStatus.GRANTED else None)
            for one in (grant.error, found and found.error):
                same(type(one), type(ERRORS.get(end)))
                same(str(one), str(ERRORS.get(end)))
        held = await ledger.get(GrantStatus.UNKNOWN)
        cause: Any = held and held.error and vars(held.error)["cause"]
        true(isinstance(cause, NotSent) and cause.elapsed == 0.25, "the cause of the error is lost")  # noqa: PLR2004
        planned = (await ledger.claim(request(GrantStatus.PLANNED))).grant
        same((planned.status, planned.attempts, planned.error), (GrantStatus.SENDING, 2, None))


async def attempts_and_decisions_are_kept_in_order(make: MakeLedger) -> None:
    """Keep what was sent, how it ended, and what was decided, when and why."""
    async with opened(make) as ledger:
        await bring(ledger, "a", GrantStatus.UNKNOWN)
        await ledger.decide("a", "retry", None, "the customer waits")
        await ledger.claim(request("a"))
        open_one = (await ledger.attempts("a"))[-1]
        same((open_one.number, open_one.ended_at, open_one.status, open_one.evidence), (2, None, None, ""))
        await ledger.settle("a", settlement(GrantStatus.REFUSED))
        granted = await ledger.decide("a", "granted", TOKEN, "seen in the panel")
        same((granted.token, granted.error), (TOKEN, None))
    async with opened(make) as ledger:
        attempts = await ledger.attempts("a")
        same([attempt.number for attempt in attempts], [1, 2])
        same([attempt.status for attempt in attempts], [GrantStatus.UNKNOWN, GrantStatus.REFUSED])
        same([attempt.evidence for attempt in attempts], ["it ended as unknown", "it ended as refused"])
        for attempt in attempts:
            true(attempt.ended_at is not None and attempt.began_at <= attempt.ended_at, "an attempt has two times")
        made = await ledger.decisions("a")
        same(
            [(one.decision, one.reason) for one in made],
            [("retry", "the customer waits"), ("granted", "seen in the panel")],
        )
        same([one.decided_at.utcoffset() for one in made], [timedelta(0)] * 2)
        await bring(ledger, "b", GrantStatus.UNKNOWN)
        await raises(UsageError, ledger.decide("b", "retry", TOKEN, "a token proves that it was granted"))
        same(await ledger.decisions("b"), [])


async def what_is_told_is_there_after_a_reopening(make: MakeLedger) -> None:
    """Every row as it was, but for what was being sent: nobody saw its end, so it is unknown."""
    async with opened(make) as ledger:
        before = {status: await bring(ledger, status, status) for status in GrantStatus}
    async with opened(make) as ledger:
        same(await refs_of(ledger.grants()), list(GrantStatus))
        for status, grant in before.items():
            if status is not GrantStatus.SENDING:
                same(await ledger.get(status), grant)
        dead = await ledger.get(GrantStatus.SENDING)
        same(dead and (dead.status, dead.attempts, type(dead.error)), (GrantStatus.UNKNOWN, 1, OutcomeUnknown))
        (attempt,) = await ledger.attempts(GrantStatus.SENDING)
        same((attempt.status, attempt.ended_at), (GrantStatus.UNKNOWN, None))
        true("died" in attempt.evidence, "the evidence says that the process died")
        await raises(GrantError, ledger.settle(GrantStatus.SENDING, settlement(GrantStatus.GRANTED)))


async def rows_come_in_pages_and_in_order(make: MakeLedger) -> None:
    """Thousands of rows, each once, the oldest ref first, while they change under the reader; filtered as asked."""
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
        same([ref for ref in seen if not ref.startswith("new")], refs)
        same(await refs_of(ledger.grants([GrantStatus.UNKNOWN])), refs[::100])
        same(len(await refs_of(ledger.grants({GrantStatus.PLANNED, GrantStatus.UNKNOWN}))), 1_313)
        same(await refs_of(ledger.grants([])), [])
        last = await ledger.get(refs[1_200])
        true(last is not None, "a row is gone")
        since = last.updated_at if last is not None else None
        same(await refs_of(ledger.grants([GrantStatus.UNKNOWN], since)), refs[1_200:1_201])
        same(await refs_of(ledger.grants(since=datetime.now(UTC) + timedelta(days=1))), [])
        same(await anext(aiter(ledger.grants([GrantStatus.UNKNOWN])), None), await ledger.get(refs[0]))


async def any_text_is_kept_as_it_is(make: MakeLedger) -> None:
    """Refs and notes of any language, or that look like code; and what no database keeps does not stop a record."""
    refs = ["Заказ №7", "訂單-😀", "é", "e\u0301", "a' OR '1'='1", '"; DROP TABLE grants; --', "%_\\", "x" * 1_000]
    async with opened(make) as ledger:
        for ref in refs:
            await ledger.claim(GrantRequest(ref, 1, note=f"{ref}\n\t\u2028"[:1_000]))
            await ledger.settle(ref, Settlement(GrantStatus.UNKNOWN, evidence=f"{ref}\0\ud800"))
            await ledger.decide(ref, "abandon", None, f"{ref}\0\ud800")
    async with opened(make) as ledger:
        same(await refs_of(ledger.grants()), refs)
        for ref in refs:
            grant = await ledger.get(ref)
            same(grant and grant.note, f"{ref}\n\t\u2028"[:1_000])
            true((await ledger.attempts(ref))[0].evidence.startswith(ref), "the evidence is lost")
            true((await ledger.decisions(ref))[0].reason.startswith(ref), "the reason is lost")


async def tokens_are_wiped_when_they_are_delivered_and_old(make: MakeLedger) -> None:
    """Wipe the tokens of what was delivered before a time, and nothing else."""
    async with opened(make) as ledger:
        granted = await bring(ledger, "granted", GrantStatus.GRANTED)
        old = await bring(ledger, "old", GrantStatus.DELIVERED)
        same(old.token, TOKEN)
        same(await ledger.purge(old.updated_at), 0)
        same(await ledger.purge(old.updated_at + timedelta(microseconds=1)), 1)
        wiped = await ledger.get("old")
        same(wiped and (wiped.status, wiped.token, wiped.updated_at), (GrantStatus.DELIVERED, None, old.updated_at))
        same(await ledger.get("granted"), granted)
        same(await ledger.purge(datetime.now(UTC) + timedelta(days=1)), 0)
        same((await ledger.mark_delivered("old")).token, None)
        naive = datetime.now(UTC).replace(tzinfo=None)
        await raises(UsageError, ledger.purge(naive))
        try:
            ledger.grants(since=naive)
        except UsageError:
            return
        msg = "grants() takes a time without an offset"
        raise AssertionError(msg)
