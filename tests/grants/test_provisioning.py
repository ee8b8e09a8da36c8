"""Bulk runs: every row once, in order of completion, stopped early and resumed, never raising a group."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from itertools import pairwise
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, lost, not_sent, reply

from tgmembership_async import GrantHeld, RefConflict, Request, Response, RetryPolicy, Session, UsageError
from tgmembership_async.grants import Grant, Granter, GrantRequest, GrantStatus, MemoryLedger, provisioning
from tgmembership_async.grants.ledger import Claim
from tgmembership_async.grants.model import Settlement
from tgmembership_async.grants.provisioning import StopReason, Summary
from tgmembership_async.testing import FakeService, FakeTransport, Fault

GRANTED = reply('{"ok": true, "code": 200, "result": "tok"}')


def requests(count: int, start: int = 0) -> list[GrantRequest]:
    return [GrantRequest(f"r{n}", 1, n + 1) for n in range(start, start + count)]


def granter(
    transport: Any, ledger: MemoryLedger | None = None, recording_timeout: float = 5, **options: Any
) -> Granter:
    retry = RetryPolicy(transient_base=0, throttled_base=0)
    tg = Session(1, CANARY_KEY, transport=transport, **{"retry": retry, **options})
    return Granter(tg, ledger or MemoryLedger(), recording_timeout=recording_timeout)


def on(backend: str, scenario: Any) -> None:
    async def bounded() -> None:
        with anyio.fail_after(15):
            await scenario()

    anyio.run(bounded, backend=backend)


@pytest.mark.parametrize("kind", ["list", "generator", "async generator"])
def test_any_input_of_any_length_is_granted_once_each(kind: str, backend: str) -> None:
    def lazily() -> Iterator[GrantRequest]:
        yield from requests(200)

    async def later() -> AsyncIterator[GrantRequest]:
        for request in requests(200):
            await anyio.lowlevel.checkpoint()
            yield request

    async def scenario() -> None:
        transport = StubTransport(GRANTED)
        source: Any = {"list": requests(200), "generator": lazily(), "async generator": later()}[kind]
        async with granter(transport) as g:
            async with g.provision(source, concurrency=7) as run:
                rows = [grant async for grant in run]
            assert run.summary == Summary(granted=200)
        assert {row.ref for row in rows} == {f"r{n}" for n in range(200)}
        assert all(row.status is GrantStatus.GRANTED for row in rows)
        assert len(transport.requests) == 200

    on(backend, scenario)


def test_rows_come_in_order_of_completion(backend: str) -> None:
    async def scenario() -> None:
        first_may_end = anyio.Event()

        async def first_is_slow(request: Request) -> Response:
            if request.params["member_id"] == 1:
                await first_may_end.wait()
            return GRANTED

        async with granter(StubTransport(first_is_slow)) as g, g.provision(requests(3), concurrency=2) as run:
            order = []
            async for grant in run:
                order.append(grant.ref)
                if len(order) == 2:
                    first_may_end.set()
        assert order == ["r1", "r2", "r0"]

    on(backend, scenario)


def test_a_slow_reader_holds_the_senders_back(backend: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(GRANTED)
        async with granter(transport) as g, g.provision(requests(1000), concurrency=4) as run:
            async for _ in run:
                await anyio.sleep(0.01)
                assert len(transport.requests) <= 3 * 4 + 2
                if len(transport.requests) > 10:
                    break

    on(backend, scenario)


def test_many_workers_leave_the_event_loop_turns_for_others(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "_STARTED_IN_ONE_TURN", 10)
    begun = 0

    def wishes() -> Iterator[GrantRequest]:
        nonlocal begun
        for request in requests(100):
            begun += 1
            yield request

    async def scenario() -> None:
        answer = anyio.Event()

        async def slow(_request: Request) -> Response:
            await answer.wait()
            return GRANTED

        async with granter(StubTransport(slow)) as g, g.provision(wishes(), concurrency=100):
            seen = [0]
            while seen[-1] < 100:
                await anyio.lowlevel.checkpoint()
                seen.append(begun)
            answer.set()
            assert max(after - before for before, after in pairwise(seen)) <= 30

    on(backend, scenario)


def test_refused_and_unknown_rows_come_as_rows(backend: str) -> None:
    async def scenario() -> None:
        async def by_member(request: Request) -> Response:
            member = int(request.params["member_id"])
            if member % 3 == 0:
                return reply('{"ok": false, "code": 404, "description": "unknown member"}')
            if member % 3 == 1:
                raise lost()
            return GRANTED

        ledger = MemoryLedger()
        async with granter(StubTransport(by_member), ledger) as g:
            summary = await g.provision(requests(30), concurrency=3)
            assert summary == Summary(granted=10, refused=10, unknown=10)
            again = await g.provision(requests(30), concurrency=3)
            assert again == Summary(already=10, refused=10, unknown=10)

    on(backend, scenario)


def test_a_ref_that_stands_twice_is_granted_once_and_reported(backend: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(GRANTED)
        async with granter(transport) as g:
            summary = await g.provision([*requests(10), *requests(10)], concurrency=4)
            assert summary == Summary(granted=10, duplicates=10)
        assert len(transport.requests) == 10

    on(backend, scenario)


def test_a_conflict_is_a_row_and_no_end(backend: str) -> None:
    async def scenario() -> None:
        async with granter(StubTransport(GRANTED)) as g:
            rows = [GrantRequest("r0", 1, 1), GrantRequest("r0", 2, 1), GrantRequest("r1", 1, 2)]
            async with g.provision(rows, concurrency=1) as run:
                found = [grant async for grant in run]
            assert [type(grant.error) for grant in found] == [type(None), RefConflict, type(None)]
            rejected = found[1]
            assert (rejected.plan_id, rejected.member_id, rejected.token) == (2, 1, None), "the request is told"
            assert run.summary == Summary(granted=2, conflicts=1)

    on(backend, scenario)


class WritesAfterALook(MemoryLedger):
    """A ledger that writes the row of r0 only after somebody has looked for it, as a remote one may."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = anyio.Event()

    async def claim(self, request: GrantRequest) -> Claim:
        if request.ref == "r0":
            await self.looked.wait()
        return await super().claim(request)

    async def get(self, ref: str) -> Grant | None:
        found = await super().get(ref)
        self.looked.set()
        return found


