"""The Granter: one exchange for each ref, whoever asks, cancels or repeats."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, lost, not_sent, reply

from tgmembership_async import (
    Forbidden,
    GrantError,
    GrantHeld,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    RefConflict,
    Request,
    Response,
    RetryPolicy,
    Session,
    Unauthorized,
    UsageError,
)
from tgmembership_async.grants import Decision, DecisionMade, Grant, Granter, GrantRequest, GrantStatus, MemoryLedger
from tgmembership_async.grants.exchange import settlement_of
from tgmembership_async.grants.model import Settlement
from tgmembership_async.testing import FakeService, FakeTransport
from tgmembership_async.values.models import AccessToken

REF = "stripe:pi_1"


def granted(token: str = "tok") -> Response:
    return reply(f'{{"ok": true, "code": 200, "result": "{token}"}}')


def session(transport: Any, **options: Any) -> Session:
    retry = RetryPolicy(transient_base=0, throttled_base=0)
    return Session(1, CANARY_KEY, transport=transport, **{"retry": retry, **options})


@asynccontextmanager
async def granting(
    *steps: Any,
    ledger: MemoryLedger | None = None,
    regrant_limit: int = 0,
    recording_timeout: float = 5,
    **options: Any,
) -> AsyncIterator[tuple[Granter, StubTransport, MemoryLedger]]:
    transport, ledger = StubTransport(*steps), ledger or MemoryLedger()
    tg = session(transport, **options)
    async with Granter(tg, ledger, regrant_limit=regrant_limit, recording_timeout=recording_timeout) as granter:
        yield granter, transport, ledger


async def statuses(ledger: MemoryLedger) -> list[GrantStatus]:
    return [grant.status async for grant in ledger.grants()]


def on(backend: str, scenario: Any) -> None:
    async def bounded() -> None:
        with anyio.fail_after(60):
            await scenario()

    anyio.run(bounded, backend=backend)


class Held:
    """A service that answers an exchange when the test allows it."""

    def __init__(self) -> None:
        self.arrived = anyio.Event()
        self.release = anyio.Event()

    async def __call__(self, _request: Request) -> Response:
        self.arrived.set()
        await self.release.wait()
        return granted()


async def held_step(held: Held, request: Request) -> Response:
    return await held(request)


def step_of(held: Held) -> Any:
    async def step(request: Request) -> Response:
        return await held(request)

    return step


def test_a_ref_is_sent_once_however_often_it_is_asked(backend: str) -> None:
    async def scenario() -> None:
        async with granting(granted()) as (granter, transport, ledger):
            first = await granter.grant(REF, plan_id=1, member_id=42, note="chat 7")
            again = await granter.grant(REF, plan_id=1, member_id=42)
            assert first == again
            assert (first.status, first.attempts, first.note) == (GrantStatus.GRANTED, 1, "chat 7")
            assert first.token is not None
            assert first.token.token == "tok"
            assert len(transport.requests) == 1
            assert [a.evidence for a in await ledger.attempts(REF)] == ["ok: true"]

    on(backend, scenario)


def test_a_granted_row_has_the_link_of_its_token_and_the_time_of_its_grant(backend: str) -> None:
    async def scenario() -> None:
        link = "https://t.me/bot?start=tok"
        async with granting(granted(link), granted()) as (granter, _, _):
            planned = await granter.plan(REF, plan_id=1)
            linked, coded = await granter.grant(REF, plan_id=1), await granter.grant("r-2", plan_id=1)
            assert (planned.link, linked.link, coded.link) == (None, link, None)
            assert (planned.granted_at, linked.granted_at) == (None, linked.updated_at)

    on(backend, scenario)


def test_the_intent_is_recorded_before_the_request_is_written(backend: str) -> None:
    async def scenario() -> None:
        seen: list[Any] = []
        ledger = MemoryLedger()

        async def look(_request: Request) -> Response:
            seen.append(await ledger.get(REF))
            return granted()

        async with granting(look, ledger=ledger) as (granter, _, _):
            await granter.grant(REF, plan_id=1, member_id=42)
        assert [grant.status for grant in seen] == [GrantStatus.SENDING]

    on(backend, scenario)


def test_callers_of_one_ref_share_one_exchange(backend: str) -> None:
    async def scenario() -> None:
        held, results = Held(), []
        async with granting(step_of(held)) as (granter, transport, _):

            async def ask() -> None:
                results.append(await granter.grant(REF, plan_id=1, member_id=42))

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(ask)
                await held.arrived.wait()
                with pytest.raises(RefConflict):
                    await granter.grant(REF, plan_id=2, member_id=42)
                with pytest.raises(GrantError, match="being sent right now"):
                    await granter.resolve(REF, "retry")
                held.release.set()
            assert len({grant.ref for grant in results}) == 1
            assert len(results) == 5
            assert len(transport.requests) == 1

    on(backend, scenario)


def test_another_plan_or_member_under_a_ref_is_a_conflict(backend: str) -> None:
    async def scenario() -> None:
        async with granting(granted()) as (granter, transport, _):
            await granter.grant(REF, plan_id=1, member_id=42)
            for plan_id, member_id in ((2, 42), (1, 43), (1, None)):
                with pytest.raises(RefConflict):
                    await granter.grant(REF, plan_id=plan_id, member_id=member_id)
                with pytest.raises(RefConflict):
                    await granter.plan(REF, plan_id=plan_id, member_id=member_id)
            assert len(transport.requests) == 1

    on(backend, scenario)


def test_an_unknown_outcome_is_held_until_decided(backend: str) -> None:
    async def scenario() -> None:
        async with granting(lost(), granted()) as (granter, transport, ledger):
            for _ in range(3):
                with pytest.raises(GrantHeld, match=r"granter\.resolve") as held:
                    await granter.grant(REF, plan_id=1, member_id=42)
            assert held.value.grant.status is GrantStatus.UNKNOWN
            assert isinstance(held.value.grant.error, OutcomeUnknown)
            assert len(transport.requests) == 1
            await granter.resolve(REF, "retry", reason="the customer has no link")
            grant = await granter.grant(REF, plan_id=1, member_id=42)
            assert (grant.status, grant.attempts) == (GrantStatus.GRANTED, 2)
            assert [d.reason for d in await ledger.decisions(REF)] == ["the customer has no link"]
            assert [a.status for a in await ledger.attempts(REF)] == [GrantStatus.UNKNOWN, GrantStatus.GRANTED]

    on(backend, scenario)


def test_a_decision_may_bring_the_token(backend: str) -> None:
    async def scenario() -> None:
        async with granting(lost()) as (granter, _, _):
            with pytest.raises(GrantHeld):
                await granter.grant(REF, plan_id=1)
            with pytest.raises(UsageError, match="token goes with"):
                await granter.resolve(REF, "retry", token="x")
            with pytest.raises(UsageError, match="decide 'granted'"):
                await granter.resolve(REF, "maybe")  # type: ignore[arg-type]
            await granter.resolve(REF, "granted", token="found")
            token = (await granter.grant(REF, plan_id=1)).token
            assert token is not None
            assert token.token == "found"
            with pytest.raises(GrantError):
                await granter.resolve(REF, "retry")

    on(backend, scenario)


def test_what_is_abandoned_is_never_granted(backend: str) -> None:
    async def scenario() -> None:
        async with granting(lost(), granted()) as (granter, transport, _):
            with pytest.raises(GrantHeld):
                await granter.grant(REF, plan_id=1)
            await granter.resolve(REF, "abandon", reason="refunded")
            with pytest.raises(GrantError, match="abandoned"):
                await granter.grant(REF, plan_id=1)
            assert len(transport.requests) == 1

    on(backend, scenario)


def test_a_payment_that_is_refunded_before_it_is_sent_is_not_granted(backend: str) -> None:
    async def scenario() -> None:
        async with granting(granted()) as (granter, transport, ledger):
            await granter.plan(REF, plan_id=1)
            grant = await granter.resolve(REF, "abandon", reason="refunded")
            assert grant.status is GrantStatus.ABANDONED
            await granter.run_planned()
            with pytest.raises(GrantError, match="abandoned"):
                await granter.grant(REF, plan_id=1)
            assert [made.reason for made in await ledger.decisions(REF)] == ["refunded"]
            await granter.plan("other", plan_id=1)
            for decision in ("granted", "retry"):
                with pytest.raises(GrantError, match="other is planned"):
                    await granter.resolve("other", decision)
            assert not transport.requests

    on(backend, scenario)


def test_a_grant_that_waits_to_be_sent_again_can_be_abandoned(backend: str) -> None:
    async def scenario() -> None:
        busy = reply("", 429, retry_after="1")
        async with granting(busy, granted()) as (granter, transport, ledger):

            async def grant() -> None:
                with pytest.raises(GrantError, match="abandoned"):
                    await granter.grant(REF, plan_id=1)

            async with anyio.create_task_group() as group:
                group.start_soon(grant)
                while not transport.requests or GrantStatus.PLANNED not in await statuses(ledger):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                await granter.resolve(REF, "abandon", reason="refunded")
            assert len(transport.requests) == 1

    on(backend, scenario)


def test_a_refusal_is_stored_and_raised_again(backend: str) -> None:
    async def scenario() -> None:
        no = reply('{"ok": false, "code": 404, "description": "no such plan", "request_id": "r1"}')
        async with granting(no) as (granter, transport, _):
            for _ in range(2):
                with pytest.raises(NotFound, match="no such plan") as refused:
                    await granter.grant(REF, plan_id=9)
                assert refused.value.request_id == "r1"
            assert len(transport.requests) == 1

    on(backend, scenario)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (not_sent(), NotSent),
        (reply("", 429, retry_after="3600"), RateLimited),
        (reply('{"ok": false, "code": 401}'), Unauthorized),
    ],
)
def test_what_did_nothing_leaves_the_row_planned(step: Any, error: type[Exception], backend: str) -> None:
    async def scenario() -> None:
        async with granting(step) as (granter, transport, ledger):
            with pytest.raises(error):
                await granter.grant(REF, plan_id=1, member_id=42)
            row = await ledger.get(REF)
            assert row is not None
            assert (row.status, type(row.error)) == (GrantStatus.PLANNED, error)
            sent = len(transport.requests)
            with pytest.raises((error, RateLimited)):
                await granter.grant(REF, plan_id=1, member_id=42)
            assert len(transport.requests) > sent or error is RateLimited

    on(backend, scenario)


def test_a_row_that_was_planned_again_is_granted_by_the_next_call(backend: str) -> None:
    async def scenario() -> None:
        async with granting(not_sent(), granted(), retry=RetryPolicy(attempts=1)) as (granter, _, _):
            with pytest.raises(NotSent):
                await granter.grant(REF, plan_id=1)
            assert (await granter.grant(REF, plan_id=1)).attempts == 2

    on(backend, scenario)


async def test_a_cancelled_caller_does_not_stop_the_exchange() -> None:
    for cancel in ("task", "wait_for", "timeout"):
        held = Held()
        async with granting(step_of(held)) as (granter, transport, ledger):

            async def ask(granter: Granter = granter) -> Any:
                return await granter.grant(REF, plan_id=1, member_id=42)

            if cancel == "task":
                task = asyncio.create_task(ask())
                await held.arrived.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif cancel == "wait_for":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ask(), 0.5)
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await ask()
            row = await ledger.get(REF)
            assert row is not None
            assert row.status is GrantStatus.SENDING
            held.release.set()
            assert (await ask()).status is GrantStatus.GRANTED
            assert len(transport.requests) == 1


async def test_the_first_of_two_callers_may_be_cancelled() -> None:
    held = Held()
    async with granting(step_of(held)) as (granter, transport, _):
        first = asyncio.create_task(granter.grant(REF, plan_id=1, member_id=42))
        await held.arrived.wait()
        second = asyncio.create_task(granter.grant(REF, plan_id=1, member_id=42))
        await asyncio.sleep(0)
        first.cancel()
        held.release.set()
        assert (await second).status is GrantStatus.GRANTED
        assert len(transport.requests) == 1
        with pytest.raises(asyncio.CancelledError):
            await first


def test_on_trio_the_exchange_is_shielded() -> None:
    async def scenario() -> None:
        held = Held()
        async with granting(step_of(held)) as (granter, _, ledger):
            async with anyio.create_task_group() as group:

                async def release() -> None:
                    await held.arrived.wait()
                    group.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.02)
                    held.release.set()

                group.start_soon(release)
                await granter.grant(REF, plan_id=1)
            row = await ledger.get(REF)
            assert row is not None
            assert row.status is GrantStatus.GRANTED

    on("trio", scenario)


async def test_closing_waits_for_the_exchange() -> None:
    held = Held()
    transport, ledger = StubTransport(step_of(held)), MemoryLedger()
    granter = await Granter(session(transport), ledger).open()
    task = asyncio.create_task(granter.grant(REF, plan_id=1))
    await held.arrived.wait()
    asyncio.get_running_loop().call_later(0.05, held.release.set)
    await granter.aclose()
    assert (await task).status is GrantStatus.GRANTED
    assert not ledger.is_open


async def test_closing_does_not_wait_for_what_is_not_on_the_wire() -> None:
    ledger = MemoryLedger()
    slow = RetryPolicy(transient_base=1000, backoff_cap=1000)
    granter = await Granter(session(StubTransport(not_sent()), retry=slow, deadline=10_000), ledger).open()
    task = asyncio.create_task(granter.grant(REF, plan_id=1))
    await asyncio.sleep(0.02)
    async with asyncio.timeout(2):
        await granter.aclose()
    with pytest.raises(UsageError, match="closed"):
        await task
    async with ledger:
        row = await ledger.get(REF)
    assert row is not None
    assert row.status is GrantStatus.PLANNED


@pytest.mark.parametrize("mine", [True, False])
async def test_closing_waits_no_longer_than_the_grant_timeout(*, mine: bool) -> None:
    held, ledger = Held(), MemoryLedger()
    tg = session(StubTransport(step_of(held)), grant_timeout=0.05)
    if not mine:
        await tg.open()
    granter = await Granter(tg, ledger).open()
    # The Session's own bound on the exchange is the same; make it not matter.
    task = asyncio.create_task(granter.grant(REF, plan_id=1))
    await held.arrived.wait()
    async with asyncio.timeout(2):
        await granter.aclose()
    with pytest.raises(GrantHeld):
        await task
    await tg.aclose()
    async with ledger:
        row = await ledger.get(REF)
    assert row is not None
    assert row.status is GrantStatus.UNKNOWN


async def test_it_enters_what_nobody_entered_and_leaves_only_that() -> None:
    tg, ledger = session(StubTransport(granted())), MemoryLedger()
    async with tg, ledger:
        async with Granter(tg, ledger) as granter:
            await granter.grant(REF, plan_id=1)
        assert tg.is_open
        assert ledger.is_open
    other = Granter(session(StubTransport()), MemoryLedger())
    with pytest.raises(UsageError, match="async with"):
        await other.grant(REF, plan_id=1)
    async with other:
        with pytest.raises(UsageError, match="open already"):
            await other.open()


async def test_a_session_that_cannot_be_opened_leaves_the_ledger_closed() -> None:
    tg, ledger = session(StubTransport()), MemoryLedger()
    await tg.open()
    await tg.aclose()
    with pytest.raises(UsageError):
        await Granter(tg, ledger).open()
    assert not ledger.is_open


@pytest.mark.parametrize(
    "wrong",
    [
        {"ref": ""},
        {"ref": " x"},
        {"ref": "a\nb"},
        {"ref": 5},
        {"ref": "x" * 1001},
        {"plan_id": 0},
        {"plan_id": "1"},
        {"member_id": -1},
        {"note": 5},
        {"note": "x" * 1001},
        {"note": "\0"},
        {"note": "\ud800"},
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_recorded(wrong: dict[str, Any]) -> None:
    async with granting() as (granter, transport, ledger):
        with pytest.raises(UsageError):
            await granter.grant(**{"ref": REF, "plan_id": 1, **wrong})
        assert transport.requests == []
        assert [grant async for grant in ledger.grants()] == []


def test_what_it_is_made_of_is_checked() -> None:
    for args, options in (
        ((None, MemoryLedger()), {}),
        ((session(StubTransport()), None), {}),
        ((session(StubTransport()), MemoryLedger()), {"regrant_limit": -1}),
        ((session(StubTransport()), MemoryLedger()), {"regrant_limit": True}),
    ):
        with pytest.raises(UsageError):
            Granter(*args, **options)


def test_a_planned_ref_is_carried_out_later(backend: str) -> None:
    async def scenario() -> None:
        async with granting(granted()) as (granter, transport, _):
            for n in range(5):
                row = await granter.plan(f"order:{n}", plan_id=1, member_id=n + 1, note="n")
                assert row.status is GrantStatus.PLANNED
            assert transport.requests == []
            summary = await granter.run_planned()
            assert summary.granted == 5
            assert len(transport.requests) == 5
            assert (await granter.run_planned()).granted == 0

    on(backend, scenario)


def test_who_paid_and_has_no_link_is_listed_in_pages_until_it_is_delivered_or_abandoned(backend: str) -> None:
    """One row of each status, the oldest first."""
    refused = reply('{"ok": false, "code": 403, "description": "no"}', 403)

    async def scenario() -> None:
        async with granting(granted(), granted(), refused, lost(), lost()) as (granter, _, _ledger):
            await granter.grant("granted", plan_id=1)
            await granter.grant("delivered", plan_id=1)
            await granter.mark_delivered("delivered")
            for ref in ("refused", "unknown", "abandoned"):
                with pytest.raises((Forbidden, GrantHeld)):
                    await granter.grant(ref, plan_id=1)
            await granter.resolve("abandoned", "abandon")
            await granter.plan("planned", plan_id=1)
            owed = [grant.ref async for grant in granter.owed()]
            assert owed == ["granted", "refused", "unknown", "planned"]
            assert [grant.ref async for grant in granter.owed(after="refused")] == ["unknown", "planned"]
            assert [grant.ref async for grant in granter.owed(after="delivered")] == ["refused", "unknown", "planned"]
            assert [grant async for grant in granter.owed(datetime.now(UTC) + timedelta(hours=1))] == []
            with pytest.raises(GrantError, match="no grant with the ref"):
                await anext(granter.owed(after="another"))

    on(backend, scenario)


def test_links_are_listed_until_they_are_delivered_and_then_wiped(backend: str) -> None:
    async def scenario() -> None:
        async with granting(granted()) as (granter, _, ledger):
            for n in range(3):
                await granter.grant(f"r{n}", plan_id=1)
            await granter.mark_delivered("r1")
            await granter.mark_delivered("r1")
            assert [grant.ref async for grant in granter.undelivered()] == ["r0", "r2"]
            assert [grant.ref async for grant in granter.grants(status="delivered")] == ["r1"]
            assert [grant.ref async for grant in granter.grants(status=["granted", GrantStatus.DELIVERED])] == [
                "r0",
                "r1",
                "r2",
            ]
            assert [g async for g in granter.grants(since=datetime.now(UTC) + timedelta(hours=1))] == []
            assert await granter.purge(delivered_before=datetime.now(UTC) + timedelta(hours=1)) == 1
            row = await ledger.get("r1")
            assert row is not None
            assert row.token is None
            with pytest.raises(UsageError, match="aware"):
                await granter.purge(delivered_before=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake
            with pytest.raises(UsageError, match="aware"):
                _ = [g async for g in granter.grants(since=datetime(2026, 1, 1))]  # noqa: DTZ001 - the mistake
            with pytest.raises(UsageError, match="status is one of"):
                _ = [g async for g in granter.grants(status="lost")]
            with pytest.raises(GrantError):
                await granter.mark_delivered("nobody")

    on(backend, scenario)


def test_an_operator_may_prefer_a_wasted_token(backend: str) -> None:
    async def scenario() -> None:
        async with granting(lost(), lost(), granted(), regrant_limit=2) as (granter, transport, ledger):
            assert (await granter.grant(REF, plan_id=1)).attempts == 3
            assert len(transport.requests) == 3
            assert [d.reason for d in await ledger.decisions(REF)] == ["regrant_limit"] * 2
        async with granting(lost(), regrant_limit=2) as (granter, transport, _):
            with pytest.raises(GrantHeld):
                await granter.grant(REF, plan_id=1)
            assert len(transport.requests) == 3

    on(backend, scenario)


class DecidedFirst(MemoryLedger):
    """A ledger in which the owner decides about each row right before the Granter does."""

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        if reason == "regrant_limit":
            await super().decide(ref, "granted", None, "the owner found the member in the chat")
        return await super().decide(ref, decision, token, reason)


def test_a_decision_that_comes_before_the_automatic_one_stands(backend: str) -> None:
    async def scenario() -> None:
        async with granting(lost(), ledger=DecidedFirst(), regrant_limit=1) as (granter, transport, ledger):
            assert (await granter.grant(REF, plan_id=1)).status is GrantStatus.GRANTED
            summary = await granter.provision([GrantRequest(f"r{n}", 1, n + 1) for n in range(20)])
            assert (summary.duplicates, summary.stopped) == (20, None)
            assert len(transport.requests) == 21
            assert [made.decision for made in await ledger.decisions(REF)] == ["granted"]

    on(backend, scenario)


class Overtaken(MemoryLedger):
    """A ledger in which another worker carries out `meanwhile` after the automatic decisions were read."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def decisions(self, ref: str) -> list[DecisionMade]:
        made = await super().decisions(ref)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return made


