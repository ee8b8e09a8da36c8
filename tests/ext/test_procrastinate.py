"""procrastinate: grants as jobs on a real PostgreSQL, in real workers that are killed, and never granted twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from forked import Forked
from own_schema import own_schema

from tgmembership_async import Session, UsageError
from tgmembership_async.errors import GrantHeld, RefConflict, StorageError, TGMembershipError
from tgmembership_async.grants import Grant, Granter, GrantRequest, GrantStatus, MemoryLedger, PostgresLedger
from tgmembership_async.project import Project
from tgmembership_async.testing import FakeProject, FakeService, FakeTransport, Fault, serve

procrastinate = pytest.importorskip("procrastinate")

from tgmembership_async.ext.procrastinate import GRANT_MEMBER, QUEUE, defer_grants, put_back, setup  # noqa: E402 - an extra

SHOP = """
import os
from procrastinate import App, PsycopgConnector
from tgmembership_async import Session
from tgmembership_async.ext.procrastinate import setup
from tgmembership_async.grants import Granter, PostgresLedger

url = os.environ["SHOP_DATABASE"]
app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=4))
setup(app, Granter(Session.from_env(), PostgresLedger(url)))
"""


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


@pytest.fixture
async def app(url: str) -> AsyncIterator[Any]:
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=1, max_size=4)
    async with procrastinate.App(connector=connector).open_async() as opened:
        await opened.schema_manager.apply_schema_async()
        yield opened


@pytest.fixture
def service() -> FakeService:
    return FakeService(silent=[3])


@pytest.fixture
async def granter(url: str, service: FakeService) -> AsyncIterator[Granter]:
    session = Session(**service.session_options(), transport=FakeTransport(service))
    async with Granter(session, PostgresLedger(url)) as opened:
        yield opened


def requests(count: int, first: int = 0) -> Iterator[GrantRequest]:
    return (GrantRequest(f"r{number}", 1, number + 1000) for number in range(first, first + count))


async def work(app: Any) -> None:
    await app.run_worker_async(queues=[QUEUE], wait=False, concurrency=4, install_signal_handlers=False)


async def statuses(app: Any) -> dict[str, str]:
    jobs = await app.job_manager.list_jobs_async(task=GRANT_MEMBER)
    return {job.task_kwargs["ref"]: job.status for job in jobs}


async def test_a_job_is_a_grant_and_the_ledger_has_it(app: Any, granter: Granter, service: FakeService) -> None:
    ends: list[tuple[str, Grant | TGMembershipError]] = []
    setup(app, granter, ended=lambda request, end: ends.append((request.ref, end)))
    assert await defer_grants(app, [GrantRequest("a", 2, 42, "chat 7"), GrantRequest("b", 1)]) == 2
    await work(app)
    rows = {grant.ref: grant async for grant in granter.grants()}
    assert (rows["a"].status, rows["a"].plan_id, rows["a"].member_id) == (GrantStatus.GRANTED, 2, 42)
    assert (rows["a"].note, rows["b"].member_id) == ("chat 7", None)
    assert await statuses(app) == {"a": "succeeded", "b": "succeeded"}
    assert {ref: end.status for ref, end in ends if isinstance(end, Grant)} == {"a": "granted", "b": "granted"}
    assert len(service.audit) == 2


async def test_a_job_knows_when_its_ref_was_paid(app: Any, service: FakeService) -> None:
    paid_at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
    granter = Granter(Session(**service.session_options(), transport=FakeTransport(service)), MemoryLedger())
    asked: list[GrantRequest] = []
    setup(app, granter, ended=lambda request, _: asked.append(request))
    paid = [GrantRequest("a", 1, 42, paid_at=paid_at), GrantRequest("b", 1, 43)]
    assert await defer_grants(app, paid) == 2
    async with granter:
        await work(app)
    assert sorted(asked, key=lambda request: request.ref) == paid


async def test_a_job_of_a_project_is_a_payment_request(app: Any, url: str) -> None:
    service = FakeProject()
    plan, other = (plan.plan_id for plan in service.plans)
    client = Project(**service.session_options(), transport=FakeTransport(service))
    setup(app, granter := Granter(client, PostgresLedger(url)))
    assert await defer_grants(app, [GrantRequest("a", plan, 42)]) == 1
    with pytest.raises(RefConflict, match=f"waits in the queue for plan {plan} and member 42"):
        await defer_grants(app, [GrantRequest("a", other, 42)])
    assert await defer_grants(app, [GrantRequest("a", plan, 42)]) == 0
    async with granter:
        await work(app)
        assert [grant.plan_id async for grant in granter.grants(GrantStatus.GRANTED)] == [plan]
    assert [one.user_id for one in service.payment_requests] == ["42"]


@pytest.mark.parametrize("count", [1_500, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_ten_thousand_are_enqueued_in_seconds(app: Any, count: int) -> None:
    began = time.monotonic()
    assert await defer_grants(app, requests(count)) == count
    assert await defer_grants(app, requests(count, first=count // 2)) == count // 2
    assert time.monotonic() - began < 30


async def test_a_ref_that_waits_for_another_member_is_told(app: Any) -> None:
    told: list[tuple[GrantRequest, str]] = []

    def conflicting(request: GrantRequest, conflict: RefConflict) -> None:
        told.append((request, str(conflict)))

    wrong = [GrantRequest("a", 1, 43), GrantRequest("a", 2, 42), GrantRequest("a", 1)]
    assert await defer_grants(app, [GrantRequest("a", 1, 42), wrong[0]], conflicting=conflicting) == 1
    assert await defer_grants(app, [wrong[1], GrantRequest("b", 1)], conflicting=conflicting) == 1
    with pytest.raises(RefConflict, match="a waits in the queue for plan 1 and member 42"):
        await defer_grants(app, [wrong[2], GrantRequest("b", 1), GrantRequest("c", 1)])
    assert [request for request, _ in told] == wrong[:2]
    assert set(await statuses(app)) == {"a", "b", "c"}, "the others are enqueued"


async def test_a_ref_waits_once_and_is_granted_once(app: Any, granter: Granter, service: FakeService) -> None:
    setup(app, granter)
    long = "ü" * 1_000
    twice = [GrantRequest("a", 1, 42), GrantRequest(long, 1, 43), GrantRequest("a", 1, 42)]

    async def later() -> AsyncIterator[GrantRequest]:
        for request in twice:
            yield request

    assert await defer_grants(app, later()) == 2
    assert await defer_grants(app, twice) == 0
    await work(app)
    assert await defer_grants(app, twice) == 2, "what was carried out may be enqueued, and finds its row"
    await work(app)
    assert len(service.audit) == 2
    assert await statuses(app) == {"a": "succeeded", long: "succeeded"}


async def test_who_enqueues_the_same_at_the_same_time_waits_his_turn(app: Any) -> None:
    new = await asyncio.gather(*(defer_grants(app, requests(1_200)) for _ in range(3)))
    assert sum(new) == 1_200


async def test_refused_and_unknown_ones_fail_and_the_engine_never_repeats_them(
    app: Any, granter: Granter, service: FakeService
) -> None:
    service.inject(Fault("reset", method="addMember", when="after", count=1))
    ends: dict[str, Grant | TGMembershipError] = {}
    setup(app, granter, ended=lambda request, end: ends.update({request.ref: end}))
    await defer_grants(app, [GrantRequest("lost", 1, 42)])
    await work(app)
    await defer_grants(app, [GrantRequest("lost", 1, 42), GrantRequest("refused", 1, 3)])
    await work(app)
    assert set((await statuses(app)).values()) == {"failed"}
    assert isinstance(ends["lost"], GrantHeld)
    assert not isinstance(ends["refused"], Grant | GrantHeld)
    assert len(service.audit) == 1
    assert service.count_requests() == 2


async def test_without_a_granter_a_worker_fails_and_sends_nothing(app: Any) -> None:
    setup(app)
    await defer_grants(app, requests(1))
    await work(app)
    assert await statuses(app) == {"r0": "failed"}


async def test_wrong_use_is_told(app: Any, granter: Granter) -> None:
    setup(app, granter)
    with pytest.raises(UsageError, match="once"):
        setup(app, granter)
    with pytest.raises(UsageError, match="App"):
        setup(granter)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(UsageError, match="GrantRequest"):
        await defer_grants(app, ["a"])  # type: ignore[list-item]  # on purpose


async def test_a_stalled_job_whose_ref_waits_again_is_given_up(app: Any, granter: Granter) -> None:
    setup(app, granter)
    await defer_grants(app, requests(1))
    worker = await app.job_manager.register_worker()
    await app.job_manager.fetch_job(queues=[QUEUE], worker_id=worker)
    assert await put_back(app) == 0, "its worker lives"
    await defer_grants(app, requests(1))
    await app.job_manager.unregister_worker(worker)
    assert await put_back(app) == 0
    jobs = await app.job_manager.list_jobs_async(task=GRANT_MEMBER)
    assert sorted(job.status for job in jobs) == ["failed", "todo"]


async def test_a_killed_worker_leaves_unknowns_that_nobody_sends_again(
    app: Any, url: str, service: FakeService, tmp_path: Path
) -> None:
    """Kill a real worker while it sends: its jobs come back, and end as held; the others are granted once."""
    (tmp_path / "shop.py").write_text(SHOP)
    await defer_grants(app, requests(12))
    service.inject(Fault("latency", seconds=60, method="addMember", when="after", count=4))
    with serve(service) as server:
        environment = {**os.environ, **server.env(), "SHOP_DATABASE": url, "NO_PROXY": "*", "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-m", "procrastinate", "--app=shop.app", "worker", "--concurrency=4"]

        def start(*arguments: str) -> "subprocess.Popen[bytes]":
            return Forked([*command, *arguments], env=environment, stderr=subprocess.PIPE)

        with start() as worker:
            for _ in range(3_000):
                if len(service.audit) >= 4 or worker.poll() is not None:
                    break
                await asyncio.sleep(0.01)
            worker.send_signal(signal.SIGKILL)
        assert list((await statuses(app)).values()).count("doing") == 4
        await app.connector.execute_query_async(query="UPDATE procrastinate_workers SET last_heartbeat = 'epoch'")
        assert await put_back(app) == 4
        with start("--one-shot") as worker:
            assert worker.wait(60) == 0, worker.stderr and worker.stderr.read()
    async with PostgresLedger(url) as ledger:
        rows = [grant async for grant in ledger.grants()]
    ends = [grant.status for grant in rows]
    assert (ends.count(GrantStatus.GRANTED), ends.count(GrantStatus.UNKNOWN)) == (8, 4)
    assert list((await statuses(app)).values()).count("failed") == 4
    assert len(service.audit) == len({grant.member_id for grant in service.audit}) == 12


async def test_what_is_enqueued_is_planned_first(app: Any, granter: Granter) -> None:
    ledger = granter.ledger
    assert isinstance(ledger, PostgresLedger)
    await granter.plan("r1", plan_id=1, member_id=7)
    conflicts: list[str] = []
    new = await defer_grants(
        app, requests(3), ledger=ledger, conflicting=lambda request, _: conflicts.append(request.ref)
    )
    assert (new, conflicts) == (2, ["r1"])
    rows = {grant.ref: (grant.status, grant.member_id) async for grant in granter.grants()}
    assert rows == {"r0": ("planned", 1000), "r1": ("planned", 7), "r2": ("planned", 1002)}
    with pytest.raises(RefConflict, match="r1"):
        await defer_grants(app, requests(4), ledger=ledger)
    assert await statuses(app) == {"r0": "todo", "r2": "todo", "r3": "todo"}


@pytest.fixture
def granter_with_timeout(url: str, service: FakeService) -> Granter:
    session = Session(**service.session_options(), transport=FakeTransport(service))
    return Granter(session, PostgresLedger(f"{url}%20-cstatement_timeout%3D500"))


async def test_no_member_is_forgotten_while_the_table_is_locked(
    app: Any, granter_with_timeout: Granter, url: str, service: FakeService
) -> None:
    """Sixty members, and a lock that outlasts statement_timeout several times."""
    async with granter_with_timeout as granter:
        setup(app, granter)
        assert await defer_grants(app, requests(60)) == 60
        async with await psycopg.AsyncConnection.connect(url) as other:
            await other.execute("LOCK TABLE tgm_grants")
            working = asyncio.create_task(work(app))
            await asyncio.sleep(1.2)
            assert service.audit == []
        await working
        assert set((await statuses(app)).values()) == {"succeeded"}
        assert len(service.audit) == 60
        assert granter.ledger.interruptions == 0, "its life went on"  # type: ignore[attr-defined]


async def test_a_job_whose_ledger_fails_goes_back_into_the_queue(
    app: Any, granter: Granter, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = StorageError("the disk is full")

    async def failing(*_: object) -> Any:
        raise full

    ends: list[Any] = []
    setup(app, granter, ended=lambda _, end: ends.append(end))
    await defer_grants(app, requests(1))
    with monkeypatch.context() as patched:
        patched.setattr(PostgresLedger, "claim", failing)
        before = datetime.now(UTC)
        await work(app)
    (job,) = await app.job_manager.list_jobs_async(task=GRANT_MEMBER)
    assert job.status == "todo"
    assert job.scheduled_at > before + timedelta(seconds=0.5), "it is not tried again at once"
    await app.connector.execute_query_async("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    await work(app)
    assert await statuses(app) == {"r0": "succeeded"}
    assert [type(end) for end in ends] == [StorageError, Grant]
    assert len(service.audit) == 1