def test_a_conflict_with_a_request_whose_row_is_not_written_yet_is_a_row_and_no_end(backend: str) -> None:
    async def scenario() -> None:
        async with granter(StubTransport(GRANTED), WritesAfterALook()) as g:
            rows = [GrantRequest("r0", 1, 1), GrantRequest("r0", 1, 2), *requests(20, 1)]
            async with g.provision(rows, concurrency=2) as run:
                found = {(grant.ref, grant.member_id): grant async for grant in run}
            assert run.summary == Summary(granted=21, conflicts=1)
            rejected = found["r0", 2]
            assert isinstance(rejected.error, RefConflict)
            assert (rejected.plan_id, rejected.token) == (1, None)

    on(backend, scenario)


def test_rejected_credentials_stop_a_run_that_is_then_resumed(backend: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(GRANTED, GRANTED, reply('{"ok": false, "code": 401, "description": "no"}'))
        async with granter(transport) as g:
            stopped = await g.provision(requests(100), concurrency=1)
            assert stopped == Summary(granted=2, planned=1, stopped=StopReason.CREDENTIALS)
            transport.steps = [GRANTED]
            resumed = await g.provision(requests(100), concurrency=8)
            assert resumed == Summary(already=2, granted=98)

    on(backend, scenario)


def test_a_service_that_answers_500_makes_few_decisions(backend: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(reply("", 500))
        async with granter(transport) as g:
            stopped = await g.provision(requests(10_000), concurrency=16)
            assert stopped.stopped is StopReason.UNKNOWN
            assert 32 <= stopped.unknown <= 32 + 16
            assert len(transport.requests) == stopped.unknown

    on(backend, scenario)


def test_an_empty_budget_stops_a_run_and_leaves_the_bots_own_alone(backend: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(not_sent())
        ledger = MemoryLedger()
        tg = Session(1, CANARY_KEY, transport=transport, retry=RetryPolicy(transient_base=0))
        async with Granter(tg, ledger) as g:
            stopped = await g.provision(requests(10_000), concurrency=4)
            assert stopped.stopped is StopReason.BUDGET
            assert stopped.planned < 60
            assert tg.retry_tokens == 500

    on(backend, scenario)


def test_what_stops_a_run_can_be_chosen(backend: str) -> None:
    async def scenario() -> None:
        async with granter(StubTransport(reply("", 500))) as g:
            summary = await g.provision(requests(60), concurrency=2, stop_on=())
            assert summary == Summary(unknown=60)
            with pytest.raises(ValueError, match="lunch"):
                g.provision([], stop_on=["lunch"])  # type: ignore[list-item]

    on(backend, scenario)


@pytest.mark.parametrize("how", ["break", "raise", "stop"])
def test_leaving_early_finishes_what_is_in_flight(how: str, backend: str) -> None:
    async def scenario() -> None:
        async def slow(_request: Request) -> Response:
            await anyio.sleep(0.01)
            return GRANTED

        transport, ledger = StubTransport(slow), MemoryLedger()
        async with granter(transport, ledger) as g:
            try:
                async with g.provision(requests(1000), concurrency=5) as run:
                    async for _ in run:
                        if how == "break":
                            break
                        if how == "raise":
                            raise KeyError  # noqa: TRY301 - what a body may do
                        run.stop()
            except KeyError:
                assert how == "raise"
            statuses = [grant.status async for grant in g.grants()]
            assert {*statuses} <= {GrantStatus.GRANTED, GrantStatus.PLANNED}, "planned: left before it was sent"
            assert statuses.count(GrantStatus.GRANTED) == len(transport.requests) < 30

    on(backend, scenario)


async def test_a_cancelled_run_loses_no_answer_and_raises_no_group() -> None:
    arrived = asyncio.Event()

    async def slow(_request: Request) -> Response:
        arrived.set()
        await asyncio.sleep(0.05)
        return GRANTED

    transport, ledger = StubTransport(slow), MemoryLedger()
    async with granter(transport, ledger) as g:

        async def bulk() -> None:
            async with g.provision(requests(1000), concurrency=5) as run:
                async for _ in run:
                    pass

        task = asyncio.create_task(bulk())
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {grant.status async for grant in g.grants()} == {GrantStatus.GRANTED}
        assert len(transport.requests) == 5


def test_a_cancelled_run_on_trio_loses_no_answer() -> None:
    async def scenario() -> None:
        scope = anyio.CancelScope()

        async def slow(_request: Request) -> Response:
            scope.cancel()
            await anyio.sleep(0.02)
            return GRANTED

        ledger = MemoryLedger()
        async with granter(StubTransport(slow), ledger) as g:
            with scope:
                await g.provision(requests(1000), concurrency=5)
            assert {grant.status async for grant in g.grants()} == {GrantStatus.GRANTED}

    on("trio", scenario)


def test_a_cancelled_run_closes_its_input(backend: str) -> None:
    closed: list[str] = []

    async def scenario() -> None:
        scope = anyio.CancelScope()

        async def source() -> AsyncIterator[GrantRequest]:
            try:
                for request in requests(1000):
                    yield request
            finally:
                closed.append("input")

        async def interrupted(_request: Request) -> Response:
            scope.cancel()
            await anyio.sleep(0.02)
            return GRANTED

        async with granter(StubTransport(interrupted)) as g:
            with scope:
                await g.provision(source(), concurrency=5)
            assert closed == ["input"]

    on(backend, scenario)


def test_a_cancelled_run_closes_the_rows_of_a_users_own_ledger(backend: str) -> None:
    closed: list[str] = []

    class Own(MemoryLedger):
        async def grants(self, *given: Any) -> AsyncIterator[Grant]:
            try:
                async for grant in super().grants(*given):
                    yield grant
            finally:
                closed.append("rows")

    async def scenario() -> None:
        scope = anyio.CancelScope()

        async def interrupted(_request: Request) -> Response:
            scope.cancel()
            await anyio.sleep(0.02)
            return GRANTED

        async with granter(StubTransport(interrupted), Own()) as g:
            for request in requests(20):
                await g.plan(request.ref, plan_id=1, member_id=request.member_id)
            with scope:
                await g.run_planned(concurrency=2)
            assert closed == ["rows"]

    on(backend, scenario)


def test_leaving_early_does_not_wait_for_a_backoff(backend: str) -> None:
    async def scenario() -> None:
        slow = RetryPolicy(transient_base=1000, backoff_cap=1000)
        ledger = MemoryLedger()
        async with granter(StubTransport(not_sent()), ledger, retry=slow, deadline=10_000) as g:
            with anyio.move_on_after(0.5):
                await g.provision(requests(10), concurrency=2)
            assert {grant.status async for grant in g.grants()} == {GrantStatus.PLANNED}

    on(backend, scenario)


def test_an_input_that_never_ends_can_be_left(backend: str) -> None:
    async def scenario() -> None:
        async def forever() -> AsyncIterator[GrantRequest]:
            yield GrantRequest("r0", 1)
            await anyio.sleep_forever()

        async with granter(StubTransport(GRANTED)) as g:
            async with g.provision(forever()) as run:
                async for _ in run:
                    break
            assert run.summary.granted == 1

    on(backend, scenario)


@pytest.mark.parametrize("wrong", [None, 5, "refs", [("r", 1)], [1]])
def test_a_wrong_input_is_named(wrong: Any, backend: str) -> None:
    async def scenario() -> None:
        async with granter(StubTransport(GRANTED)) as g:
            with pytest.raises(UsageError, match="GrantRequest"):
                await g.provision(wrong)

    on(backend, scenario)


def test_a_broken_input_raises_what_it_raised(backend: str) -> None:
    def broken() -> Iterator[GrantRequest]:
        yield GrantRequest("r0", 1)
        raise ZeroDivisionError

    async def scenario() -> None:
        async with granter(StubTransport(GRANTED)) as g:
            seen = []
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what came before the error counts
                async with g.provision(broken()) as run:
                    async for grant in run:
                        seen.append(grant)  # noqa: PERF401 - a comprehension would lose it
            assert [grant.ref for grant in seen] == ["r0"]

    on(backend, scenario)


class Full(MemoryLedger):
    """A ledger whose disk fills up during a run: intents fit, answers no longer do."""

    left = 4

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return await super().settle(ref, settlement)


async def test_answers_that_a_full_disk_does_not_take_are_handed_over_before_the_run_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tgmembership_async.grants.unrecorded._CALLERS_WAIT", 0)
    transport, seen = StubTransport(GRANTED), []
    async with granter(transport, Full(), recording_timeout=0.01) as g:
        with pytest.raises(GrantHeld, match="No space left"):  # noqa: PT012 - what came before counts
            async with g.provision(requests(100), concurrency=3) as run:
                async for grant in run:
                    seen.append(grant)  # noqa: PERF401 - a comprehension would lose it
    assert len(seen) == len(transport.requests) <= 4 + 2 * 3
    assert all(grant.token is not None and grant.token.token == "tok" for grant in seen)
    assert any(isinstance(grant.error, GrantHeld) for grant in seen)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5])
async def test_the_concurrency_is_checked(wrong: Any) -> None:
    async with granter(StubTransport()) as g:
        with pytest.raises(UsageError, match="concurrency"):
            g.provision([], concurrency=wrong)


async def test_a_run_is_entered_once_and_before_it_is_read() -> None:
    async with granter(StubTransport(GRANTED)) as g:
        run = g.provision([])
        with pytest.raises(UsageError, match="enter a run first"):
            aiter(run)
        assert await run == Summary()
        with pytest.raises(UsageError, match="entered only once"):
            await run


def test_under_faults_the_books_agree_with_the_service(backend: str) -> None:
    async def scenario() -> None:
        service = FakeService(api_key=CANARY_KEY, seed=7)
        service.inject(
            Fault("throttled", method="addMember", probability=0.05, retry_after=0),
            Fault("error", method="addMember", probability=0.03, when="after"),
            Fault("reset", method="addMember", probability=0.03, when="after"),
            Fault("closed", method="addMember", probability=0.03, when="before"),
        )
        tg = Session(service.bot_id, CANARY_KEY, transport=FakeTransport(service), retry=RetryPolicy(throttled_base=0))
        async with Granter(tg, MemoryLedger()) as g:
            await g.provision(requests(500), concurrency=16, stop_on=())
            on_service = {record.member_id for record in service.audit}
            async for grant in g.grants():
                if grant.status is GrantStatus.GRANTED:
                    assert grant.member_id in on_service
                if grant.member_id not in on_service:
                    assert grant.status in {GrantStatus.UNKNOWN, GrantStatus.REFUSED}
        assert service.granted_twice() == {} or not service.granted_twice()
        assert len(service.audit) == len(on_service)

    on(backend, scenario)


class Counting(MemoryLedger):
    """Counts the look-ups: those of single rows by claims, and those of pages."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = 0
        self.pages: list[int] = []

    async def claim(self, request: GrantRequest) -> Claim:
        self.claims += 1
        return await super().claim(request)

    async def get_many(self, refs: Collection[str]) -> dict[str, Grant]:
        self.pages.append(len(refs))
        return await super().get_many(refs)


@pytest.mark.parametrize("kind", ["list", "async generator"])
async def test_a_run_that_resumes_looks_rows_up_in_pages_and_carries_out_what_is_missing(kind: str) -> None:
    async def later() -> AsyncIterator[GrantRequest]:
        for request in source:
            yield request

    ledger, transport = Counting(), StubTransport(GRANTED)
    async with granter(transport, ledger) as g:
        await g.provision([*requests(700), *requests(300, start=710)])
        conflicting = GrantRequest("r0", 2, 1)
        source = [*requests(500), conflicting, *requests(510, start=500), *requests(5)]
        ledger.claims = 0
        async with g.provision(source if kind == "list" else later(), concurrency=4) as run:
            rows = [row async for row in run]
    assert run.summary == Summary(already=1_005, granted=10, conflicts=1)
    assert len(rows) == len(source)
    assert len(transport.requests) == 1_010
    if kind == "list":
        assert ledger.claims < 100
        assert max(ledger.pages) == 250
        assert len(ledger.pages) < 100
    else:
        assert not ledger.pages, "what must be waited for is not read ahead"


async def test_new_rows_are_not_read_ahead() -> None:
    read = 0

    def lazily() -> Iterator[GrantRequest]:
        nonlocal read
        for request in requests(500):
            read += 1
            yield request

    async with granter(StubTransport(GRANTED)) as g, g.provision(lazily(), concurrency=4) as run:
        async for _ in run:
            break
    assert read < 20


async def test_what_stands_before_a_fault_of_the_input_is_granted_also_by_a_run_that_resumes() -> None:
    def faulty(count: int) -> Iterator[GrantRequest]:
        yield from requests(count)
        msg = "line 7"
        raise LookupError(msg)

    async with granter(StubTransport(GRANTED)) as g:
        await g.provision(requests(100))
        run = g.provision(faulty(150), concurrency=4)
        with pytest.raises(LookupError, match="line 7"):
            await run
        assert run.summary == Summary(already=100, granted=50)


async def test_leaving_a_run_that_resumes_ends_at_once() -> None:
    async with granter(StubTransport(GRANTED)) as g:
        await g.provision(requests(2_000))
        async with g.provision(requests(2_000), concurrency=4) as run:
            with anyio.move_on_after(60) as scope:
                async for _ in run:
                    scope.cancel()
        assert run.summary.granted == 0
        assert (await g.provision(requests(2_001))).granted == 1
