"""The join: who has paid for what, however late the project tells it, and never lost if it does not tell it."""

import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from sqlite3 import connect
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from own_schema import own_schema
from project.projects import refuses
from stub_transport import StubTransport
from webhook_deliveries import Clock

from tgmembership_async import RetryPolicy
from tgmembership_async.errors import UsageError
from tgmembership_async.project import Project
from tgmembership_async.project.models import PaymentRequest
from tgmembership_async.testing import Courier, FakeProject, FakeTransport, Fault
from tgmembership_async.values.money import Money
from tgmembership_async.webhooks import (
    BalanceToppedUp,
    EntryStatus,
    Event,
    HandlingPolicy,
    MembershipPaid,
    PaymentRequestCompleted,
    PaymentUnexplained,
    PostgresInbox,
    ProjectVerifier,
    Receiver,
    SqliteInbox,
    Verifier,
)
from tgmembership_async.webhooks.joining import is_top_up

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
MakeInbox = Callable[[], SqliteInbox | PostgresInbox]
POLICY = HandlingPolicy(max_waits=3, max_attempts=3)
URL = "https://shop.example/"
OTHER_ID = "99999999-2222-4333-8444-555555555555"


@pytest.fixture(params=["sqlite", "postgres"])
def make_inbox(request: pytest.FixtureRequest, quick_path: Path) -> Iterator[MakeInbox]:
    """Yield a function that makes an inbox of the same database again, as after a restart."""
    if request.param == "sqlite":
        yield lambda: SqliteInbox(quick_path / "inbox.db")
    else:
        with own_schema() as url:
            yield lambda: PostgresInbox(url)


class Shop:
    """A fake project, whose webhook a Receiver gets, and everything that its handlers were given."""

    def __init__(
        self, *wanted: type[Event], faults: Sequence[Fault] = (), fails: int = 0, policy: Any = POLICY
    ) -> None:
        self.service = FakeProject(faults=faults, per_minute=None, burst=None)
        self.secret = self.service.set_webhook(URL).secret
        self.clock = Clock()
        self.told: list[Event] = []
        self._wanted = wanted or (MembershipPaid, BalanceToppedUp, PaymentUnexplained)
        self._fails = fails
        self._policy = policy

    def project(self) -> Project:
        options = {"transport": FakeTransport(self.service), "retry": RetryPolicy(transient_base=0, throttled_base=0)}
        return Project(**{**self.service.session_options(), **options})

    @asynccontextmanager
    async def open(self, inbox: Any) -> AsyncGenerator[Receiver]:
        """Start the receiver, and deliver what waits in the service's outbox."""
        verifier = ProjectVerifier(self.secret, clock=self.clock)
        receiver = Receiver(
            verifier, inbox, project=self.project(), policy=self._policy, background=False, clock=self.clock
        )
        for kind in self._wanted:
            receiver.on(kind)(self._take)
        async with receiver:
            records = await Courier(self.service, post=_poster(receiver), clock=self.clock).deliver()
            assert {record.status for record in records} <= {200}
            yield receiver

    async def _take(self, event: Event) -> None:
        self.told.append(event)
        if self._fails:
            self._fails -= 1
            raise RuntimeError


def _poster(receiver: Receiver) -> Any:
    async def post(_: str, headers: Any, body: bytes) -> int:
        return (await receiver.handle(headers, body)).status

    return post


