"""Fulfillment: a payment that was taken ends as a delivered link, or as a question to the owner."""

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import psycopg
import pytest
from anyio.lowlevel import checkpoint
from own_schema import own_schema
from waiting import until

from tgmembership_async import GrantError, RefConflict, Session, StorageError, UsageError
from tgmembership_async.fulfillment import Fulfillment, FulfillmentPolicy
from tgmembership_async.grants import (
    Grant,
    Granter,
    GrantRequest,
    GrantStatus,
    Ledger,
    MemoryLedger,
    PostgresLedger,
    Settlement,
    SqliteLedger,
)
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.testing import FakeService, FakeTransport, Fault

MakeLedger = Callable[[], Ledger]
HOUR = timedelta(hours=1)
QUICK = FulfillmentPolicy(backoff_base=0.01, backoff_cap=0.05)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLedger]:
    if request.param == "postgres":
        with own_schema() as url:
            yield lambda: PostgresLedger(url)
    elif request.param == "sqlite":
        yield lambda: SqliteLedger(tmp_path / "grants.db")
    else:
        ledger = MemoryLedger()
        yield lambda: ledger


class Shop:
    """The owner's side: what was delivered, what was asked, and what fails how often."""

    def __init__(self, service: FakeService | None = None) -> None:
        self.service = service or FakeService()
        self.links: list[tuple[str, str]] = []
        self.questions: list[tuple[str, str]] = []
        self.failing: Counter[str] = Counter()
        self.running: Counter[str] = Counter()

    async def deliver(self, grant: Grant) -> None:
        self.running[grant.ref] += 1
        assert self.running[grant.ref] == 1, "at most once at a time"
        try:
            await checkpoint()
            if self.failing[grant.ref] > 0:
                self.failing[grant.ref] -= 1
                raise LookupError(grant.note)
            assert grant.token is not None
            self.links.append((grant.ref, grant.token.link or ""))
        finally:
            self.running[grant.ref] -= 1

    async def ask(self, grant: Grant) -> None:
        self.questions.append((grant.ref, grant.status))
        if self.failing[f"ask {grant.ref}"] > 0:
            self.failing[f"ask {grant.ref}"] -= 1
            raise LookupError

    @asynccontextmanager
    async def open(self, ledger: Ledger, **options: Any) -> AsyncGenerator[Fulfillment]:
        session = Session(self.service.bot_id, self.service.api_key, transport=FakeTransport(self.service))
        usual = {"deliver": self.deliver, "attention": self.ask, "policy": QUICK, "every": 0.1}
        async with Fulfillment(Granter(session, ledger), **{**usual, **options}) as fulfillment:
            yield fulfillment


