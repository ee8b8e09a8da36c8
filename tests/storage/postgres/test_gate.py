"""PostgresGate: one rate and one pause for all workers of a bot, and calls that do not depend on the database."""

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import psycopg
import pytest
from own_schema import own_schema
from stub_transport import StubTransport, reply

from tgmembership_async import PostgresGate, RateLimit, RateLimited, Request, Response, Session, UsageError
from tgmembership_async.protocol.gate import GateReply, SharedGate
from tgmembership_async.testing import FakeService, serve

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
FAST, SLOW = RateLimit(1_000, 1.0), RateLimit(2, 0.5)
OK = '{"ok": true, "code": 200, "result": []}'


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


def session(gate: SharedGate, *steps: Any, bot_id: int = 1, **options: Any) -> Session:
    return Session(bot_id, "k" * 40, transport=StubTransport(*steps), gate=gate, **options)


def paused(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT 1 FROM tgm_gate WHERE paused_until > now()").fetchone() is not None


def test_the_rate_is_that_of_all_sessions_together(url: str, run: Run) -> None:
    async def scenario() -> None:
        left: list[float] = []

        async def note(_request: Request) -> Response:
            left.append(anyio.current_time())
            return reply(OK)

        async def call(tg: Session) -> None:
            await tg.get_plans()

        sessions = [session(PostgresGate(url), *[note] * 3, rate_limit=SLOW) for _ in range(2)]
        async with sessions[0], sessions[1], anyio.create_task_group() as group:
            began = anyio.current_time()
            for number in range(6):
                group.start_soon(call, sessions[number % 2])
        assert len(left) == 6
        # Two at once after a rest, and then one each quarter of a second; each alone would be done after a quarter.
        assert max(left) - began > 4 * 0.25 - 0.05

    run(scenario)


def test_a_pause_told_to_one_is_kept_by_all_of_its_bot(url: str, run: Run) -> None:
    async def scenario() -> None:
        one = session(PostgresGate(url), reply("", 429, retry_after="0.8"), reply(OK))
        two = session(PostgresGate(url), reply(OK), reply(OK), rate_limit=FAST)
        hasty = session(PostgresGate(url), deadline=0.3)
        other = session(PostgresGate(url), reply(OK), bot_id=2)
        async with one, two, hasty, other, anyio.create_task_group() as group:
            group.start_soon(one.get_plans)
            with anyio.fail_after(10):
                while not paused(url):  # noqa: ASYNC110 - what happens in the database sets no event here
                    await anyio.sleep(0.005)
            await other.get_plans()
            with pytest.raises(RateLimited) as refused:
                await hasty.get_plans()
            assert not refused.value.maybe_applied
            assert paused(url), "neither waited for the end of the pause"
            await two.get_plans()
            assert not paused(url)
            await two.get_plans()

    run(scenario)


WORKER = """
import sys, anyio
from tgmembership_async import PostgresGate, Session

async def main():
    async with Session.from_env(gate=PostgresGate(sys.argv[1])) as tg:
        print(len(await tg.get_plans()), flush=True)

anyio.run(main)
"""


def test_a_pause_holds_for_another_process_that_starts_in_it(url: str) -> None:
    service = FakeService()

    async def pause() -> None:
        async with PostgresGate(url) as gate:
            await gate.pause(service.bot_id, 2)
            assert (told := await gate.ask(service.bot_id, FAST)) is not None
            assert 1 < told.pause <= 2

    with serve(service) as server:
        anyio.run(pause)
        worker = subprocess.run(
            [sys.executable, "-c", WORKER, url],
            env=server.env(),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert worker.stdout.strip() == str(len(service.plans))
    assert not paused(url)


def test_a_pause_is_only_ever_made_longer_and_puts_off_what_was_counted(url: str, run: Run) -> None:
    async def scenario() -> None:
        async with PostgresGate(url) as gate:
            assert isinstance(gate, SharedGate)
            assert await gate.ask(1, None) == GateReply()
            assert await gate.ask(1, SLOW) == GateReply()
            await gate.pause(1, 60)
            await gate.pause(1, 1)
            for limit in (None, SLOW, SLOW, SLOW):
                told = await gate.ask(1, limit)
                assert told is not None
                assert 30 < told.pause <= 60
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("UPDATE tgm_gate SET paused_until = 'epoch'")
            second, third = await gate.ask(1, SLOW), await gate.ask(1, SLOW)
            assert second == GateReply(), "what asked during the pause did not count"
            assert third is not None
            assert 0 < third.wait <= 0.25

    run(scenario)


@pytest.fixture
def black_hole() -> Iterator[int]:
    """Give a port that accepts connections and never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def test_without_its_database_calls_keep_to_their_own_gate_and_say_so_once(
    url: str, run: Run, caplog: pytest.LogCaptureFixture, black_hole: int
) -> None:
    async def scenario() -> None:
        gate = PostgresGate(url)
        there = gate._storage.server
        async with session(gate, *[reply(OK)] * 12, rate_limit=SLOW) as tg:
            await tg.get_plans()
            gate._storage._close()
            gate._storage.server = type(there)(f"postgresql://127.0.0.1:{black_hole}/test?connect_timeout=2")
            began = anyio.current_time()
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(tg.get_plans)
            took = anyio.current_time() - began
            assert 0.5 < took < 20, "its own rate holds, and nobody waits for the database for long"
            gate._storage.server = there
            gate._out_until = 0
            await tg.get_plans()
            assert await gate.ask(1, None) == GateReply()

    with caplog.at_level(logging.INFO, "tgmembership_async"):
        run(scenario)
    assert [(record.levelname, "is unreachable" in record.message) for record in caplog.records] == [
        ("WARNING", True),
        ("INFO", False),
    ]


def test_opening_a_session_says_what_is_wrong_with_its_gate(run: Run, refused_port: int) -> None:
    async def scenario() -> None:
        tg = session(PostgresGate(f"postgresql://shop:s3cret@127.0.0.1:{refused_port}/test"))
        with pytest.raises(Exception, match="start the server") as refused:
            await tg.open()
        assert not tg.is_open
        assert "s3cret" not in str(refused.value)
        with pytest.raises(UsageError, match="not open"):
            await tg.get_plans()

    run(scenario)


def test_a_gate_that_you_opened_yourself_stays_open(url: str, run: Run) -> None:
    async def scenario() -> None:
        async with PostgresGate(url) as gate:
            for _ in range(2):
                async with session(gate, reply(OK)) as tg:
                    await tg.get_plans()
            assert gate.is_open
        async with session(gate, reply(OK)) as tg:
            await tg.get_plans()
        assert not gate.is_open

    run(scenario)


def test_what_is_no_gate_is_told_so() -> None:
    with pytest.raises(UsageError, match="PostgresGate"):
        Session(1, "k" * 40, gate=RateLimit(1, 1))  # type: ignore[arg-type]  # what a reader may try


def test_centuries_are_an_hour_to_all_others_and_told_as_they_are(url: str, run: Run) -> None:
    async def scenario() -> None:
        told = session(PostgresGate(url), reply("", 429, retry_after="9999999999"))
        async with told:
            with pytest.raises(RateLimited) as refused:
                await told.get_plans()
        assert refused.value.retry_after == 9_999_999_999
        async with PostgresGate(url) as gate:
            [pause] = await gate.pauses()
            assert 3_590 < pause.seconds <= 3_600
            await gate.lift(pause.bot_id + 1)
            assert len(await gate.pauses()) == 1
            await gate.lift(pause.bot_id)
            assert await gate.pauses() == []

    run(scenario)


def test_centuries_that_an_older_version_kept_end_in_an_hour(url: str, run: Run) -> None:
    async def scenario() -> None:
        async with PostgresGate(url):
            pass
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE tgm_component SET version = 1 WHERE name = 'gate'")
            connection.execute("INSERT INTO tgm_gate (bot_id, paused_until) VALUES (1, now() + interval '317 years')")
        async with PostgresGate(url) as gate:
            [pause] = await gate.pauses()
            assert pause.seconds <= 3_600

    run(scenario)
