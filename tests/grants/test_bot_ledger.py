"""A ledger belongs to one bot at one service, or on purpose to several bots, in every kind of ledger."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import anyio
import psycopg
import pytest
from own_schema import own_schema

from tgmembership_async import Session, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import (
    Grant,
    Granter,
    GrantRequest,
    GrantStatus,
    MemoryLedger,
    PostgresLedger,
    SqliteLedger,
    Summary,
)
from tgmembership_async.grants.bot_ledger import BotLedger
from tgmembership_async.grants.copying import Store, copy
from tgmembership_async.grants.postgres.copying import PostgresStore
from tgmembership_async.grants.sqlite.copying import SqliteStore
from tgmembership_async.testing import FakeService, FakeTransport, Fault

Services = tuple[FakeService, FakeService]


Kept = MemoryLedger | SqliteLedger | PostgresLedger


class Make(Protocol):
    """Return a ledger over the same rows each time."""

    def __call__(self, *, shared_by_bots: bool = False) -> Kept: ...


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    memory: list[MemoryLedger] = []

    def make(*, shared_by_bots: bool = False) -> Kept:
        if request.param == "sqlite":
            return SqliteLedger(tmp_path / "grants.db", shared_by_bots=shared_by_bots)
        if request.param == "postgres":
            return PostgresLedger(url, shared_by_bots=shared_by_bots)
        if not memory:
            memory.append(MemoryLedger(shared_by_bots=shared_by_bots))
        memory[0]._shared_by_bots = shared_by_bots
        return memory[0]

    with ExitStack() as stack:
        url = stack.enter_context(own_schema()) if request.param == "postgres" else ""
        yield make


def granter(service: FakeService, ledger: Any, **options: Any) -> Granter:
    return Granter(Session(**service.session_options(), transport=FakeTransport(service), **options), ledger)


@pytest.fixture
def services() -> tuple[FakeService, FakeService]:
    return FakeService(bot_id=7), FakeService(bot_id=8)


async def grant(granter: Granter, ref: str = "a", member_id: int = 42) -> Grant:
    return await granter.grant(ref, plan_id=1, member_id=member_id)


def test_a_ledger_belongs_to_the_first_bot_that_grants(make: Make, services: Services, backend: str) -> None:
    async def scenario() -> None:
        rehearsal, live = services
        async with granter(live, make()):
            pass  # a bare opening records nothing
        async with granter(rehearsal, make()) as g:
            assert (await grant(g)).status == "granted"
            assert (await grant(g)).status == "granted"
        other = granter(live, make())
        with pytest.raises(UsageError, match=r"belongs to bot 7 at .*, and this is bot 8 at .* a ledger of its own"):
            await other.open()
        assert not other.is_open
        assert not other.ledger.is_open
        elsewhere = granter(rehearsal, make(), base_url="https://other.example/path")
        with pytest.raises(
            UsageError, match=r"bot 7 at https://api\.tgmembership\.com, and this is bot 7 at https://other"
        ):
            await elsewhere.open()
        async with granter(rehearsal, make(), base_url="https://api.tgmembership.com/path") as g:
            assert (await grant(g)).status == "granted"
        assert [len(service.audit) for service in services] == [1, 0]

    anyio.run(scenario, backend=backend)


def test_of_two_bots_that_come_at_once_the_second_is_refused(make: Make, services: Services, backend: str) -> None:
    async def scenario() -> None:
        async with make() as ledger, granter(services[0], ledger) as first, granter(services[1], ledger) as second:
            await first.plan("a", plan_id=1, member_id=42)
            for attempt in (grant(second, "b"), second.plan("b", plan_id=1), second.run_planned()):
                with pytest.raises(UsageError, match=r"belongs to bot 7 .* and this is bot 8"):
                    await attempt
            assert await ledger.get("b") is None
            await first.run_planned()
        assert [len(service.audit) for service in services] == [1, 0]

    anyio.run(scenario, backend=backend)


def test_several_bots_may_share_a_ledger_on_purpose(make: Make, services: Services, backend: str) -> None:
    """Each sees its own rows under its own refs, whatever it does with them."""

    async def scenario() -> None:
        async with granter(services[0], make(shared_by_bots=True)) as g:
            await grant(g)
            await g.plan("later", plan_id=1, member_id=43)
        async with granter(services[1], make()) as g:  # what is recorded holds
            assert isinstance(g.ledger, BotLedger)
            row = await grant(g)
            assert (row.ref, row.status, row.attempts) == ("a", "granted", 1)
            assert [grant.ref async for grant in g.grants()] == ["a"]
            assert (await g.run_planned()).granted == 0
            assert await g.ledger.get("later") is None
            assert [attempt.ref for attempt in await g.ledger.attempts("a")] == ["a"]
            await use_follow_ups(g.ledger)
            assert (await g.mark_delivered("a")).ref == "a"
            assert await g.purge(delivered_before=datetime.now(UTC) + timedelta(days=1)) == 1
        async with granter(services[0], make(shared_by_bots=True)) as g:
            assert (await g.run_planned()).granted == 1
            assert [(grant.ref, grant.status) async for grant in g.grants()] == [("a", "granted"), ("later", "granted")]
            assert [grant.ref async for grant in g.owed(after="a")] == ["later"]
        async with make() as whole:
            assert [grant.ref async for grant in whole.grants()] == ["7:a", "7:later", "8:a"]
        elsewhere = granter(services[0], make(), base_url="https://other.example")
        with pytest.raises(UsageError, match="belongs to several bots at https://api"):
            await elsewhere.open()
        assert [len(service.audit) for service in services] == [2, 1]

    anyio.run(scenario, backend=backend)


async def use_follow_ups(ledger: BotLedger) -> None:
    hour = timedelta(hours=1)
    found = await ledger.begin_follow_up("a", lease=hour, grace=hour)
    assert found is not None
    assert found.grant.ref == "a"
    assert await ledger.postpone(found, failures=1, due_at=datetime.now(UTC) - hour)
    again = await ledger.begin_follow_up("a", lease=hour, grace=hour)
    assert again is not None
    assert again.failures == 1
    await ledger.end_follow_up(again)


def test_a_ref_that_is_too_long_for_a_shared_ledger_is_a_row_of_a_run_and_no_end(
    make: Make, services: Services, backend: str
) -> None:
    """A ref of 1,000 characters has no room for the number of its bot; a run that resumes looks it up in a page."""
    longest = "r" * 1_000
    requests = [GrantRequest(ref, 1, n) for n, ref in enumerate([*"abcdefgh", longest, *"ijklmnop"], start=1)]

    async def scenario() -> None:
        async with granter(services[0], make(shared_by_bots=True)) as shop:
            for expected in (Summary(granted=16, refused=1), Summary(already=16, refused=1)):
                async with shop.provision(requests, concurrency=2) as run:
                    [refused] = [row async for row in run if row.error is not None]
                assert run.summary == expected
                assert (refused.ref, refused.status) == (longest, GrantStatus.REFUSED)
                assert "characters, and rrr" in str(refused.error)
            with pytest.raises(UsageError, match="at most 998 characters"):
                await grant(shop, longest)
            assert len(services[0].audit) == 16

    anyio.run(scenario, backend=backend)


def test_decisions_in_a_shared_ledger_are_each_bots_own(make: Make, services: Services, backend: str) -> None:
    async def scenario() -> None:
        rows = [GrantRequest("a", 1, 42)]
        async with make(shared_by_bots=True) as ledger:
            for service in services:
                service.inject(Fault("error", when="after", count=1))
                async with granter(service, ledger) as g:
                    assert (await g.provision(rows)).unknown == 1
            async with granter(services[0], ledger) as g:
                assert (await g.resolve("a", "granted", reason="seen")).ref == "a"
                assert [made.ref for made in await g.ledger.decisions("a")] == ["a"]
            async with granter(services[1], ledger) as g:
                assert [grant.status async for grant in g.grants()] == [GrantStatus.UNKNOWN]

    anyio.run(scenario, backend=backend)


def test_a_ledger_with_rows_of_one_bot_is_not_shared_afterwards(make: Make, services: Services, backend: str) -> None:
    async def scenario() -> None:
        async with make() as ledger:
            await ledger.plan(GrantRequest("a", 1, 42))
        with pytest.raises(UsageError, match="has rows whose refs name no bot"):
            await granter(services[0], make(shared_by_bots=True)).open()
        async with granter(services[0], make()) as g:
            await grant(g)
        with pytest.raises(UsageError, match=r"belongs to bot 7 .* alone"):
            await granter(services[0], make(shared_by_bots=True)).open()

    anyio.run(scenario, backend=backend)


async def test_a_copy_belongs_to_the_same_bot(tmp_path: Path, services: Services) -> None:
    with own_schema() as url:
        async with granter(services[0], SqliteLedger(tmp_path / "one.db")) as g:
            await grant(g)
        async with granter(services[1], SqliteLedger(tmp_path / "two.db")) as g:
            await grant(g)
        for source, target in (
            (SqliteStore(tmp_path / "one.db"), PostgresStore(url)),
            (PostgresStore(url), SqliteStore(tmp_path / "three.db")),
        ):
            await copied(source, target)
        for target in (PostgresStore(url), SqliteStore(tmp_path / "three.db")):
            with pytest.raises(UsageError, match=r"the target belongs to bot 7 .* and the source to bot 8"):
                await copied(SqliteStore(tmp_path / "two.db"), target)
        for ledger in (PostgresLedger(url), SqliteLedger(tmp_path / "three.db")):
            with pytest.raises(UsageError, match=r"belongs to bot 7 .* and this is bot 8"):
                await granter(services[1], ledger).open()
            async with granter(services[0], ledger) as g:
                assert (await grant(g)).attempts == 1
    assert [len(service.audit) for service in services] == [1, 1]


async def copied(source: Store, target: Store) -> None:
    async with AsyncExitStack() as stack:
        for store in (source, target):
            await store.open()
            stack.push_async_callback(store.aclose)
        await copy(source, target, lambda *_: None)


async def test_orders_are_planned_for_a_bot_of_a_shared_ledger(services: Services) -> None:
    with own_schema() as url:
        async with PostgresLedger(url, shared_by_bots=True) as ledger:
            with psycopg.connect(url) as connection:
                with pytest.raises(UsageError, match="takes the bot_id"):
                    ledger.plan_in(connection, GrantRequest("a", 1, 42))
                [row] = ledger.plan_in(connection, GrantRequest("a", 1, 42), bot_id=7)
                assert row.ref == "7:a"
            async with granter(services[1], ledger) as g:
                assert (await g.run_planned()).granted == 0
            async with granter(services[0], ledger) as g:
                assert (await g.run_planned()).granted == 1
        async with PostgresLedger(url) as ledger:
            with psycopg.connect(url) as connection, pytest.raises(UsageError, match="and in no other"):
                ledger.plan_in(connection, GrantRequest("a", 1, 42), bot_id=7)


def test_a_fulfillment_delivers_what_is_its_bots(services: Services, backend: str) -> None:
    async def scenario() -> None:
        delivered: list[tuple[int, str]] = []
        came = {service.bot_id: anyio.Event() for service in services}
        async with MemoryLedger(shared_by_bots=True) as ledger:
            for service in services:

                async def deliver(grant: Grant, bot_id: int = service.bot_id) -> None:
                    delivered.append((bot_id, grant.ref))
                    came[bot_id].set()

                async with granter(service, ledger) as g, Fulfillment(g, deliver=deliver, attention=deliver) as f:
                    await f.take("a", plan_id=1, member_id=42)
                    with anyio.fail_after(30):
                        await came[service.bot_id].wait()
        assert delivered == [(7, "a"), (8, "a")]

    anyio.run(scenario, backend=backend)