async def done(fulfillment: Fulfillment, *, undecided: int = 0) -> None:
    """Wait until all that is left is for the owner to decide."""
    with anyio.fail_after(30):
        while (pending := await fulfillment.pending()).undecided != undecided or int(pending) != undecided:  # noqa: ASYNC110
            await anyio.sleep(0.01)


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def test_payments_end_as_links(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with shop.open(make_ledger()) as fulfillment:
            for number in range(20):
                await fulfillment.take(f"pay-{number}", plan_id=1, member_id=100 + number, note="7")
                await fulfillment.take(f"pay-{number}", plan_id=1, member_id=100 + number, note="7")
            await done(fulfillment)
            assert not await fulfillment.pending()
        assert Counter(ref for ref, _ in shop.links) == Counter(f"pay-{number}" for number in range(20))
        assert {link for _, link in shop.links} == {token.link for token in shop.service.tokens}
        assert len(shop.service.audit) == 20
        assert not shop.questions

    run(scenario)


def test_a_delivery_that_fails_is_repeated_and_stops_nobody_else(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.failing["bad"] = 3
        async with shop.open(make_ledger()) as fulfillment:
            await fulfillment.take("bad", plan_id=1, member_id=1)
            await fulfillment.take("good", plan_id=1, member_id=2)
            await done(fulfillment)
        assert Counter(ref for ref, _ in shop.links) == {"bad": 1, "good": 1}
        assert not shop.questions

    run(scenario)


def test_the_former_name_of_postpone_still_works_and_warns(make_ledger: Callable[[], Any], run: Run) -> None:
    async def scenario() -> None:
        async with make_ledger() as ledger:
            await ledger.claim(GrantRequest("r", 1))
            await ledger.settle("r", Settlement(GrantStatus.REFUSED))
            found = await ledger.begin_follow_up("r", lease=HOUR, grace=HOUR)
            with pytest.warns(DeprecationWarning, match="put_off is now called postpone"):
                assert await ledger.put_off(found, failures=3, due_at=datetime.now(UTC) - HOUR)
            again = await ledger.begin_follow_up("r", lease=HOUR, grace=HOUR)
            assert again.failures == 3

    run(scenario)


def test_a_ledger_of_the_users_own_may_have_the_former_name(run: Run) -> None:
    """Its class is a copy of MemoryLedger with `put_off` in place of `postpone`."""
    parts = dict(vars(MemoryLedger))
    parts["put_off"] = parts.pop("postpone")
    ledger = type("Own", (AsyncResource,), parts)()

    async def scenario() -> None:
        shop = Shop()
        shop.failing["bad"] = 3
        session = Session(shop.service.bot_id, shop.service.api_key, transport=FakeTransport(shop.service))
        with pytest.warns(DeprecationWarning, match=r"Own\.put_off is now called postpone") as warned:
            granter = Granter(session, ledger)
        assert warned[0].filename == __file__
        async with Fulfillment(granter, deliver=shop.deliver, attention=shop.ask, policy=QUICK) as fulfillment:
            await fulfillment.take("bad", plan_id=1, member_id=1)
            await done(fulfillment)
        assert [ref for ref, _ in shop.links] == ["bad"]

    run(scenario)


def test_a_link_that_cannot_be_delivered_is_a_question_to_the_owner(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.failing["bad"] = 7
        async with shop.open(make_ledger()) as fulfillment:
            await fulfillment.take("bad", plan_id=1, member_id=1)
            await done(fulfillment)
        assert shop.questions == [("bad", "granted")], "after five failures, and not again after two more"
        assert len(shop.links) == 1

    run(scenario)


def test_the_owner_is_asked_once_for_each_row_and_status_over_restarts(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        service = FakeService(
            faults=[
                Fault("error", method="addMember", status=404, count=1),
                Fault("reset", method="addMember", when="after", count=1),
            ]
        )
        shop = Shop(service)
        shop.failing["ask refused"] = 1
        async with shop.open(make_ledger()) as fulfillment:
            await fulfillment.take("refused", plan_id=1, member_id=1)
            await done(fulfillment, undecided=1)
            await fulfillment.take("unknown", plan_id=1)
            await done(fulfillment, undecided=2)
            await until(lambda: len(shop.questions) == 3)
        for _ in range(2):
            async with shop.open(make_ledger()):
                await anyio.sleep(0.3)
        assert Counter(shop.questions) == {("refused", "refused"): 2, ("unknown", "unknown"): 1}, "the first ask failed"

    run(scenario)


def test_the_owner_is_reminded_and_a_decision_is_carried_out(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("reset", method="addMember", when="before", count=1)]))
        async with shop.open(make_ledger(), remind=0.1 / 3600) as fulfillment:
            await fulfillment.take("held", plan_id=1)
            await until(lambda: len(shop.questions) == 3)
            await fulfillment.granter.resolve("held", "retry", reason="the bot has no such token")
            await done(fulfillment)
        assert set(shop.questions) == {("held", "unknown")}
        assert [ref for ref, _ in shop.links] == ["held"]
        assert len(shop.service.audit) == 1

    run(scenario)


def test_what_was_taken_before_a_restart_is_carried_out_after_it(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with shop.open(make_ledger()) as fulfillment:
            await fulfillment.take("a", plan_id=1, member_id=1)
        async with shop.open(make_ledger()) as fulfillment:
            await done(fulfillment)
        assert [ref for ref, _ in shop.links] == ["a"]

    run(scenario)


def test_a_payment_that_waits_for_long_is_told(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("error", method="addMember", status=401)]))
        policy = FulfillmentPolicy(overdue=0.05)
        async with shop.open(make_ledger(), policy=policy, every=0.05) as fulfillment:
            await fulfillment.take("a", plan_id=1, member_id=1)
            await until(lambda: bool(shop.questions))
            await anyio.sleep(0.2)
        assert shop.questions == [("a", "planned")]

    run(scenario)


def test_a_planned_row_that_cannot_be_granted_stops_nobody_else(
    make_ledger: Callable[[], Any], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """It was recorded in the ledger itself, with the plan of a project."""

    async def scenario() -> None:
        shop, ledger = Shop(), make_ledger()
        async with ledger:
            await ledger.plan(GrantRequest("bad", "11111111-1111-4111-8111-111111111111", 5))
            for number in range(20):
                await ledger.plan(GrantRequest(f"good {number}", 1, 5))
        async with shop.open(make_ledger(), every=600) as fulfillment:
            await until(lambda: len(shop.links) == 20)
            assert (await fulfillment.pending()).planned == 1

    run(scenario)
    assert "bad cannot be granted, and stays planned" in caplog.text


def test_another_plan_under_the_same_ref_is_refused_at_once(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with shop.open(make_ledger()) as fulfillment:
            await fulfillment.take("a", plan_id=1, member_id=1)
            with pytest.raises(RefConflict):
                await fulfillment.take("a", plan_id=2, member_id=1)

    run(scenario)


class Failing(MemoryLedger):
    """A ledger that cannot write for a while."""

    def __init__(self, failures: float) -> None:
        super().__init__()
        self.failures = failures

    async def plan(self, request: Any) -> Grant:
        self.failures -= 1
        if self.failures >= 0:
            msg = "the disk is full"
            raise StorageError(msg)
        return await super().plan(request)


def test_take_keeps_trying_while_the_ledger_cannot_write(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with shop.open(Failing(2)) as fulfillment:
            assert (await fulfillment.take("a", plan_id=1)).status is GrantStatus.PLANNED
            await done(fulfillment)
        async with shop.open(Failing(float("inf")), deadline=0.2) as fulfillment:
            with pytest.raises(StorageError, match="disk is full"):
                await fulfillment.take("b", plan_id=1)
            assert not await fulfillment.pending()

    run(scenario)
    assert "cannot be recorded yet" in caplog.text


def test_it_can_take_a_payment_while_the_ledger_can_write(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        async with Shop().open(make_ledger()) as fulfillment:
            assert await fulfillment.can_take()
            assert not await fulfillment.pending(), "the proof leaves nothing behind"
            with pytest.raises(UsageError, match="timeout"):
                await fulfillment.can_take(0)

    run(scenario)


def test_it_can_take_nothing_while_another_process_keeps_the_file_locked(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        ledger = SqliteLedger(quick_path / "grants.db")
        async with Shop().open(ledger) as fulfillment:
            with closing(sqlite3.connect(quick_path / "grants.db", isolation_level=None)) as other:
                await anyio.sleep(0.05)  # the first steps of the background read
                other.execute("BEGIN EXCLUSIVE")
                assert not await fulfillment.can_take(0.1)
                other.execute("ROLLBACK")
            assert await fulfillment.can_take()

    run(scenario)


def test_it_can_take_nothing_on_a_full_disk(run: Run, quick_path: Path) -> None:
    async def limit(ledger: SqliteLedger, pages: int) -> None:
        await ledger._storage.write(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())

    async def scenario() -> None:
        ledger = SqliteLedger(quick_path / "grants.db")
        async with Shop().open(ledger) as fulfillment:
            await limit(ledger, 1)
            assert not await fulfillment.can_take()
            await limit(ledger, 1_000_000)
            assert await fulfillment.can_take()

    run(scenario)


def test_it_can_take_nothing_while_a_table_is_locked_on_the_server(run: Run) -> None:
    with own_schema() as url:

        async def scenario() -> None:
            async with Shop().open(PostgresLedger(url)) as fulfillment:
                with psycopg.connect(url) as other:
                    other.execute("LOCK TABLE tgm_grants IN SHARE MODE")
                    assert not await fulfillment.can_take(0.3)
                assert await fulfillment.can_take()

        run(scenario)


def test_a_refund_before_the_grant_is_not_granted(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("error", method="addMember", status=401)]))
        async with shop.open(make_ledger()) as fulfillment:
            await fulfillment.take("planned", plan_id=1, member_id=1)
            refunded = await fulfillment.refunded("planned", plan_id=1, member_id=1)
            assert refunded.status is GrantStatus.ABANDONED
            await fulfillment.refunded("told late", plan_id=1, member_id=2, reason="refunded by Telegram")
            assert (await fulfillment.take("told late", plan_id=1, member_id=2)).status is GrantStatus.ABANDONED
            await fulfillment.refunded("told late", plan_id=1, member_id=2)
            made = await fulfillment.granter.ledger.decisions("told late")
            assert [decision.reason for decision in made] == ["refunded by Telegram"]
            assert not await fulfillment.pending()
        assert not shop.questions

    run(scenario)


def test_a_refund_is_to_be_recorded_again_while_the_exchange_is_under_way(run: Run) -> None:
    async def scenario() -> None:
        shop, ledger = Shop(), MemoryLedger()
        async with shop.open(ledger, every=600, deadline=0.15) as fulfillment:
            await ledger.claim(GrantRequest("a", 1))
            with pytest.raises(GrantError, match="record the refund again"):
                await fulfillment.refunded("a", plan_id=1)
            await ledger.settle("a", Settlement(GrantStatus.PLANNED))
            assert (await fulfillment.refunded("a", plan_id=1)).status is GrantStatus.ABANDONED
        assert not shop.questions

    run(scenario)


def test_a_refund_after_the_grant_is_told_to_the_owner(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop, told = Shop(), list[Grant]()

        async def tell(grant: Grant) -> None:
            told.append(grant)

        async with shop.open(make_ledger(), attention=tell) as fulfillment:
            await fulfillment.take("a", plan_id=1, member_id=1)
            await done(fulfillment)
            assert (await fulfillment.refunded("a", plan_id=1)).status is GrantStatus.DELIVERED
        (grant,) = told
        assert "a was refunded, and is delivered" in str(grant.error)

    run(scenario)


def test_a_decision_is_carried_out_at_once(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("error", method="addMember", status=404, count=2)]))
        async with shop.open(make_ledger(), every=600) as fulfillment:
            for ref in ("again", "granted"):
                await fulfillment.take(ref, plan_id=1)
                await until(partial(shop.questions.__contains__, (ref, "refused")))
            await fulfillment.decide("again", "retry", reason="the plan is there now")
            await fulfillment.decide("granted", "granted", token="by hand", reason="granted by hand")
            await done(fulfillment)
        assert sorted(ref for ref, _ in shop.links) == ["again", "granted"]
        assert len(shop.service.audit) == 1

    run(scenario)


def test_a_payment_does_not_wait_for_the_slow_exchange_of_another_one(make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("latency", method="addMember", seconds=3, count=1)]))
        async with shop.open(make_ledger(), every=600) as fulfillment:
            await fulfillment.take("slow", plan_id=1, member_id=1)
            await until(lambda: shop.service.count_requests() == 1)
            for number in range(1, 3):
                await fulfillment.take(f"new {number}", plan_id=1, member_id=2)
                await until(partial(lambda number: len(shop.links) == number, number))
            assert [ref for ref, _ in shop.links] == ["new 1", "new 2"]

    run(scenario)


def test_a_payment_does_not_wait_until_unknown_rows_are_reconciled(run: Run) -> None:
    async def scenario() -> None:
        lost = Fault("reset", method="addMember", when="after", count=1)
        shop = Shop(FakeService(faults=[lost, Fault("latency", method="getSubscribers", seconds=20)]))
        async with shop.open(MemoryLedger(), every=600) as fulfillment:
            await fulfillment.take("held", plan_id=1, member_id=1)
            await until(partial(shop.questions.__contains__, ("held", "unknown")))
            await fulfillment.take("new", plan_id=1, member_id=2)
            await done(fulfillment, undecided=1)
        assert [ref for ref, _ in shop.links] == ["new"]

    run(scenario)


@pytest.mark.parametrize("hanging", ["deliver", "attention"])
def test_neither_links_nor_questions_wait_for_the_other_callback(hanging: str, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("error", method="addMember", status=404, count=20)]))
        calls: list[str] = []
        over = anyio.Event()

        async def hang(grant: Grant) -> None:
            calls.append(grant.ref)
            await over.wait()

        ledger = MemoryLedger()
        session = Session(shop.service.bot_id, shop.service.api_key, transport=FakeTransport(shop.service))
        async with Granter(session, ledger) as granter:
            assert (await granter.provision(GrantRequest(f"refused {n}", 1) for n in range(20))).refused == 20
            assert (await granter.provision(GrantRequest(f"granted {n}", 1) for n in range(20))).granted == 20
        policy = FulfillmentPolicy(concurrency=2)
        callback: Any = {hanging: hang}
        async with shop.open(ledger, **callback, every=600, policy=policy) as fulfillment:
            await until(lambda: len(shop.links) + len(shop.questions) == 20)
            if hanging == "attention":
                await fulfillment.take("new", plan_id=1)
                await until(lambda: len(shop.links) == 21)
            assert len(calls) == 2
            over.set()

    run(scenario)