@pytest.mark.parametrize("answer", ["lost", "granted"])
def test_two_workers_send_an_unknown_row_again_no_more_often_than_the_limit(answer: str, backend: str) -> None:
    """The other one sends it between this one's count of the automatic decisions and its own decision."""

    async def scenario() -> None:
        ledger = Overtaken()
        again = StubTransport(granted() if answer == "granted" else lost())
        async with (
            granting(lost(), ledger=ledger, regrant_limit=1) as (granter, transport, _),
            Granter(session(again), ledger, regrant_limit=1) as other,
        ):

            async def meanwhile() -> None:
                with suppress(GrantHeld):
                    await other.grant(REF, plan_id=1)

            ledger.meanwhile = meanwhile
            if answer == "granted":
                assert (await granter.grant(REF, plan_id=1)).attempts == 2
            else:
                with pytest.raises(GrantHeld) as held:
                    await granter.grant(REF, plan_id=1)
                assert held.value.grant.attempts == 2
            assert (len(transport.requests), len(again.requests)) == (1, 1)
            assert len(await ledger.decisions(REF)) == 1

    on(backend, scenario)


def test_a_row_that_was_sent_again_meanwhile_is_returned_as_it_is_now(backend: str) -> None:
    """The limit is reached, and the owner lets another worker send it once more."""

    async def scenario() -> None:
        ledger = Overtaken()
        async with (
            granting(lost(), ledger=ledger, regrant_limit=1) as (granter, transport, _),
            Granter(session(StubTransport(granted())), ledger) as other,
        ):
            with pytest.raises(GrantHeld):
                await granter.grant(REF, plan_id=1)

            async def meanwhile() -> None:
                await other.resolve(REF, "retry")
                await other.grant(REF, plan_id=1)

            ledger.meanwhile = meanwhile
            assert (await granter.grant(REF, plan_id=1)).status is GrantStatus.GRANTED
            assert len(transport.requests) == 2

    on(backend, scenario)


