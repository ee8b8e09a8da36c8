"""What every ledger has to do, as checks that any implementation can run.

Each check is `async (make) -> None`, where `make()` returns a ledger that is not open. However often it is called, the
store behind it is one and the same, and empty at first. A check raises AssertionError where the ledger is wrong. With
pytest and a ledger of your own:

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
    MakeLedger,
    bring,
    claim_it,
    opened,
    raises,
    refs_of,
    request,
    same,
    settlement,
    steps,
    true,
)

Check = Callable[[MakeLedger], Awaitable[None]]


async def a_step_is_taken_where_it_is_legal_and_nowhere_else(make: MakeLedger) -> None:
    """Every step from every state: it leads where `model.LEGAL` says, or raises and leaves the row as it was."""
    async with opened(make) as ledger:
        for number, (step, sources, end) in enumerate(steps()):
            for status in GrantStatus:
                ref = f"{number}-{status}"
                before = await bring(ledger, ref, status)
                if status in sources:
                    same(await step(ledger, ref), await ledger.get(ref))
                    after = await ledger.get(ref)
                    true(after is not None and after.status is end, f"{ref} did not become {end}")
                    true((status, end) in LEGAL or status is end, f"{status} to {end} is not legal")
                else:
                    await raises(GrantError, step(ledger, ref))
                    same(await ledger.get(ref), before)


async def a_ref_is_planned_once(make: MakeLedger) -> None:
    """Planning returns the row; planning again changes nothing."""
    async with opened(make) as ledger:
        same(await ledger.get("a"), None)
        began = datetime.now(UTC) - timedelta(seconds=1)
        grant = await ledger.plan(GrantRequest("a", 2**63 - 1, 2**63 - 1, "first"))
        same((grant.ref, grant.plan_id, grant.member_id, grant.note), ("a", 2**63 - 1, 2**63 - 1, "first"))
        same((grant.status, grant.token, grant.attempts, grant.error), (GrantStatus.PLANNED, None, 0, None))
        same(grant.updated_at.utcoffset(), timedelta(0))
        true(began <= grant.updated_at <= datetime.now(UTC) + timedelta(seconds=1), "updated_at is not now")
        same(await ledger.plan(GrantRequest("a", 2**63 - 1, 2**63 - 1, "second")), grant)
        same(await ledger.get("a"), grant)
        nobody = await ledger.plan(GrantRequest("b", 1))
        same((nobody.member_id, nobody.note), (None, ""))


async def another_plan_or_member_is_a_conflict(make: MakeLedger) -> None:
    """Keep a ref to one plan and one member, in every state."""
    async with opened(make) as ledger:
        for status in GrantStatus:
            before = await bring(ledger, status, status)
            for plan_id, member_id in ((2, 42), (1, 43), (1, None)):
                await raises(RefConflict, ledger.plan(GrantRequest(status, plan_id, member_id)))
                await raises(RefConflict, ledger.claim(GrantRequest(status, plan_id, member_id)))
            same(await ledger.get(status), before)


async def one_of_many_claims_is_mine(make: MakeLedger) -> None:
    """However many claim a ref at once, one of them has to send it, and again only after it is planned again."""
    claims: list[Claim] = []

    async def claim(ledger: Ledger) -> None:
        claims.append(await ledger.claim(request("a")))

    async with opened(make) as ledger:
        for attempt in (1, 2):
            claims.clear()
            async with create_task_group() as group:
                for _ in range(20):
                    group.start_soon(claim, ledger)
            same(sum(claim.mine for claim in claims), 1)
            same({(claim.grant.status, claim.grant.attempts) for claim in claims}, {(GrantStatus.SENDING, attempt)})
            await ledger.settle("a", settlement(GrantStatus.PLANNED))
        same([attempt.number for attempt in await ledger.attempts("a")], [1, 2])


async def a_ref_that_is_not_there_is_an_error(make: MakeLedger) -> None:
    """Nothing can be done to it, and what cannot be a ref is refused."""
    async with opened(make) as ledger:
        same(await ledger.get("a"), None)
        true(not await ledger.attempts("a") and not await ledger.decisions("a"), "a record of nothing")
        for step, _, _ in steps():
            if step is not claim_it:
                await raises(GrantError, step(ledger, "a"))
        for ref in ("", " a", "a\0", "\ud800", "x" * 1_001):
            for look in (ledger.get, ledger.attempts, ledger.decisions, ledger.mark_delivered):
                await raises(UsageError, look(ref))
        same(await refs_of(ledger.grants()), [])


async def a_ledger_works_while_it_is_open(make: MakeLedger) -> None:
    """Before it is opened and after it is closed it says so; opened twice, too; closed twice is fine."""
    ledger = make()
    for _ in range(2):
        same(ledger.is_open, False)
        await raises(UsageError, ledger.plan(request("a")))
        await raises(UsageError, ledger.get("a"))
        await raises(UsageError, anext(aiter(ledger.grants())))
        same(await ledger.open(), ledger)
        same(ledger.is_open, True)
        await raises(UsageError, ledger.open())
        await ledger.plan(request("a"))
        await ledger.aclose()
        await ledger.aclose()


async def a_cancelled_step_happens_whole_or_not_at_all(make: MakeLedger) -> None:
    """Whoever is cancelled may have changed the row or not, but nothing else, and the ledger goes on."""

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
            same(len(attempts), 0 if grant is None else grant.attempts)
            true(grant is None or grant.status is GrantStatus.SENDING, "half a claim")
        true((await ledger.claim(request("a"))).mine, "the ledger does not go on")


async def many_at_once_are_all_kept(make: MakeLedger) -> None:
    """Take grants through their whole life, in a hundred tasks at once."""

    async def live(ledger: Ledger, number: int) -> None:
        for n in range(3):
            await bring(ledger, f"{number}-{n}", GrantStatus.DELIVERED)

    async with opened(make) as ledger, create_task_group() as group:
        for number in range(100):
            group.start_soon(live, ledger, number)
    async with opened(make) as ledger:
        same(len(await refs_of(ledger.grants([GrantStatus.DELIVERED]))), 300)
        same(len(await refs_of(ledger.grants())), 300)


LEDGER_CHECKS: Final[tuple[Check, ...]] = (
    a_ref_is_planned_once,
    another_plan_or_member_is_a_conflict,
    one_of_many_claims_is_mine,
    a_step_is_taken_where_it_is_legal_and_nowhere_else,
    durability.a_result_is_kept_whole,
    durability.attempts_and_decisions_are_kept_in_order,
    durability.what_is_told_is_there_after_a_reopening,
    durability.rows_come_in_pages_and_in_order,
    durability.any_text_is_kept_as_it_is,
    a_ref_that_is_not_there_is_an_error,
    durability.tokens_are_wiped_when_they_are_delivered_and_old,
    a_ledger_works_while_it_is_open,
    a_cancelled_step_happens_whole_or_not_at_all,
    many_at_once_are_all_kept,
)
"""All checks, as functions; see the module's docstring for how to run them."""