@pytest.mark.parametrize("ends", ["at once", "in backoff"])
def test_a_decision_during_a_question_is_carried_out_after_it(ends: str, make_ledger: MakeLedger, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("error", method="addMember", status=404, count=1)]))
        asked, decided = anyio.Event(), anyio.Event()

        async def ask(_: Grant) -> None:
            asked.set()
            if ends == "in backoff":
                raise LookupError
            await decided.wait()

        policy = FulfillmentPolicy(backoff_base=50)
        async with shop.open(make_ledger(), attention=ask, every=600, policy=policy) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await asked.wait()
            await fulfillment.decide("a", "granted", token="by hand", reason="granted by hand")
            decided.set()
            await done(fulfillment)
        assert [ref for ref, _ in shop.links] == ["a"]

    run(scenario)


REFUSED_TWICE = Fault("error", method="addMember", status=404, count=2)
LOST_TWICE = Fault("reset", method="addMember", when="before", count=2)


@pytest.mark.parametrize("fault", [REFUSED_TWICE, LOST_TWICE], ids=["refused", "unknown"])
def test_the_owner_is_asked_again_if_a_row_that_is_sent_again_ends_as_before(
    fault: Fault, make_ledger: MakeLedger, run: Run
) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[fault]))
        asked: list[tuple[str, int]] = []

        async def ask(grant: Grant) -> None:
            await shop.ask(grant)
            asked.append((grant.status, grant.attempts))

        async with shop.open(make_ledger(), attention=ask) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await until(lambda: len(asked) == 1)
            await fulfillment.decide("a", "retry", reason="the bot is an administrator now")
            await until(lambda: len(asked) == 2)
            await fulfillment.decide("a", "retry", reason="the plan exists now")
            await done(fulfillment)
        [(status, first), (again, second)] = asked
        assert (status, first, second) == (again, 1, 2)
        assert [ref for ref, _ in shop.links] == ["a"]

    run(scenario)


