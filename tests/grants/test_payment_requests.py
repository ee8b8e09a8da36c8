"""Payment requests under the ledger: one for each ref, whatever happens, and a question where that is not known."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from project.projects import OTHER, PLAN, QUICK, project, refuses, says
from stub_transport import StubTransport, lost

from tgmembership_async import GrantHeld, NotFound, RefConflict, RetryPolicy, Session, Unauthorized, UsageError
from tgmembership_async.errors import InvalidValue
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import (
    Granter,
    GrantRequest,
    GrantStatus,
    Ledger,
    MemoryLedger,
    Settlement,
    SqliteLedger,
)
from tgmembership_async.grants.payment_requests import WINDOW, created_by
from tgmembership_async.project import PaymentRequest, Project
from tgmembership_async.protocol.service_clock import Offset
from tgmembership_async.testing import FakeProject, FakeTransport, Fault

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
BEGAN = datetime(2026, 11, 28, 12, tzinfo=UTC)
SECOND, NONE = timedelta(seconds=1), timedelta()
USER = 42
REPLY_LOST = Fault("closed", method="payment-requests", when="after", count=1)
NEVER_ARRIVED = Fault("closed", method="payment-requests", when="before", count=1)


def fake(*faults: Fault) -> FakeProject:
    return FakeProject(token=CANARY_KEY, per_minute=None, burst=None, faults=faults)


def client(service: FakeProject, **options: Any) -> Project:
    return Project(**service.session_options(), transport=FakeTransport(service), retry=QUICK, **options)


@asynccontextmanager
async def shop(service: FakeProject, ledger: Ledger | None = None) -> AsyncGenerator[Granter]:
    async with Granter(client(service), ledger or MemoryLedger()) as granter:
        yield granter


def plan_of(service: FakeProject) -> str:
    return service.plans[0].plan_id


def test_a_ref_creates_one_payment_request_and_keeps_its_url_and_id(tmp_path: Path, run: Run) -> None:
    service = fake()
    plan = plan_of(service)

    async def scenario() -> None:
        async with shop(service, SqliteLedger(tmp_path / "orders.db")) as granter:
            made = await granter.grant("order-17", plan_id=plan.upper(), member_id=USER)
            [created] = service.payment_requests
            assert (made.status, made.plan_id, made.member_id) == (GrantStatus.GRANTED, plan, USER)
            assert made.link == f"https://checkout.example/{created.payment_request_id}"
            assert made.token is not None
            assert made.token.raw == created.payment_request_id
            with pytest.raises(RefConflict, match=f"plan {plan} and member 42"):
                await granter.grant("order-17", plan_id=service.plans[1].plan_id, member_id=USER)
            with pytest.raises(RefConflict):
                await granter.grant("order-17", plan_id=plan, member_id=USER + 1)
        async with Granter(client(service), SqliteLedger(tmp_path / "orders.db")) as granter:
            again = await granter.grant("order-17", plan_id=plan, member_id=USER)
        assert (again.link, again.status) == (made.link, GrantStatus.GRANTED)
        assert len(service.payment_requests) == 1

    run(scenario)


def test_an_unknown_outcome_is_a_question_and_the_list_answers_it(run: Run) -> None:
    service = fake(REPLY_LOST)

    async def scenario() -> None:
        async with shop(service) as granter:
            for _ in range(2):
                with pytest.raises(GrantHeld) as held:
                    await granter.grant("order-17", plan_id=plan_of(service), member_id=USER)
            assert held.value.grant.error.method == "payment-requests"
            [created] = service.payment_requests
            [finding] = await granter.reconcile()
            assert finding.settled, finding.why
            assert [one.payment_request_id for one in finding.seen] == [created.payment_request_id]  # type: ignore[union-attr]  # of a project
            found = await granter.grant("order-17", plan_id=plan_of(service), member_id=USER)
            assert found.token is not None
            assert found.token.raw == created.payment_request_id
        assert len(service.payment_requests) == 1

    run(scenario)


def test_what_the_list_does_not_show_stays_a_question(run: Run) -> None:
    service = fake(NEVER_ARRIVED)
    service.ask_for_payment(USER + 1, plan_of(service))
    service.ask_for_payment(USER, service.plans[1].plan_id)

    async def scenario() -> None:
        async with shop(service) as granter:
            with pytest.raises(GrantHeld):
                await granter.grant("order-17", plan_id=plan_of(service), member_id=USER)
            [finding] = await granter.reconcile()
            assert not finding.settled
            assert finding.why == "the user has no payment request for this plan that belongs to no other row"
            await granter.resolve("order-17", "retry", reason="not in the list")
            assert (await granter.grant("order-17", plan_id=plan_of(service), member_id=USER)).link

    run(scenario)


def test_the_payment_request_of_another_ref_is_no_proof(run: Run) -> None:
    service = fake()

    async def scenario() -> None:
        async with shop(service) as granter:
            await granter.grant("order-16", plan_id=plan_of(service), member_id=USER)
            service.inject(NEVER_ARRIVED)
            with pytest.raises(GrantHeld):
                await granter.grant("order-17", plan_id=plan_of(service), member_id=USER)
            [finding] = await granter.reconcile()
            assert not finding.settled
            assert "belongs to no other row" in finding.why
            service.inject(REPLY_LOST)
            with pytest.raises(GrantHeld):
                await granter.grant("order-18", plan_id=plan_of(service), member_id=USER)
            findings = await granter.reconcile()
            assert [finding.settled for finding in findings] == [False, False]
            assert "another row" in findings[0].why
            await granter.resolve("order-17", "abandon")
            [finding] = await granter.reconcile()
            assert not finding.settled  # an abandoned row may have created it

    run(scenario)


def test_a_list_that_cannot_be_read_settles_nothing_and_rejected_credentials_end_the_round(run: Run) -> None:
    async def scenario() -> None:
        stub = StubTransport(lost(), refuses(404), refuses(401, "UNAUTHORIZED"))
        async with Granter(project(stub, retry=RetryPolicy(attempts=1)), MemoryLedger()) as granter:
            assert await granter.reconcile() == []
            with pytest.raises(GrantHeld):
                await granter.grant("order-17", plan_id=PLAN, member_id=USER)
            [finding] = await granter.reconcile()
            assert not finding.settled
            assert "the service could not be asked" in finding.why
            with pytest.raises(Unauthorized):
                await granter.reconcile()

    run(scenario)


def test_a_refusal_is_kept_and_a_reply_of_unknown_shape_counts_as_created(run: Run) -> None:
    async def scenario() -> None:
        stub = StubTransport(refuses(404), says("https://pay.example/1", 201), says(status=204))
        async with Granter(project(stub), MemoryLedger()) as granter:
            for _ in range(2):
                with pytest.raises(NotFound):
                    await granter.grant("order-17", plan_id=PLAN, member_id=USER)
            made = await granter.grant("order-18", plan_id=PLAN, member_id=USER)
            assert made.token is not None
            assert (made.link, made.token.raw) == (None, "https://pay.example/1")
            with pytest.raises(GrantHeld, match="no accepted shape"):
                await granter.grant("order-19", plan_id=PLAN, member_id=USER)
        assert len(stub.requests) == 3

    run(scenario)


def test_ids_in_upper_case_are_the_same(run: Run) -> None:
    async def scenario() -> None:
        now = datetime.now(UTC)
        row = {"id": OTHER.upper(), "user_id": str(USER), "plan_id": PLAN.upper(), "status": "pending"}
        dated = {"date": format_datetime(now, usegmt=True)}
        stub = StubTransport(lost(), says([{**row, "created_at": now.isoformat()}], headers=dated, total=1))
        async with Granter(project(stub), MemoryLedger()) as granter:
            with pytest.raises(GrantHeld):
                await granter.grant("order-17", plan_id=PLAN, member_id=USER)
            [finding] = await granter.reconcile()
            assert finding.settled, finding.why

    run(scenario)


def test_plans_of_the_other_platform_are_refused_before_anything_is_recorded(run: Run) -> None:
    async def scenario() -> None:
        stub, ledger = StubTransport(), MemoryLedger()
        async with Granter(Session(1, "k" * 40, transport=stub), ledger) as bot:
            for refused in (bot.grant, bot.plan):
                with pytest.raises(InvalidValue, match="a Session takes the int of its plan"):
                    await refused("a", plan_id=PLAN, member_id=USER)
            with pytest.raises(InvalidValue, match="a Session takes"):
                await bot.provision([GrantRequest("a", PLAN, USER)])
            assert await ledger.count() == {}
        async with Granter(project(stub), MemoryLedger()) as shop:
            with pytest.raises(InvalidValue, match="a Project takes the UUID of its plan"):
                await shop.grant("a", plan_id=1, member_id=USER)
            for nobody in (None, 10**18):
                with pytest.raises(InvalidValue, match="member_id must be a Telegram user id"):
                    await shop.plan("a", plan_id=PLAN, member_id=nobody)
            assert [grant async for grant in shop.grants()] == []
        with pytest.raises(InvalidValue, match="a plan_id that is not an int must be a UUID"):
            GrantRequest("a", "1", USER)
        async with Session(1, "k" * 40, transport=stub) as tg:
            with pytest.raises(UsageError, match="plan_id must be a positive int"):
                await tg.add_member(PLAN)  # type: ignore[arg-type]  # what is refused
        assert stub.requests == []

    run(scenario)


def test_a_ledger_belongs_to_one_project(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "orders.db"

    async def scenario() -> None:
        async with Granter(project(StubTransport()), SqliteLedger(path)) as granter:
            await granter.plan("a", plan_id=PLAN, member_id=USER)
        other = Project(OTHER, CANARY_KEY, transport=StubTransport())
        with pytest.raises(UsageError, match=r"belongs to project 6f1c1f6e-9d4b-4c5… at .*, and this is project 9999"):
            await Granter(other, SqliteLedger(path)).open()
        bot = Session(1, "k" * 40, transport=StubTransport())
        with pytest.raises(UsageError, match="and this is bot 1 at"):
            await Granter(bot, SqliteLedger(path)).open()

    run(scenario)


def test_projects_that_share_a_ledger_see_their_own_rows(run: Run) -> None:
    ledger = MemoryLedger(shared_by_bots=True)

    async def scenario() -> None:
        other = Project(OTHER, CANARY_KEY, transport=StubTransport())
        async with Granter(project(StubTransport()), ledger) as one, Granter(other, ledger) as two:
            for granter in (one, two):
                await granter.plan("a", plan_id=PLAN, member_id=USER)
                assert [grant.ref async for grant in granter.grants()] == ["a"]
            assert "for project 6f1c1f6e-9d4b-4c5…" in repr(one.ledger)
            assert len({grant.ref async for grant in ledger.grants()}) == 2

    run(scenario)


def test_a_fulfillment_sends_the_link_to_the_user_who_pays(run: Run) -> None:
    service = fake()
    delivered: list[Any] = []

    async def scenario() -> None:
        sent = anyio.Event()

        async def deliver(grant: Any) -> None:
            delivered.append(grant.link)
            sent.set()

        async def attention(grant: Any) -> None:
            raise AssertionError(grant)

        granter = Granter(client(service), MemoryLedger())
        async with Fulfillment(granter, deliver=deliver, attention=attention) as fulfillment:
            await fulfillment.take("order-17", plan_id=plan_of(service), member_id=USER)
            await sent.wait()
        assert delivered == [f"https://checkout.example/{service.payment_requests[0].payment_request_id}"]

    run(scenario)


def request(after: timedelta | None, number: int = 1, **other: Any) -> PaymentRequest:
    created = None if after is None else BEGAN + after
    given = {"user_id": USER, "plan_id": PLAN, "status": "pending", "created_at": created, "url": "https://pay/1"}
    return PaymentRequest(f"00000000-0000-4000-8000-{number:012}", **{**given, **other})


EXACT = Offset(NONE, NONE)
AHEAD = Offset(timedelta(hours=1), timedelta(hours=1) + SECOND)


@pytest.mark.parametrize(
    ("seen", "rivals", "offset", "proved", "why"),
    [
        ([request(NONE)], 1, EXACT, True, "was created at 2026-11-28 12:00:00"),
        ([request(WINDOW)], 1, EXACT, True, "was created at"),
        ([request(NONE, status="Completed", plan_id=PLAN.upper())], 1, EXACT, True, "was created at"),
        ([request(-SECOND)], 1, EXACT, True, "was created at"),  # a time may have been cut to whole seconds
        ([request(-2 * SECOND)], 1, EXACT, False, "no payment request of this user"),
        ([request(WINDOW + SECOND)], 1, EXACT, False, "no payment request of this user"),
        ([request(timedelta(hours=1))], 1, AHEAD, True, "was created at"),
        ([request(NONE)], 1, AHEAD, False, "no payment request of this user"),
        ([request(NONE), request(-WINDOW, 2)], 1, EXACT, True, "was created at"),
        ([request(NONE), request(SECOND, 2)], 1, EXACT, False, "more than one"),
        ([request(NONE), request(None, 2)], 1, EXACT, False, "does not say when"),
        ([request(NONE)], 2, EXACT, False, "another row"),
        ([request(NONE)], 1, None, False, "no Date"),
        ([request(NONE, status="expired")], 1, EXACT, False, "no payment request for this plan"),
        ([request(NONE, status=None)], 1, EXACT, False, "no payment request for this plan"),
        ([request(NONE, plan_id=OTHER)], 1, EXACT, False, "no payment request for this plan"),
        ([request(NONE, plan_id=None)], 1, EXACT, False, "no payment request for this plan"),
        ([request(NONE, 7)], 1, EXACT, False, "no payment request for this plan"),
        ([], 1, EXACT, False, "no payment request for this plan"),
    ],
)
def test_what_proves_that_an_attempt_created_a_payment_request(
    seen: list[PaymentRequest], rivals: int, offset: Offset | None, why: str, *, proved: bool
) -> None:
    others = {request(NONE, 7).payment_request_id}
    token, told = created_by(PLAN, BEGAN, seen, others=others, rivals=rivals, offset=offset)
    assert (token is not None, why in told) == (proved, True), told
    if token is not None:
        assert (token.link, token.raw) == ("https://pay/1", seen[0].payment_request_id)


def test_a_row_that_was_decided_without_its_payment_request_is_a_rival(run: Run) -> None:
    service = fake(REPLY_LOST, REPLY_LOST)

    async def scenario() -> None:
        async with shop(service) as granter:
            for ref in ("order-16", "order-17"):
                with pytest.raises(GrantHeld):
                    await granter.grant(ref, plan_id=plan_of(service), member_id=USER)
            await granter.resolve("order-16", "granted")
            [finding] = await granter.reconcile()
            assert not finding.settled
            assert "another row" in finding.why

    run(scenario)


def test_both_kinds_of_plans_are_counted_in_one_order(run: Run) -> None:
    async def scenario() -> None:
        async with MemoryLedger() as ledger:
            for ref, plan in (("a", PLAN), ("b", 10), ("c", 9), ("d", OTHER)):
                await ledger.claim(GrantRequest(ref, plan, USER))
                await ledger.settle(ref, Settlement(GrantStatus.GRANTED))
            assert [day.plan_id for day in await ledger.count_by_day()] == [9, 10, PLAN, OTHER]

    run(scenario)
