"""What proves that an unknown grant was made: the rule, and the round that asks about all rows."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_transport import StubTransport, lost, reply

from tgmembership_async import GrantHeld, NotFound, Request, Response, RetryPolicy, Session, Unauthorized, UsageError
from tgmembership_async.grants import Finding, Grant, Granter, GrantStatus, MemoryLedger
from tgmembership_async.grants.reconciling import MARGIN, judged
from tgmembership_async.protocol.service_clock import Offset
from tgmembership_async.values.models import Subscriber

BEGAN = datetime(2026, 11, 28, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
NONE = timedelta()
HALF_A_DAY = st.timedeltas(-timedelta(hours=12), timedelta(hours=12))


def offset(least: timedelta, most: timedelta | None = None) -> Offset:
    return Offset(least, least if most is None else most)


def subscriber(after: timedelta | None, plan_id: int = 1) -> Subscriber:
    return Subscriber(user_id=42, plan_id=plan_id, started_at=None if after is None else BEGAN + after)


@given(true=HALF_A_DAY, now=HALF_A_DAY, corrected=st.booleans(), began=HALF_A_DAY)
def test_no_subscription_older_than_the_attempt_is_proof(
    true: timedelta, now: timedelta, began: timedelta, *, corrected: bool
) -> None:
    """Whatever our clock said, as long as it was no more than the margin behind when nothing tells so any more."""
    behind_at_the_attempt = min(true, MARGIN) if corrected else true
    told = now if corrected else true
    subscription = subscriber(behind_at_the_attempt - SECOND + min(began, NONE))
    proved, why = judged(1, BEGAN, [subscription], rivals=1, offset=offset(told))
    assert not proved
    assert why


@given(slow=HALF_A_DAY, later=st.timedeltas(NONE, timedelta(days=30)))
def test_one_that_began_later_than_any_doubt_is_proof(slow: timedelta, later: timedelta) -> None:
    after = max(slow, NONE) + MARGIN
    assert judged(1, BEGAN, [subscriber(after + later)], rivals=1, offset=offset(-later, slow))[0]
    assert not judged(1, BEGAN, [subscriber(after - SECOND)], rivals=1, offset=offset(-later, slow))[0]


@pytest.mark.parametrize(
    ("seen", "rivals", "known", "proved", "why"),
    [
        ([subscriber(MARGIN)], 1, offset(NONE), True, "after the attempt"),
        ([subscriber(-MARGIN), subscriber(MARGIN)], 1, offset(NONE), True, "after the attempt"),
        ([subscriber(MARGIN - SECOND)], 1, offset(NONE), False, "clocks may differ by 300 s"),
        ([subscriber(2 * MARGIN)], 1, offset(MARGIN, 2 * MARGIN), False, "clocks may differ by 900 s"),
        ([subscriber(MARGIN)], 1, offset(-2 * MARGIN), True, "after the attempt"),
        ([subscriber(2 * MARGIN)], 1, None, False, "no Date"),
        ([subscriber(2 * MARGIN)], 2, offset(NONE), False, "another row"),
        ([subscriber(-SECOND)], 1, None, False, "nothing shows that it began after"),
        ([subscriber(None)], 1, offset(NONE), False, "nothing shows that it began after"),
        ([subscriber(2 * MARGIN, plan_id=2)], 1, offset(NONE), False, "no subscription to this plan"),
        ([], 1, offset(NONE), False, "no subscription to this plan"),
    ],
)
def test_each_reason_is_told(
    seen: list[Subscriber], rivals: int, known: Offset | None, why: str, *, proved: bool
) -> None:
    settled, told = judged(1, BEGAN, seen, rivals=rivals, offset=known)
    assert settled is proved
    assert why in told


class Service:
    """Loses each grant; its clock is ahead of ours by `ahead`, and each member subscribed `before` this moment."""

    def __init__(self, ahead: timedelta = NONE, before: timedelta = NONE, *, dated: bool = True) -> None:
        self.ahead, self.before, self.dated = ahead, before, dated
        self.at_once = self.most_at_once = 0
        self.odd: dict[str, Any] = {}

    async def __call__(self, request: Request) -> Response:
        if request.method == "addMember":
            raise lost()
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await anyio.lowlevel.checkpoint()
        self.at_once -= 1
        now = datetime.now(UTC) + self.ahead
        odd = self.odd.get(str(request.params["user_id"]))
        if odd is not None:
            return reply(json.dumps({"ok": False, "code": odd, "description": "no"}), odd)
        started = [{"plan_id": 1, "started_at": (now - self.before).isoformat()}]
        headers: Any = {"date": format_datetime(now, usegmt=True)} if self.dated else {}
        return reply(json.dumps({"ok": True, "code": 200, "result": started}), **headers)


async def found(service: Service, members: int = 1) -> list[Finding]:
    async def step(request: Request) -> Response:
        return await service(request)

    session = Session(1, "k" * 40, transport=StubTransport(step), retry=RetryPolicy(attempts=1), max_connections=64)
    async with Granter(session, MemoryLedger()) as granter:
        for member in range(1, members + 1):
            with pytest.raises(GrantHeld):
                await granter.grant(f"r{member:02}", plan_id=1, member_id=member)
        return await granter.reconcile()


def test_a_clock_three_minutes_slow_makes_an_older_subscription_no_proof(backend: str) -> None:
    """It began a minute before the attempt, and two minutes after it by our clock."""
    [finding] = anyio.run(found, Service(timedelta(minutes=3), timedelta(minutes=1)), backend=backend)
    assert not finding.settled
    assert finding.grant.status is GrantStatus.UNKNOWN
    assert "clocks may differ by 48" in finding.why


def test_the_service_clock_is_learned_from_the_replies(backend: str) -> None:
    """Twenty minutes slow: more than the margin, and told by the Date."""
    [finding] = anyio.run(found, Service(timedelta(minutes=20), timedelta(minutes=1)), backend=backend)
    assert not finding.settled
    [finding] = anyio.run(found, Service(timedelta(minutes=20), -timedelta(minutes=6)), backend=backend)
    assert finding.settled


def test_replies_without_a_date_settle_nothing(backend: str) -> None:
    [finding] = anyio.run(found, Service(before=-timedelta(hours=1), dated=False), backend=backend)
    assert not finding.settled
    assert "no Date" in finding.why


def test_eight_are_asked_about_at_a_time_and_one_that_fails_is_a_finding(backend: str) -> None:
    service = Service(before=-timedelta(hours=1))
    service.odd = {"7": 500, "9": 404}
    findings = anyio.run(found, service, 20, backend=backend)
    assert service.most_at_once == 8
    assert [finding.grant.ref for finding in findings] == [f"r{number:02}" for number in range(1, 21)]
    failed = [finding for finding in findings if not finding.settled]
    assert [finding.grant.member_id for finding in failed] == [7, 9]
    assert ["500" in failed[0].why, "404" in failed[1].why] == [True, True]
    assert all(finding.grant.status is GrantStatus.GRANTED for finding in findings if finding.settled)


def test_each_member_is_asked_about_once_and_each_finding_is_reported_as_it_is_made(backend: str) -> None:
    """Three rows of one member for plans of their own, and one row without a member."""
    service, made, former = Service(before=-timedelta(hours=1)), list[Finding](), list[Finding]()

    async def scenario() -> list[Finding]:
        async def step(request: Request) -> Response:
            return await service(request)

        transport = StubTransport(step)
        session = Session(1, "k" * 40, transport=transport, retry=RetryPolicy(attempts=1))
        async with Granter(session, MemoryLedger()) as granter:
            for ref, plan_id, member_id in [("a", 1, 7), ("b", 2, 7), ("c", 1, None), ("d", 3, 7)]:
                with pytest.raises(GrantHeld):
                    await granter.grant(ref, plan_id=plan_id, member_id=member_id)
            asked = len(transport.requests)
            with pytest.raises(UsageError):
                await granter.reconcile(concurrency=0)
            findings = await granter.reconcile(concurrency=1, on_finding=made.append)
            assert len(transport.requests) - asked == 1
            with pytest.warns(DeprecationWarning, match="on_finding"):
                assert len(await granter.reconcile(concurrency=1, told=former.append)) == len(former) == 3
            return findings

    findings = anyio.run(scenario, backend=backend)
    assert [(finding.grant.ref, finding.settled) for finding in findings] == [
        ("a", True),
        ("b", False),
        ("c", False),
        ("d", False),
    ]
    assert sorted(finding.grant.ref for finding in made) == ["a", "b", "c", "d"]
    assert "no member" in findings[2].why


class Clock:
    """The clock of the worker, which may be behind."""

    behind = NONE

    def __call__(self) -> datetime:
        return datetime.now(UTC) - self.behind


async def reconciled_around_a_second_payment(clock: Clock, behind: timedelta, *, planned: bool) -> list[Finding]:
    """Reconcile a first payment, while the service grants a second one of the member right before it is asked."""
    service = Service(before=-timedelta(minutes=6))
    again: list[str] = []

    async def step(request: Request) -> Response:
        if request.method == "getSubscribers" and not again:
            again.append("second")
            clock.behind = behind
            await granter.grant("second", plan_id=1, member_id=7)
        if request.method == "addMember" and again:
            return reply(json.dumps({"ok": True, "code": 200, "result": "T" * 24}))
        return await service(request)

    session = Session(1, "k" * 40, transport=StubTransport(step), retry=RetryPolicy(attempts=1))
    async with Granter(session, MemoryLedger(clock=clock)) as granter:
        if planned:
            await granter.plan("second", plan_id=1, member_id=7)
        for ref, member_id in (("first", 7), ("other", 8)):
            with pytest.raises(GrantHeld):
                await granter.grant(ref, plan_id=1, member_id=member_id)
        return await granter.reconcile(concurrency=1)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("behind", [NONE, timedelta(minutes=1)])
def test_a_subscription_from_a_second_payment_during_the_round_is_no_proof_of_the_first(
    behind: timedelta, *, planned: bool, backend: str
) -> None:
    """The customer pays again, gets a link and uses it after the rows were counted and before the service is asked.

    The worker that grants it may have a clock that is behind.
    """
    scenario = partial(reconciled_around_a_second_payment, Clock(), behind, planned=planned)
    first, other = anyio.run(scenario, backend=backend)
    assert (first.grant.ref, first.settled, other.settled) == ("first", False, True)
    assert "another row" in first.why


@pytest.mark.parametrize("then", ["planned", "refused"])
def test_a_subscription_from_the_lost_attempt_of_a_row_that_is_retried_is_no_proof_of_another(
    then: str, backend: str
) -> None:
    """The service carried out the first attempt of B; the owner retries it, and the second attempt may be refused."""
    service = Service(before=-timedelta(hours=1))
    answers = [lost(), lost(), lost()]

    async def scenario() -> tuple[list[Finding], Grant]:
        async def step(request: Request) -> Response:
            if request.method == "addMember" and not answers:
                return reply(json.dumps({"ok": False, "code": 404, "description": "blocked"}), 404)
            if request.method == "addMember":
                raise answers.pop()
            return await service(request)

        session = Session(1, "k" * 40, transport=StubTransport(step), retry=RetryPolicy(attempts=1))
        async with Granter(session, MemoryLedger()) as granter:
            for ref, member_id in (("A", 42), ("B", 42), ("other", 43)):
                with pytest.raises(GrantHeld):
                    await granter.grant(ref, plan_id=1, member_id=member_id)
            await granter.plan("never sent", plan_id=1, member_id=43)
            with pytest.raises(NotFound):
                await granter.grant("refused at once", plan_id=1, member_id=43)
            retried = await granter.resolve("B", "retry")
            if then == "refused":
                with pytest.raises(NotFound):
                    await granter.grant("B", plan_id=1, member_id=42)
                retried = (await granter.get("B")) or retried
            return await granter.reconcile(), retried

    [a, other], b = anyio.run(scenario, backend=backend)
    assert (b.status, b.attempts) == (then, 2 if then == "refused" else 1)
    assert (a.grant.ref, a.settled) == ("A", False)
    assert "another row" in a.why
    assert other.settled


def test_rejected_credentials_end_the_round(backend: str) -> None:
    service = Service(before=-timedelta(hours=1))
    service.odd = {"3": 401}
    with pytest.raises(Unauthorized):
        anyio.run(found, service, 20, backend=backend)