def test_a_payment_is_told_with_user_plan_membership_and_amount(make_inbox: MakeInbox, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        payment = shop.service.pay(42)
        async with shop.open(make_inbox()) as receiver:
            await receiver.process_pending()
            assert [entry.status for entry in await receiver.inbox.entries()] == [EntryStatus.DONE]  # type: ignore[union-attr]
        [event], [membership] = shop.told, shop.service.memberships
        assert isinstance(event, MembershipPaid)
        assert (event.payment_request_id, event.user_id, event.plan_id) == (payment, 42, membership.plan.plan_id)
        assert (event.amount, event.plan_name) == (Money(Decimal("9.99"), "EUR"), membership.plan.terms.name)
        assert event.membership.membership_id == membership.membership_id
        assert (event.payment_request.payment_request_id, event.attempt) == (payment, 1)

    run(scenario)


def test_a_top_up_is_told_as_one(make_inbox: MakeInbox, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.service.top_up(42, "5.00")
        async with shop.open(make_inbox()) as receiver:
            await receiver.process_pending()
        [event] = shop.told
        assert isinstance(event, BalanceToppedUp)
        assert (event.user_id, event.amount) == (42, Money(Decimal("5.00"), "EUR"))
        assert "memberships" not in {record.method for record in shop.service.requests}

    run(scenario)


def test_a_payment_waits_across_restarts_for_its_membership(make_inbox: MakeInbox, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        payment = shop.service.pay(42, with_membership=False)
        for restart in range(1, 3):
            async with shop.open(make_inbox()) as receiver:
                assert await receiver.process_pending() == 1
                assert await receiver.process_pending() == 0, "it is not due"
                [entry] = await receiver.inbox.entries()  # type: ignore[union-attr]
            assert (entry.status, entry.waits, entry.attempts) == (EntryStatus.STORED, restart, 0)
            assert entry.note == (
                "waits for its payment: no membership of the user names this payment request (request_type membership)"
            )
            assert entry.due_at is not None
            assert 0 < entry.due_at.timestamp() - shop.clock() <= POLICY.backoff(restart, 0)
            shop.clock.now += 10
        shop.service.give_membership(payment)
        async with shop.open(make_inbox()) as receiver:
            await receiver.process_pending()
            [entry] = await receiver.inbox.entries()  # type: ignore[union-attr]
        [event] = shop.told
        assert isinstance(event, MembershipPaid)
        assert (event.attempt, entry.status, entry.waits, entry.note) == (1, EntryStatus.DONE, 2, "")

    run(scenario)


def test_after_the_last_wait_it_is_told_that_it_could_not_be_told(make_inbox: MakeInbox, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.service.pay(42, with_membership=False)
        async with shop.open(make_inbox()) as receiver:
            for _ in range(POLICY.max_waits):
                await receiver.process_pending()
                assert shop.told == []
                shop.clock.now += 100
            await receiver.process_pending()
            [entry] = await receiver.inbox.entries()  # type: ignore[union-attr]
        [event] = shop.told
        assert isinstance(event, PaymentUnexplained)
        assert (event.user_id, event.plan_id) == (42, shop.service.plans[0].plan_id)
        assert event.payment_request is not None
        assert "no membership" in event.reason
        assert (entry.status, entry.attempts) == (EntryStatus.DONE, 1)

    run(scenario)


def test_what_nobody_takes_becomes_a_dead_letter_that_can_be_retried(make_inbox: MakeInbox, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(MembershipPaid)
        payment = shop.service.pay(42, with_membership=False)
        async with shop.open(make_inbox()) as receiver:
            assert receiver.inbox is not None
            for _ in range(POLICY.max_waits + POLICY.max_attempts):
                await receiver.process_pending()
                shop.clock.now += 100
            [entry] = await receiver.inbox.entries()
            assert (entry.status, entry.note) == (
                EntryStatus.DEAD,
                "no handler is registered for PaymentUnexplained",
            )
            await receiver.inbox.retry(entry.id)
            await receiver.process_pending()
            [entry] = await receiver.inbox.entries()
            assert (entry.status, entry.waits, entry.attempts) == (EntryStatus.STORED, 1, 0), "it waits anew"
            shop.service.give_membership(payment)
            shop.clock.now += 100
            await receiver.process_pending()
        assert [type(event) for event in shop.told] == [MembershipPaid]

    run(scenario)


def test_a_handler_that_fails_is_tried_again_as_for_any_event(make_inbox: MakeInbox, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(fails=POLICY.max_attempts)
        shop.service.pay(42)
        async with shop.open(make_inbox()) as receiver:
            for _ in range(POLICY.max_attempts):
                await receiver.process_pending()
                shop.clock.now += 100
            assert [entry.status for entry in await receiver.inbox.entries()] == [EntryStatus.DEAD]  # type: ignore[union-attr]
        assert [event.attempt for event in shop.told] == [1, 2, 3]
        assert {type(event) for event in shop.told} == {MembershipPaid}

    run(scenario)


def test_an_outage_of_the_service_is_waited_for(quick_path: Path, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(faults=[Fault("error", status=500, count=12)])
        shop.service.pay(42)
        async with shop.open(SqliteInbox(quick_path / "inbox.db")) as receiver:
            await receiver.process_pending()
            [entry] = await receiver.inbox.entries()  # type: ignore[union-attr]
            assert (entry.waits, entry.attempts) == (1, 0)
            assert entry.note.startswith("waits for its payment: the project could not be asked: ")
            while not shop.told:
                shop.clock.now += 100
                await receiver.process_pending()
        assert [type(event) for event in shop.told] == [MembershipPaid]

    run(scenario)


async def _deliver(receiver: Receiver, shop: Shop, **data: Any) -> None:
    """Deliver an event that the fake service would not send."""
    body = json.dumps({"id": OTHER_ID, "event": "payment-request.completed", "data": data}).encode()
    headers = shop.service.sign_delivery(body, shop.secret, timestamp=shop.clock(), nonce=None)
    assert (await receiver.handle(headers, body)).status == 200


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "the event names no payment request"),
        ({"payment_request_id": "../users"}, "the event names no payment request"),
        ({"payment_request_id": OTHER_ID, "project_id": OTHER_ID}, "the event is of another project"),
    ],
)
def test_what_can_never_be_told_does_not_wait(data: Any, reason: str, quick_path: Path, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        async with shop.open(SqliteInbox(quick_path / "inbox.db")) as receiver:
            await _deliver(receiver, shop, **data)
            await receiver.process_pending()
        [event] = shop.told
        assert isinstance(event, PaymentUnexplained)
        assert event.reason == reason
        assert shop.service.requests == []

    run(scenario)


def test_a_payment_request_that_is_not_there_yet_is_waited_for(quick_path: Path, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(policy=HandlingPolicy(max_waits=0))
        async with shop.open(SqliteInbox(quick_path / "inbox.db")) as receiver:
            await _deliver(receiver, shop, payment_request_id=OTHER_ID)
            await receiver.process_pending()
        [event] = shop.told
        assert isinstance(event, PaymentUnexplained)
        assert (event.reason, event.user_id) == ("the project has no such payment request", None)

    run(scenario)


def test_a_project_that_hangs_delays_nothing_beyond_the_handler_timeout(quick_path: Path, run: Run) -> None:
    async def scenario() -> None:
        policy = HandlingPolicy(max_waits=0, handler_timeout=0.05)
        shop = Shop(faults=[Fault("latency", seconds=600)], policy=policy)
        shop.service.pay(42)
        async with shop.open(SqliteInbox(quick_path / "inbox.db")) as receiver:
            await receiver.process_pending()
        [event] = shop.told
        assert isinstance(event, PaymentUnexplained)
        assert event.reason == "the project did not answer within 0.05 s"

    run(scenario)


def test_whoever_asks_for_the_plain_event_gets_each_payment_once(quick_path: Path, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop(PaymentRequestCompleted)
        shop.service.pay(42)
        shop.service.top_up(43, "1.00")
        shop.service.outbox.put(shop.service.outbox.events[0])  # at least once (documented)
        async with shop.open(SqliteInbox(quick_path / "inbox.db")) as receiver:
            await receiver.process_pending()
        assert sorted(type(event).__name__ for event in shop.told) == ["BalanceToppedUp", "MembershipPaid"]

    run(scenario)


def test_a_bug_in_the_projects_middleware_does_not_end_the_worker(quick_path: Path, run: Run) -> None:
    class Broken(Shop):
        def project(self) -> Project:
            async def fails(*_: Any) -> Any:
                raise ZeroDivisionError

            return Project(**self.service.session_options(), transport=FakeTransport(self.service), middleware=[fails])

    async def scenario() -> None:
        shop = Broken(policy=HandlingPolicy(max_waits=0))
        shop.service.pay(42)
        async with shop.open(SqliteInbox(quick_path / "inbox.db")) as receiver:
            await receiver.process_pending()
        [event] = shop.told
        assert isinstance(event, PaymentUnexplained)
        assert event.reason == "the project could not be asked: ZeroDivisionError"

    run(scenario)


def test_neither_the_token_nor_the_secret_is_in_the_inbox_or_the_log(
    quick_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Echoing(Shop):
        def project(self) -> Project:
            told = refuses(401, message=f"Bearer {CANARY_KEY} is not known")
            return Project(self.service.project_id, CANARY_KEY, transport=StubTransport(*[told] * 9))

    async def scenario() -> None:
        shop = Echoing()
        shop.service.pay(42)
        path = quick_path / "inbox.db"
        async with shop.open(SqliteInbox(path)) as receiver:
            await receiver.process_pending()
            [entry] = await receiver.inbox.entries()  # type: ignore[union-attr]
        assert "401" in entry.note
        assert "is not known" in entry.note
        stored = path.read_bytes()
        for secret in (CANARY_KEY, shop.secret):
            assert secret.encode() not in stored
            assert secret not in caplog.text

    with caplog.at_level(logging.DEBUG):
        run(scenario)


async def test_in_the_background_a_payment_is_told_when_its_membership_appears(quick_path: Path) -> None:
    shop = Shop()
    payment, told = shop.service.pay(42, with_membership=False), anyio.Event()
    policy = HandlingPolicy(backoff_base=0.01, backoff_cap=0.02)
    inbox = SqliteInbox(quick_path / "inbox.db")
    receiver = Receiver(ProjectVerifier(shop.secret), inbox, project=shop.project(), policy=policy)

    @receiver.on(MembershipPaid)
    async def paid(event: MembershipPaid) -> None:
        assert event.user_id == 42
        told.set()

    async with receiver:
        await Courier(shop.service, post=_poster(receiver)).deliver()
        with anyio.fail_after(60):
            while not (await inbox.entries())[0].waits:  # noqa: ASYNC110 - it has no event for it
                await anyio.sleep(0.005)
            shop.service.give_membership(payment)
            await told.wait()


def test_the_inbox_of_an_older_version_is_migrated(quick_path: Path, run: Run) -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.service.pay(42)
        path = quick_path / "inbox.db"
        async with shop.open(SqliteInbox(path)):
            pass
        with closing(connect(path, isolation_level=None)) as file:
            file.execute("ALTER TABLE delivery DROP COLUMN waits")
            file.execute("UPDATE component SET version = version - 1 WHERE name = 'inbox'")
        async with shop.open(SqliteInbox(path)) as receiver:
            assert await receiver.process_pending() == 1
        assert [type(event) for event in shop.told] == [MembershipPaid]

    run(scenario)


@pytest.mark.parametrize(
    ("kind", "plan", "answer"),
    [
        ("balance_topup", None, True),
        ("TOP-UP", None, True),
        ("Deposit", None, True),
        ("balance", "p", False),
        ("membership", None, False),
        (None, None, False),
    ],
)
def test_which_payment_requests_are_top_ups(kind: str | None, plan: str | None, *, answer: bool) -> None:
    assert is_top_up(PaymentRequest("x", 42, plan, request_type=kind)) is answer


def test_what_does_not_fit_together_is_told_at_once(quick_path: Path) -> None:
    shop, inbox = Shop(), SqliteInbox(quick_path / "inbox.db")
    verifier = ProjectVerifier(shop.secret)
    with pytest.raises(UsageError, match="needs an inbox"):
        Receiver(verifier, project=shop.project())
    with pytest.raises(UsageError, match="ProjectVerifier"):
        Receiver(Verifier("s"), inbox, project=shop.project())
    with pytest.raises(UsageError, match="different projects"):
        Receiver(ProjectVerifier(shop.secret, project_id=OTHER_ID), inbox, project=shop.project())
    wrong: Any = "project"
    with pytest.raises(UsageError, match="must be a Project"):
        Receiver(verifier, inbox, project=wrong)
    with pytest.raises(UsageError, match=r"MembershipPaid is found out by asking the project"):
        Receiver(verifier, inbox).on(MembershipPaid)
    with pytest.raises(UsageError, match="max_waits"):
        HandlingPolicy(max_waits=-1)


async def test_the_receiver_opens_and_closes_a_project_unless_it_is_open(quick_path: Path) -> None:
    shop, inbox = Shop(), SqliteInbox(quick_path / "inbox.db")
    own, given = shop.project(), shop.project()
    async with Receiver(ProjectVerifier(shop.secret), inbox, project=own):
        assert own.is_open
    assert not own.is_open
    async with given:
        async with Receiver(ProjectVerifier(shop.secret), inbox, project=given):
            pass
        assert given.is_open
    with pytest.raises(UsageError, match="closed"):
        await Receiver(ProjectVerifier(shop.secret), inbox, project=given).open()
    assert not inbox.is_open