def test_the_owner_is_asked_again_if_a_row_ends_as_before_during_the_question(
    make_ledger: MakeLedger, run: Run
) -> None:
    async def scenario() -> None:
        shop = Shop(FakeService(faults=[REFUSED_TWICE]))
        asked: list[int] = []

        async def ask(grant: Grant) -> None:
            asked.append(grant.attempts)
            if grant.attempts == 1:
                await fulfillment.decide("a", "retry", reason="the bot is an administrator now")
                while (grant.status, grant.attempts) != (GrantStatus.REFUSED, 2):
                    await anyio.sleep(0.01)
                    grant = await fulfillment.granter.get("a") or grant

        async with shop.open(make_ledger(), attention=ask) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await until(lambda: len(asked) == 2)
        assert asked == [1, 2]

    run(scenario)


def test_whoever_asked_before_a_decision_postpones_nothing(make_ledger: Callable[[], Any], run: Run) -> None:
    """The row comes to the same status again: its follow-up is new."""

    async def scenario() -> None:
        refused = Settlement(GrantStatus.REFUSED)
        async with make_ledger() as ledger:
            await ledger.claim(GrantRequest("r", 1))
            await ledger.settle("r", refused)
            found = await ledger.begin_follow_up("r", lease=HOUR, grace=HOUR)
            await ledger.decide("r", "retry", None, "")
            assert await ledger.begin_follow_up("r", lease=HOUR, grace=HOUR) is None, "it may wait for an hour"
            await ledger.claim(GrantRequest("r", 1))
            await ledger.settle("r", refused)
            assert not await ledger.postpone(found, failures=3, due_at=datetime.now(UTC) + HOUR)
            again = await ledger.begin_follow_up("r", lease=HOUR, grace=HOUR)
            assert again.failures == 0
            assert again.lease > found.lease

    run(scenario)