class Stubborn(MemoryLedger):
    """A ledger whose disk is full when results are recorded."""

    async def settle(self, ref: str, settlement: Settlement) -> Any:
        del ref, settlement
        raise OSError(28, "No space left on device")


async def test_an_answer_that_cannot_be_recorded_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgmembership_async.grants.unrecorded._CALLERS_WAIT", 0)
    async with granting(granted(), ledger=Stubborn(), recording_timeout=0.01) as (granter, _, _):
        with pytest.raises(GrantHeld, match="No space left") as held:
            await granter.grant(REF, plan_id=1)
    assert held.value.grant.token.token == "tok"
    assert "tok" not in str(held.value)


@pytest.mark.parametrize(
    "case", ["proved", "too early", "other plan", "other member", "nobody", "rival", "no member", "no date"]
)
def test_reconciling_settles_only_what_it_can_prove(case: str, backend: str) -> None:
    began = datetime.now(UTC)
    after, before = (began + timedelta(hours=1)).isoformat(), (began - timedelta(hours=1)).isoformat()
    subscriptions: dict[str, list[dict[str, Any]]] = {
        "proved": [{"plan_id": 1, "started_at": after}],
        "rival": [{"plan_id": 1, "started_at": after}],
        "too early": [{"plan_id": 1, "started_at": before}],
        "other plan": [{"plan_id": 2, "started_at": after}],
        "other member": [{"user_id": 43, "plan_id": 1, "started_at": after}],
        "no date": [{"plan_id": 1}],
    }
    seen = subscriptions.get(case, [])

    async def scenario() -> None:
        import json  # noqa: PLC0415

        async def service(request: Request) -> Response:
            if request.method == "addMember":
                return reply("", 500)
            date = format_datetime(datetime.now(UTC), usegmt=True)
            return reply(json.dumps({"ok": True, "code": 200, "result": seen}), date=date)

        async with granting(service) as (granter, _, ledger):
            member = None if case == "no member" else 42
            for ref in (REF, "rival") if case == "rival" else (REF,):
                with pytest.raises(GrantHeld):
                    await granter.grant(ref, plan_id=1, member_id=member)
            finding = (await granter.reconcile())[0]
            assert finding.settled is (case == "proved")
            assert finding.why
            assert len(finding.seen) == (0 if case == "other member" else len(seen))
            row = await ledger.get(REF)
            assert row is not None
            assert row.status is (GrantStatus.GRANTED if case == "proved" else GrantStatus.UNKNOWN)

    on(backend, scenario)


