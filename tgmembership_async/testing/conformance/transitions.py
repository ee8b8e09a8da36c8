"""Checks that every implementation of a ledger must pass.

Each check is `async (make) -> None`, where `make()` returns a ledger that is not open. All ledgers that one `make`
returns share one store, which is empty at first. A check raises AssertionError if the ledger fails it. With pytest and
your own ledger:

    @pytest.mark.parametrize("check", LEDGER_CHECKS, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_my_ledger(check, backend, tmp_path):
        anyio.run(check, lambda: MyLedger(tmp_path / "grants"), backend=backend)
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint

from tgmembership_async.errors import GrantError, RefConflict, UsageError
from tgmembership_async.grants.ledger import Claim, Ledger
from tgmembership_async.grants.model import LEGAL, GrantRequest, GrantStatus
from tgmembership_async.testing.conformance import durability
from tgmembership_async.testing.conformance.samples import (
    A_UUID,
    ANOTHER_UUID,
    MakeLedger,
    bring_to,
    check,
    check_equal,
    check_raises,
    claim_it,
    opened,
    refs_of,
    request,
    settlement,
    steps,
)

Check = Callable[[MakeLedger], Awaitable[None]]


async def a_step_is_taken_where_it_is_legal_and_nowhere_else(make: MakeLedger) -> None:
    """Each step from each status leads to the status in `model.LEGAL`, or raises GrantError and changes nothing."""
    async with opened(make) as ledger:
        for number, (step, sources, end) in enumerate(steps()):
            for status in GrantStatus:
                ref = f"{number}-{status}"
                before = await bring_to(ledger, ref, status)
                if status in sources:
                    check_equal(await step(ledger, ref), await ledger.get(ref))
                    after = await ledger.get(ref)
                    check(after is not None and after.status is end, f"{ref} did not become {end}")
                    check((status, end) in LEGAL or status is end, f"{status} to {end} is not legal")
                else:
                    await check_raises(GrantError, step(ledger, ref))
                    check_equal(await ledger.get(ref), before)


async def the_time_of_the_grant_is_kept(make: MakeLedger) -> None:
    """Set `granted_at` when a row becomes granted, keep it while it is delivered, and have None before."""
    async with opened(make) as ledger:
        grants = {status: await bring_to(ledger, status, status) for status in GrantStatus}
        decided = await ledger.decide(GrantStatus.UNKNOWN, "granted", None, "")
        for grant in (grants[GrantStatus.GRANTED], decided):
            check_equal(grant.granted_at, grant.updated_at)
            delivered = await ledger.mark_delivered(grant.ref)
            check_equal(delivered.granted_at, grant.granted_at)
            check_equal(await ledger.get(grant.ref), delivered)
        for grant in grants.values():
            has_it = grant.status in (GrantStatus.GRANTED, GrantStatus.DELIVERED)
            check_equal(grant.granted_at is not None, has_it)


async def a_ref_is_planned_once(make: MakeLedger) -> None:
    """`plan` returns the row. A second `plan` changes nothing."""
    async with opened(make) as ledger:
        check_equal(await ledger.get("a"), None)
        began = datetime.now(UTC) - timedelta(seconds=1)
        grant = await ledger.plan(GrantRequest("a", 2**63 - 1, 2**63 - 1, "first"))
        check_equal((grant.ref, grant.plan_id, grant.member_id, grant.note), ("a", 2**63 - 1, 2**63 - 1, "first"))
        check_equal((grant.status, grant.token, grant.attempts, grant.error), (GrantStatus.PLANNED, None, 0, None))
        check_equal(grant.updated_at.utcoffset(), timedelta(0))
        check(began <= grant.updated_at <= datetime.now(UTC) + timedelta(seconds=1), "updated_at is not now")
        check_equal(await ledger.plan(GrantRequest("a", 2**63 - 1, 2**63 - 1, "second")), grant)
        check_equal(await ledger.get("a"), grant)
        nobody = await ledger.plan(GrantRequest("b", 1))
        check_equal((nobody.member_id, nobody.note), (None, ""))


async def a_plan_of_a_project_is_kept(make: MakeLedger) -> None:
    """Return the plan of a bot as int, and the plan of a project, a UUID, as str. A ref keeps its plan."""
    async with opened(make) as ledger:
        grant = await ledger.plan(GrantRequest("a", A_UUID, 42))
        check_equal((grant.plan_id, await ledger.get("a")), (A_UUID, grant))
        await check_raises(RefConflict, ledger.plan(GrantRequest("a", 1, 42)))
        await check_raises(RefConflict, ledger.claim(GrantRequest("a", ANOTHER_UUID, 42)))
        for _ in range(2):
            claim = await ledger.claim(GrantRequest("a", A_UUID, 42))
            check_equal((claim.mine, claim.grant.plan_id), (True, A_UUID))
            await ledger.settle("a", settlement(GrantStatus.PLANNED))
        await check_raises(RefConflict, ledger.claim(GrantRequest("a", 1, 42)))
        check_equal((await ledger.claim(GrantRequest("b", ANOTHER_UUID, 42))).grant.plan_id, ANOTHER_UUID)
        check_equal([row.plan_id async for row in ledger.grants()], [A_UUID, ANOTHER_UUID])


async def another_plan_or_member_is_a_conflict(make: MakeLedger) -> None:
    """Raise RefConflict for a ref with another plan or member, in every status."""
    async with opened(make) as ledger:
        for status in GrantStatus:
            before = await bring_to(ledger, status, status)
            for plan_id, member_id in ((2, 42), (1, 43), (1, None)):
                await check_raises(RefConflict, ledger.plan(GrantRequest(status, plan_id, member_id)))
                await check_raises(RefConflict, ledger.claim(GrantRequest(status, plan_id, member_id)))
            check_equal(await ledger.get(status), before)


async def one_of_many_claims_is_mine(make: MakeLedger) -> None:
    """Of many concurrent claims of a ref exactly one is mine, and the next one only after the ref is planned again."""
    claims: list[Claim] = []

    async def claim(ledger: Ledger) -> None:
        claims.append(await ledger.claim(request("a")))

    async with opened(make) as ledger:
        for attempt in (1, 2):
            claims.clear()
            async with create_task_group() as group:
                for _ in range(20):
                    group.start_soon(claim, ledger)
            check_equal(sum(claim.mine for claim in claims), 1)
            check_equal(
                {(claim.grant.status, claim.grant.attempts) for claim in claims}, {(GrantStatus.SENDING, attempt)}
            )
            await ledger.settle("a", settlement(GrantStatus.PLANNED))
        check_equal([attempt.number for attempt in await ledger.attempts("a")], [1, 2])


async def a_ref_that_is_not_there_is_an_error(make: MakeLedger) -> None:
    """Raise GrantError for each step on an unknown ref, and UsageError for an invalid ref."""
    async with opened(make) as ledger:
        check_equal(await ledger.get("a"), None)
        check(not await ledger.attempts("a") and not await ledger.decisions("a"), "an unknown ref has records")
        for step, _, _ in steps():
            if step is not claim_it:
                await check_raises(GrantError, step(ledger, "a"))
        for ref in ("", " a", "a\0", "\ud800", "x" * 1_001):
            for look in (ledger.get, ledger.attempts, ledger.decisions, ledger.mark_delivered):
                await check_raises(UsageError, look(ref))
        check_equal(await refs_of(ledger.grants()), [])


async def a_ledger_works_while_it_is_open(make: MakeLedger) -> None:
    """Raise UsageError before opening, after closing, and for opening twice. Closing twice is allowed."""
    ledger = make()
    for _ in range(2):
        check_equal(ledger.is_open, False)
        await check_raises(UsageError, ledger.plan(request("a")))
        await check_raises(UsageError, ledger.get("a"))
        await check_raises(UsageError, anext(aiter(ledger.grants())))
        check_equal(await ledger.open(), ledger)
        check_equal(ledger.is_open, True)
        await check_raises(UsageError, ledger.open())
        await ledger.plan(request("a"))
        await ledger.aclose()
        await ledger.aclose()


async def a_cancelled_step_happens_whole_or_not_at_all(make: MakeLedger) -> None:
    """Change a row completely or not at all if the step is cancelled. The ledger continues to work."""

    async def claim(ledger: Ledger, ref: str, scope: CancelScope) -> None:
        with scope:
            await ledger.claim(request(ref))

    async with opened(make) as ledger:
        for number in range(30):
            async with create_task_group() as group:
                scope = CancelScope()
                group.start_soon(claim, ledger, str(number), scope)
                for _ in range(number % 4):
                    await checkpoint()
                scope.cancel()
        for number in range(30):
            grant = await ledger.get(str(number))
            attempts = await ledger.attempts(str(number))
            check_equal(len(attempts), 0 if grant is None else grant.attempts)
            check(grant is None or grant.status is GrantStatus.SENDING, "a claim is incomplete")
        check((await ledger.claim(request("a"))).mine, "the ledger does not continue to work")


async def many_at_once_are_all_kept(make: MakeLedger) -> None:
    """Bring grants to `delivered` in a hundred concurrent tasks."""

    async def live(ledger: Ledger, number: int) -> None:
        for n in range(3):
            await bring_to(ledger, f"{number}-{n}", GrantStatus.DELIVERED)

    async with opened(make) as ledger, create_task_group() as group:
        for number in range(100):
            group.start_soon(live, ledger, number)
    async with opened(make) as ledger:
        check_equal(len(await refs_of(ledger.grants([GrantStatus.DELIVERED]))), 300)
        check_equal(len(await refs_of(ledger.grants())), 300)


LEDGER_CHECKS: Final[tuple[Check, ...]] = (
    a_ref_is_planned_once,
    a_plan_of_a_project_is_kept,
    another_plan_or_member_is_a_conflict,
    one_of_many_claims_is_mine,
    a_step_is_taken_where_it_is_legal_and_nowhere_else,
    the_time_of_the_grant_is_kept,
    durability.a_result_is_kept_whole,
    durability.attempts_and_decisions_are_kept_in_order,
    durability.what_is_stored_is_there_after_a_reopening,
    durability.rows_come_in_pages_and_in_order,
    durability.rows_are_counted_and_searched,
    durability.many_rows_are_found_at_once,
    durability.rows_are_counted_by_day,
    durability.any_text_is_kept_as_it_is,
    a_ref_that_is_not_there_is_an_error,
    durability.tokens_are_wiped_when_they_are_delivered_and_old,
    a_ledger_works_while_it_is_open,
    a_cancelled_step_happens_whole_or_not_at_all,
    many_at_once_are_all_kept,
)
"""All checks, as functions. The docstring of the module shows how to run them."""
