"""PostgresLedger: what it guarantees between workers, beyond what every ledger guarantees."""

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from forked import Forked
from own_schema import own_schema
from stub_transport import StubTransport, reply

from tgmembership_async import GrantHeld, OutcomeUnknown, Request, Response, ServerError, Session, UsageError
from tgmembership_async.errors import GrantError
from tgmembership_async.grants import Grant, Granter, GrantRequest, GrantStatus, PostgresLedger, Settlement
from tgmembership_async.grants.model import RefTooLong, dump_error
from tgmembership_async.grants.postgres.jobs import SettleRef
from tgmembership_async.grants.postgres.tables import LEDGER
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.liveness import WorkersStorage
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.testing import LEDGER_CHECKS, FakeService, FakeTransport
from tgmembership_async.testing.conformance.transitions import Check
from tgmembership_async.values.models import AccessToken

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
TOKEN = AccessToken(token="tok", link="https://t.me/shop_bot?start=tok", raw="tok")
GRANTED = Settlement(GrantStatus.GRANTED, token=TOKEN, evidence="ok: true")


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


@pytest.mark.parametrize("check", LEDGER_CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_ledger(check: Check, backend: str, url: str) -> None:
    anyio.run(check, lambda: PostgresLedger(url), backend=backend)


def request(ref: str = "a", plan_id: int = 1) -> GrantRequest:
    return GrantRequest(ref, plan_id, 42)


async def status(ledger: PostgresLedger, ref: str = "a") -> GrantStatus | None:
    grant = await ledger.get(ref)
    return None if grant is None else grant.status


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    with anyio.fail_after(30):
        while not await condition():  # noqa: ASYNC110 - what happens in other processes sets no event here
            await anyio.sleep(0.02)


WORKER = """
import sys, anyio
from tgmembership_async.grants import GrantRequest, PostgresLedger

async def main():
    async with PostgresLedger(sys.argv[1]) as ledger:
        for ref in "abc":
            assert (await ledger.claim(GrantRequest(ref, 1, 42))).mine
        print("sending", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@contextmanager
def a_worker(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that is sending a, b and c, and does not end."""
    worker = Forked([sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "sending\n"
        yield worker
    finally:
        worker.kill()
        worker.communicate(timeout=60)


class TestLifeAndDeath:
    def test_what_a_living_worker_sends_is_left_to_it_however_slow_it_is(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as ledger:
                claim = await ledger.claim(request())
                assert (claim.mine, claim.elsewhere, claim.grant.status) == (False, True, GrantStatus.SENDING)
                with pytest.raises(GrantError, match="sent by another worker"):
                    await ledger.settle("a", GRANTED)
            async with PostgresLedger(url) as ledger:
                assert await status(ledger) is GrantStatus.SENDING

        with a_worker(url) as worker:
            run(scenario)
            assert worker.poll() is None

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
    def test_what_a_dead_worker_was_sending_is_unknown_to_whoever_looks(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as other:
                with a_worker(url) as worker:
                    assert (await other.claim(request())).elsewhere
                    worker.kill()
                    worker.wait()
                    execute(url, "UPDATE tgm_worker SET lease_until = lease_until + interval '1 hour'")
                    await until(lambda: left_behind(other))  # the server sees the end of the connection in a moment
                    # Its next heartbeat recovers the rows of the other two.
                    other._storage.liveness.heartbeat_now()
                    await until(lambda: is_unknown(other, "b"))
                    await until(lambda: is_unknown(other, "c"))
                    (attempt,) = await other.attempts("b")
                    assert (attempt.ended_at, attempt.status) == (None, GrantStatus.UNKNOWN)
                    row = await other.get("b")
                    assert row is not None
                    assert isinstance(row.error, OutcomeUnknown)
                    assert row.error.maybe_applied

        async def left_behind(ledger: PostgresLedger) -> bool:
            claim = await ledger.claim(request())
            assert not claim.mine
            return claim.grant.status is GrantStatus.UNKNOWN

        async def is_unknown(ledger: PostgresLedger, ref: str) -> bool:
            return await status(ledger, ref) is GrantStatus.UNKNOWN

        run(scenario)

    def test_who_opens_it_sees_to_the_dead(self, url: str, run: Run) -> None:
        with a_worker(url):
            pass

        async def scenario() -> None:
            async def seen_to() -> bool:
                async with PostgresLedger(url) as ledger:
                    return [await status(ledger, ref) for ref in "abc"] == [GrantStatus.UNKNOWN] * 3

            await until(seen_to)

        run(scenario)

    @pytest.mark.parametrize(
        ("settlement", "ends_as"),
        [
            (GRANTED, GrantStatus.GRANTED),
            (Settlement(GrantStatus.PLANNED, evidence="NotSent"), GrantStatus.PLANNED),
            (Settlement(GrantStatus.REFUSED, evidence="NotFound"), GrantStatus.PLANNED),
            (Settlement(GrantStatus.UNKNOWN, evidence="ReplyLost"), GrantStatus.UNKNOWN),
        ],
    )
    def test_an_answer_after_the_lease_is_not_thrown_away(
        self, url: str, run: Run, settlement: Settlement, ends_as: GrantStatus
    ) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as cut_off, PostgresLedger(url) as other:
                assert (await cut_off.claim(request())).mine
                execute(url, "UPDATE tgm_worker SET lease_until = now() - interval '1 s'")  # as if its network were cut
                assert (await other.claim(request())).grant.status is GrantStatus.UNKNOWN
                late = await cut_off.settle("a", settlement)
                assert (late.status, late.token) == (ends_as, settlement.token)
                reasons = [made.reason for made in await other.decisions("a")]
                assert ["presumed to have ended" in reason for reason in reasons] == [True] * (
                    ends_as is not GrantStatus.UNKNOWN
                )
                assert [attempt.status for attempt in await other.attempts("a")] == [GrantStatus.UNKNOWN]

        run(scenario)

    def test_after_a_restart_of_the_server_a_worker_has_as_long_as_a_lease_to_come_back(
        self, url: str, run: Run
    ) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as ledger, PostgresLedger(url) as other:
                await ledger.claim(request())
                # As if the server were another one than that on which it took its lock.
                execute(
                    url,
                    "INSERT INTO tgm_worker VALUES (1000, 'away', now() - interval '1 day', now() + interval '1 hour')",
                )
                execute(url, "UPDATE tgm_grants SET worker = 1000")
                assert (await other.claim(request())).elsewhere
                execute(url, "UPDATE tgm_worker SET lease_until = now() - interval '1 s' WHERE id = 1000")
                assert (await other.claim(request())).grant.status is GrantStatus.UNKNOWN

        run(scenario)

    def test_a_decision_made_meanwhile_stands(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as cut_off, PostgresLedger(url) as other:
                await cut_off.claim(request())
                execute(url, "UPDATE tgm_worker SET lease_until = now() - interval '1 s'")
                await other.claim(request())
                await other.decide("a", "abandon", None, "refunded")
                assert (await cut_off.settle("a", GRANTED)).status is GrantStatus.ABANDONED
                (attempt,) = await other.attempts("a")
                assert (attempt.status, attempt.ended_at is None) == (GrantStatus.GRANTED, False)
                assert "presumed to have ended" in attempt.evidence
                assert "ok: true" in attempt.evidence
                assert await status(other) is GrantStatus.ABANDONED

        run(scenario)

    @pytest.mark.parametrize("how_far", ["granted", "being sent", "planned"])
    def test_an_answer_that_comes_when_others_have_decided_is_kept_and_told(
        self, url: str, run: Run, how_far: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        theirs = Settlement(GrantStatus.GRANTED, token=AccessToken("theirs"), evidence="ok: true")

        async def scenario() -> None:
            caplog.clear()
            async with PostgresLedger(url) as other:

                async def slow(_request: Request) -> Response:
                    execute(url, "UPDATE tgm_worker SET lease_until = now() - interval '1 s'")
                    assert (await other.claim(request())).grant.status is GrantStatus.UNKNOWN
                    await other.decide("a", "retry", None, "the customer has no link")
                    if how_far != "planned":
                        assert (await other.claim(request())).mine
                    if how_far == "granted":
                        await other.settle("a", theirs)
                    return reply('{"ok": true, "code": 200, "result": "late"}')

                transport = StubTransport(slow)
                async with Granter(Session(1, "k" * 40, transport=transport), PostgresLedger(url)) as granter:
                    if how_far == "being sent":
                        with pytest.raises(GrantHeld, match="by another worker"):
                            await granter.grant("a", plan_id=1, member_id=42)
                        await other.settle("a", theirs)
                    else:
                        row = await granter.grant("a", plan_id=1, member_id=42)
                        assert (row.token and row.token.token) == ("theirs" if how_far == "granted" else "late")
                assert len(transport.requests) == 1
                first, second = await other.attempts("a")
                assert second.status is GrantStatus.GRANTED
                assert "presumed to have ended" in (second if how_far == "planned" else first).evidence
                assert (first.status is GrantStatus.GRANTED) is (how_far != "planned")
                told = [record for record in caplog.records if record.levelno == logging.WARNING]
                assert ["came too late" in record.getMessage() for record in told] == [True] * (how_far != "planned")
                row = await granted_row(other)
                assert (row.token and row.token.token) == ("late" if how_far == "planned" else "theirs")

        async def granted_row(ledger: PostgresLedger) -> Grant:
            row = await ledger.get("a")
            assert row is not None
            assert row.status is GrantStatus.GRANTED
            return row

        run(scenario)

    def test_a_worker_that_lost_its_connections_takes_up_its_life_again(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as ledger:
                assert (await ledger.claim(request("a"))).mine
                execute(
                    url,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'tgmembership-async' AND pid IN (SELECT pid FROM pg_locks"
                    " WHERE locktype = 'advisory' AND classid = 'tgm_worker'::regclass)",
                )
                await ledger.settle("a", GRANTED)
                ledger._storage.liveness.heartbeat_now()

                async def beside() -> bool:
                    return bool(execute(url, "SELECT 1 FROM pg_locks WHERE classid = 'tgm_worker'::regclass"))

                await until(beside)
                claim = await ledger.claim(request("b"))
                assert claim.mine
                async with PostgresLedger(url) as other:
                    assert (await other.claim(request("b"))).elsewhere

        run(scenario)

    def test_a_settlement_that_is_owed_while_an_older_one_is_recorded_is_recorded_too(self, url: str, run: Run) -> None:
        """A claim is committed and not confirmed, is settled to planned, and so is the next claim of the same row."""

        async def scenario() -> None:
            unsent = Settlement(GrantStatus.PLANNED, evidence="the intent could not be confirmed")
            async with PostgresLedger(url) as ledger:
                await ledger.claim(request())
                row = ledger._claimed.pop("a")
                newer = SettleRef("a", unsent, datetime.now(UTC), (row.worker, row.claim))

                class Older(SettleRef):
                    def __call__(self, _: Lane) -> Grant:
                        ledger._owed["a"] = newer
                        return row.grant

                ledger._owed["a"] = Older("a", unsent, datetime.now(UTC), None)
                await ledger._storage.run(ledger._look)
                assert ledger._owed == {"a": newer}
                await ledger._storage.run(ledger._look)
                assert not ledger._owed
                assert await status(ledger) is GrantStatus.PLANNED

        run(scenario)

    def test_who_only_reads_plans_and_decides_has_no_life_to_keep(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as ledger:
                await ledger.plan(request())
                assert execute(url, "SELECT * FROM tgm_worker") == []
                await ledger.claim(request())
                assert len(execute(url, "SELECT * FROM tgm_worker")) == 1
            assert execute(url, "SELECT * FROM tgm_worker") == []

        run(scenario)

    def test_the_link_that_a_dead_worker_was_sending_is_due_at_once(self, url: str, run: Run) -> None:
        """Its question to the owner was put off to the next day, before the row was granted."""
        hour = timedelta(hours=1)

        async def scenario() -> None:
            async with PostgresLedger(url) as other:
                async with PostgresLedger(url) as dead:
                    await dead.claim(request())
                    await dead.settle("a", Settlement(GrantStatus.UNKNOWN))
                    question = await dead.begin_follow_up("a", lease=hour, grace=hour)
                    assert question is not None
                    await dead.postpone(question, failures=2, due_at=datetime.now(UTC) + 24 * hour)
                    await dead.decide("a", "granted", None, "seen in the list")
                    assert await dead.begin_follow_up("a", lease=hour, grace=hour) is not None
                    assert await other.begin_follow_up("a", lease=hour, grace=hour) is None
                link = await other.begin_follow_up("a", lease=hour, grace=hour)
                assert link is not None
                assert (link.grant.status, link.failures) == (GrantStatus.GRANTED, 0)

        run(scenario)


class TestTwoGranters:
    def test_two_with_one_ref_make_one_exchange_and_both_get_the_answer(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            arrived, answered = anyio.Event(), anyio.Event()

            async def slow(_request: Request) -> Response:
                arrived.set()
                await answered.wait()
                return reply('{"ok": true, "code": 200, "result": "tok"}')

            transports = [StubTransport(slow), StubTransport()]
            one, two = (Granter(Session(1, "k" * 40, transport=t), PostgresLedger(url)) for t in transports)
            got: list[Grant] = []

            async def ask(granter: Granter) -> None:
                got.append(await granter.grant("a", plan_id=1, member_id=42))

            async def provision(granter: Granter) -> None:
                async with granter.provision([request()]) as rows:
                    got.extend([row async for row in rows])
                assert (rows.summary.duplicates, rows.summary.granted) == (1, 0)

            async with one, two, anyio.create_task_group() as group:
                group.start_soon(ask, one)
                await arrived.wait()
                group.start_soon(ask, two)
                group.start_soon(provision, two)
                await anyio.sleep(0.1)
                answered.set()
            assert [(grant.status, grant.token and grant.token.token) for grant in got] == [
                (GrantStatus.GRANTED, "tok")
            ] * 3
            assert [len(transport.requests) for transport in transports] == [1, 0]

        run(scenario)

    def test_a_run_that_is_left_does_not_wait_for_others(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            service = FakeService()
            session = Session(**service.session_options(), transport=FakeTransport(service))
            async with PostgresLedger(url) as other, Granter(session, PostgresLedger(url)) as granter:
                await other.claim(request("a"))
                with anyio.fail_after(20):
                    async with granter.provision([request("a"), request("b")], concurrency=2) as rows:
                        async for row in rows:
                            assert row.ref == "b"
                            break
                assert len(service.audit) == 1

        run(scenario)

    def test_a_ref_that_is_too_long_for_the_index_is_a_row_of_a_run_and_no_end(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            service = FakeService()
            session = Session(**service.session_options(), transport=FakeTransport(service))
            async with Granter(session, PostgresLedger(url)) as granter:
                rows = [request("a"), request("€" * 700), request("b")]
                async with granter.provision(rows, concurrency=1) as provisioned:
                    found = {row.ref: (row.status, type(row.error)) async for row in provisioned}
            assert found.pop("€" * 700) == (GrantStatus.REFUSED, RefTooLong)
            assert found == dict.fromkeys("ab", (GrantStatus.GRANTED, type(None)))
            assert len(service.audit) == 2

        run(scenario)

    def test_many_runs_over_the_same_members_grant_each_once(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            service = FakeService()
            requests = [GrantRequest(f"order-{n}", 1, n + 1) for n in range(100)]
            found: list[str] = []

            async def work() -> None:
                session = Session(**service.session_options(), transport=FakeTransport(service))
                granter = Granter(session, PostgresLedger(url))
                async with granter, granter.provision(requests, concurrency=4) as rows:
                    found.extend([f"{row.ref} {row.status}" async for row in rows])

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(work)
            assert sorted(found) == sorted(f"order-{n} granted" for n in range(100) for _ in range(3))
            assert sorted(grant.member_id or 0 for grant in service.audit) == list(range(1, 101))

        run(scenario)


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True, application_name="test") as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def test_a_row_that_an_older_version_planned_again_after_a_gateways_503_is_held(url: str) -> None:
    believed = ServerError("the service turned us away with HTTP 503 (try again in 5 s)", code=503, status=503)
    old = WorkersStorage(url, Component("ledger", LEDGER.migrations[:1]))
    await old.open(lambda _: None)
    await old.aclose()
    with psycopg.connect(url) as connection:
        for ref, error in (("gateway", dump_error(believed)), ("never sent", None)):
            connection.execute(
                "INSERT INTO tgm_grants (ref, plan_id, note, status, attempts, error, updated_at)"
                " VALUES (%s, 1, '', 'planned', 1, %s, now())",
                (ref, error),
            )
    async with PostgresLedger(url) as ledger:
        assert await status(ledger, "gateway") is GrantStatus.UNKNOWN
        assert await status(ledger, "never sent") is GrantStatus.PLANNED


async def test_rows_of_an_older_version_learn_when_they_were_granted_from_their_records(url: str) -> None:
    old = WorkersStorage(url, Component("ledger", LEDGER.migrations[:5]))
    await old.open(lambda _: None)
    await old.aclose()
    with psycopg.connect(url) as connection:
        for ref in ("sent", "decided", "unrecorded", "planned"):
            connection.execute(
                "INSERT INTO tgm_grants (ref, plan_id, note, status, attempts, updated_at)"
                " VALUES (%s, 1, '', %s, 1, now())",
                (ref, "planned" if ref == "planned" else "delivered"),
            )
        connection.execute(
            "INSERT INTO tgm_attempt (grant_id, number, began_at, ended_at, status)"
            " VALUES (1, 1, to_timestamp(3), to_timestamp(5), 'granted'),"
            " (2, 1, to_timestamp(3), to_timestamp(4), 'unknown')"
        )
        connection.execute(
            "INSERT INTO tgm_decision (grant_id, decision, decided_at, reason)"
            " VALUES (2, 'granted', to_timestamp(7), '')"
        )
    async with PostgresLedger(url) as ledger:
        found = {grant.ref: grant.granted_at async for grant in ledger.grants()}
    sent, decided = (datetime.fromtimestamp(number, UTC) for number in (5, 7))
    assert found == {"sent": sent, "decided": decided, "unrecorded": None, "planned": None}


async def test_tables_of_an_older_version_keep_their_rows_and_take_plans_of_projects(url: str) -> None:
    """A worker of the older version that still runs may go on writing rows."""
    uuid = "11111111-1111-4111-8111-111111111111"
    old = WorkersStorage(url, Component("ledger", LEDGER.migrations[:6]))
    await old.open(lambda _: None)
    await old.aclose()
    columns = "INSERT INTO tgm_grants (note, status, attempts, updated_at, ref, plan_id"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"{columns}) VALUES ('', 'planned', 0, now(), 'before', %s)", (2**63 - 1,))
        async with PostgresLedger(url) as ledger:
            connection.execute(f"{columns}) VALUES ('', 'planned', 0, now(), 'after', %s)", (1,))
            assert (await ledger.claim(GrantRequest("before", 2**63 - 1))).mine
            assert (await ledger.claim(GrantRequest("of a project", uuid, 42))).mine
            [planned, conflict] = await ledger.plan_all([GrantRequest("new", uuid), GrantRequest("after", uuid)])
            assert (planned.plan_id, conflict.plan_id) == (uuid, 1)
            plans = {grant.ref: grant.plan_id async for grant in ledger.grants()}
        assert plans == {"before": 2**63 - 1, "after": 1, "of a project": uuid, "new": uuid}
        for number, text in ((None, None), (1, uuid), (None, "one")):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(
                    f"{columns}, plan_uuid) VALUES ('', 'planned', 0, now(), 'x', %s, %s)",
                    (number, text),
                )
    with pytest.raises(UsageError, match="newer tgmembership-async"):
        await old.open(lambda _: None)