async def test_nothing_unknown_asks_nothing() -> None:
    async with granting() as (granter, transport, _):
        assert await granter.reconcile() == []
        assert transport.requests == []


def test_an_error_that_may_have_been_applied_is_unknown() -> None:
    assert settlement_of(NotSent("x", maybe_applied=True)).status is GrantStatus.UNKNOWN
    with pytest.raises(UsageError):
        Settlement(GrantStatus.SENDING)


async def test_a_bug_before_anything_was_sent_leaves_the_row_planned() -> None:
    async def forbid(_request: Request, _call_next: Any) -> Response:
        raise PermissionError

    async with granting(middleware=[forbid]) as (granter, _, ledger):
        with pytest.raises(PermissionError):
            await granter.grant(REF, plan_id=1)
        row = await ledger.get(REF)
        assert row is not None
        assert row.status is GrantStatus.PLANNED


async def test_a_bug_after_the_exchange_is_never_a_reason_to_send_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with granting(granted()) as (granter, transport, ledger):
        with monkeypatch.context() as patched:
            patched.delattr("tgmembership_async.calls.may_hold_secret")
            with pytest.raises(NameError):
                await granter.grant(REF, plan_id=1)
        with pytest.raises(GrantHeld, match="NameError was raised during the exchange"):
            await granter.grant(REF, plan_id=1)
        row = await ledger.get(REF)
        assert row is not None
        assert row.status is GrantStatus.UNKNOWN
        assert len(transport.requests) == 1


async def test_against_the_fake_service_one_customer_gets_one_token() -> None:
    service = FakeService(api_key=CANARY_KEY)
    tg = Session(service.bot_id, CANARY_KEY, transport=FakeTransport(service))
    async with Granter(tg, MemoryLedger()) as granter:
        results = await asyncio.gather(*(granter.grant(REF, plan_id=1, member_id=42) for _ in range(50)))
    assert len(service.audit) == 1
    assert {grant.token.token for grant in results if grant.token} == {service.audit[0].token}


def test_requests_are_checked_when_made() -> None:
    with pytest.raises(UsageError):
        GrantRequest("r", 0)