def test_a_link_does_not_wait_for_the_slot_of_a_question(run: Run) -> None:
    """The question about it failed, and is to be repeated when the other one, which hangs, leaves the only slot."""

    async def scenario() -> None:
        shop = Shop(FakeService(faults=[Fault("error", method="addMember", status=404, count=2)]))
        asked: list[str] = []

        async def ask(grant: Grant) -> None:
            asked.append(grant.ref)
            if len(asked) == 1:
                raise LookupError
            await anyio.sleep_forever()

        policy = FulfillmentPolicy(concurrency=1, backoff_base=0.05, backoff_cap=0.05, timeout=60)
        async with shop.open(MemoryLedger(), attention=ask, every=600, policy=policy) as fulfillment:
            for ref in "ab":
                await fulfillment.take(ref, plan_id=1)
            await until(lambda: len(asked) == 2)
            await anyio.sleep(0.2)  # until its backoff is over
            first, _ = asked
            await fulfillment.decide(first, "granted", token="by hand", reason="granted by hand")
            await until(lambda: shop.links, seconds=20)
            with anyio.move_on_after(0):
                await fulfillment.stop()
        assert [ref for ref, _ in shop.links] == [first]

    run(scenario)


def test_no_lease_ends_while_a_callback_runs(run: Run) -> None:
    """After a failed delivery the owner is asked under the same lease, and each may take as long as the timeout."""

    class Noting(MemoryLedger):
        leases: ClassVar = list[timedelta]()

        async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> Any:
            self.leases.append(lease)
            return await super().begin_follow_up(ref, lease=lease, grace=grace)

    async def scenario() -> None:
        async with Shop().open(Noting(), policy=FulfillmentPolicy(timeout=100)) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await done(fulfillment)
        assert min(Noting.leases) > 2 * timedelta(seconds=100)

    run(scenario)


class Surprising(MemoryLedger):
    """A ledger of the user's own that raises what no ledger should raise, once for each ref."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    async def begin_follow_up(self, ref: str, **named: Any) -> Any:
        if ref not in self.seen:
            self.seen.add(ref)
            raise LookupError(ref)
        return await super().begin_follow_up(ref, **named)


def test_an_unexpected_error_of_the_ledger_stops_no_follow_up(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with shop.open(Surprising()) as fulfillment:
            for ref in "abc":
                await fulfillment.take(ref, plan_id=1)
            await done(fulfillment)
        assert sorted(ref for ref, _ in shop.links) == ["a", "b", "c"]

    run(scenario)
    assert "a: the ledger failed, and the follow-up is retried" in caplog.text


def test_what_a_callback_raises_is_not_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.failing["a"] = 1
        async with shop.open(MemoryLedger()) as fulfillment:
            await fulfillment.take("a", plan_id=1, note="a secret link")
            await done(fulfillment)

    run(scenario)
    assert "deliver raised LookupError" in caplog.text
    assert "secret link" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), BaseException(), BaseExceptionGroup("", [BaseException()])],
    ids=["exit", "other", "group"],
)
def test_no_exception_of_a_callback_ends_the_fulfillment(raised: BaseException, run: Run) -> None:
    async def scenario() -> None:
        calls: list[str] = []

        async def deliver(grant: Grant) -> None:
            calls.append(grant.ref)
            if len(calls) == 1:
                raise raised

        async with Shop().open(MemoryLedger(), deliver=deliver) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await done(fulfillment)
        assert calls == ["a", "a"]

    run(scenario)


@pytest.mark.parametrize("ends", ["by an exception", "by a cancellation"])
def test_a_fulfillment_that_has_crashed_takes_no_payments(
    ends: str, backend: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    if (ends, backend) == ("by a cancellation", "trio"):
        pytest.skip("a task of trio cannot be cancelled by itself")

    async def scenario() -> None:
        calls: list[str] = []

        async def deliver(grant: Grant) -> None:
            calls.append(grant.ref)
            if len(calls) > 1:
                return
            if ends == "by an exception":
                raise GeneratorExit
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await anyio.sleep_forever()

        async with Shop().open(MemoryLedger(), deliver=deliver) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await until(lambda: not fulfillment.is_open)
            assert "fulfillment has crashed" in caplog.text
            with pytest.raises(StorageError, match="do not confirm this payment"):
                await fulfillment.take("b", plan_id=1)
            assert not await fulfillment.can_take()
            await fulfillment.open()
            await fulfillment.take("b", plan_id=1)
            await until(lambda: calls == ["a", "b"])

    run(scenario)


def test_closing_waits_for_a_delivery_that_another_task_waits_for(run: Run) -> None:
    async def scenario() -> None:
        began, go, closed = anyio.Event(), anyio.Event(), anyio.Event()

        async def deliver(_: Grant) -> None:
            began.set()
            await go.wait()

        async def close() -> None:
            await fulfillment.aclose()
            closed.set()

        async with Shop().open(MemoryLedger(), deliver=deliver) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await began.wait()
            async with anyio.create_task_group() as group:
                group.start_soon(fulfillment.stop)
                await until(lambda: not fulfillment.is_open)
                group.start_soon(close)
                await anyio.sleep(0.05)
                assert not closed.is_set()
                assert fulfillment.granter.is_open
                go.set()
            assert not fulfillment.granter.is_open

    run(scenario)


def test_closing_waits_for_a_delivery_that_runs(run: Run) -> None:
    async def scenario() -> None:
        began, ended = anyio.Event(), anyio.Event()

        async def deliver(_: Grant) -> None:
            began.set()
            await anyio.sleep(0.1)
            ended.set()

        ledger = MemoryLedger()
        shop = Shop()
        async with shop.open(ledger, deliver=deliver) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await began.wait()
        assert ended.is_set()
        async with ledger:
            found = await ledger.get("a")
        assert found is not None
        assert found.status is GrantStatus.DELIVERED

    run(scenario)


def test_a_callback_that_hangs_is_cancelled_and_called_again(run: Run) -> None:
    async def scenario() -> None:
        calls: list[str] = []

        async def deliver(grant: Grant) -> None:
            calls.append(grant.ref)
            if len(calls) == 1:
                await anyio.sleep_forever()

        policy = FulfillmentPolicy(timeout=0.05, backoff_base=0.01)
        async with Shop().open(MemoryLedger(), deliver=deliver, policy=policy) as fulfillment:
            await fulfillment.take("a", plan_id=1)
            await done(fulfillment)
        assert calls == ["a", "a"]

    run(scenario)


@pytest.mark.parametrize(
    "wrong",
    [
        {"deliver": None},
        {"attention": 5},
        {"every": 0},
        {"deadline": -1},
        {"remind": 0},
        {"policy": None},
        {"granter": None},
    ],
)
def test_a_wrong_argument_is_refused(wrong: dict[str, Any]) -> None:
    granter = Granter(Session(1, "k" * 40), MemoryLedger())
    shop = Shop()
    arguments = {"granter": granter, "deliver": shop.deliver, "attention": shop.ask, **wrong}
    with pytest.raises(UsageError, match="|".join([*wrong, "Granter"])):
        Fulfillment(arguments.pop("granter"), **arguments)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"concurrency": 0}, {"tell_after": 1.5}, {"overdue": "1"}])
def test_a_policy_is_checked_when_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        FulfillmentPolicy(**wrong)


def test_it_says_how_to_open_it(run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        granter = Granter(Session(1, "k" * 40), MemoryLedger())
        fulfillment = Fulfillment(granter, deliver=shop.deliver, attention=shop.ask)
        with pytest.raises(UsageError, match="async with Fulfillment"):
            await fulfillment.take("a", plan_id=1)
        async with fulfillment:
            with pytest.raises(UsageError, match="open already"):
                await fulfillment.open()
        await fulfillment.aclose()

    run(scenario)


def test_two_processes_share_the_work_and_no_link_is_sent_twice(run: Run) -> None:
    """Two ledgers on one schema stand for two processes: each is a worker of its own."""
    with own_schema() as url:

        async def scenario() -> None:
            one, other = Shop(service := FakeService()), Shop(service)
            async with one.open(PostgresLedger(url)) as first, other.open(PostgresLedger(url)) as second:
                for number in range(30):
                    await (first, second)[number % 2].take(f"pay-{number}", plan_id=1, member_id=number + 1)
                await done(first)
            sent = Counter(ref for ref, _ in one.links + other.links)
            assert sent == Counter(f"pay-{number}" for number in range(30))
            assert len(service.audit) == 30

        run(scenario)
