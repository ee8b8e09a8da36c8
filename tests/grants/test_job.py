"""A run can be awaited, made a task, or handed to a framework's background tasks, and warns if it is thrown away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
import httpx
import pytest
import trio
from fastapi import BackgroundTasks, FastAPI
from stub_transport import StubTransport, reply

from tgmembership_async import Session, UsageError
from tgmembership_async.grants import Granter, GrantRequest, MemoryLedger
from tgmembership_async.grants.provisioning import Run, Summary

ANYIO = tuple(map(int, version("anyio").split(".")[:2]))
GRANTED = reply('{"ok": true, "code": 200, "result": "tok"}')
DONE = Summary(granted=2)
WAYS: dict[str, Callable[[Granter], Run]] = {
    "run_planned": lambda granter: granter.run_planned(),
    "provision": lambda granter: granter.provision([GrantRequest("a", 1), GrantRequest("b", 1)]),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@asynccontextmanager
async def two_planned() -> AsyncIterator[Granter]:
    async with Granter(Session(1, "k", transport=StubTransport(GRANTED)), MemoryLedger()) as granter:
        for ref in "ab":
            await granter.plan(ref, plan_id=1)
        yield granter


async def statuses(granter: Granter) -> list[str]:
    return [grant.status async for grant in granter.grants()]


@each_way
def test_a_run_is_awaited(way: Callable[[Granter], Run], backend: str) -> None:
    async def scenario() -> None:
        async with two_planned() as granter:
            assert await way(granter) == DONE

    anyio.run(scenario, backend=backend)


@pytest.mark.skipif(ANYIO < (4, 14), reason="start_soon of anyio before 4.14 takes only what `async def` makes")
@each_way
def test_a_run_is_started_in_a_task_group(way: Callable[[Granter], Run], backend: str) -> None:
    async def scenario() -> None:
        async with two_planned() as granter:
            async with anyio.create_task_group() as group:
                group.start_soon(way, granter)
            assert await statuses(granter) == ["granted", "granted"]

    anyio.run(scenario, backend=backend)


@each_way
async def test_a_run_is_made_a_task_of_asyncio(way: Callable[[Granter], Run]) -> None:
    async with two_planned() as granter:
        assert await asyncio.create_task(way(granter)) == DONE
        assert await asyncio.wait_for(way(granter), 60) == Summary(already=2 if way is WAYS["provision"] else 0)


def test_a_run_is_started_in_a_nursery_of_trio() -> None:
    async def scenario() -> None:
        async with two_planned() as granter:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(granter.run_planned)
            assert await statuses(granter) == ["granted", "granted"]

    trio.run(scenario)


@pytest.mark.parametrize("handed", ["the method", "the run"])
async def test_a_run_is_handed_to_the_background_tasks_of_fastapi(handed: str) -> None:
    async with two_planned() as granter:
        app = FastAPI()

        @app.post("/run")
        async def run(background: BackgroundTasks) -> None:
            background.add_task(granter.run_planned if handed == "the method" else granter.run_planned())

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            assert (await client.post("/run")).status_code == 200
        assert await statuses(granter) == ["granted", "granted"]


@each_way
def test_a_run_that_is_thrown_away_unused_warns_with_the_line_to_write(
    way: Callable[[Granter], Run], backend: str
) -> None:
    async def scenario() -> None:
        async with two_planned() as granter:
            with pytest.warns(ResourceWarning, match=r"`await granter\.run_planned\(\)`.*`async with granter\.prov"):
                way(granter)
            assert await statuses(granter) == ["planned", "planned"]

    anyio.run(scenario, backend=backend)


async def test_a_reconciliation_that_is_thrown_away_unused_warns() -> None:
    async with two_planned() as granter:
        with pytest.warns(RuntimeWarning, match=r"Granter\.reconcile' was never awaited"):
            granter.reconcile()  # type: ignore[unused-coroutine]
        assert await asyncio.create_task(granter.reconcile()) == []


async def test_a_task_that_is_cancelled_before_it_begins_grants_nothing_and_does_not_warn() -> None:
    async with two_planned() as granter:
        task = asyncio.create_task(granter.run_planned())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        granter.run_planned().close()
        assert await statuses(granter) == ["planned", "planned"]


async def test_a_run_is_awaited_once() -> None:
    async with two_planned() as granter:
        run = granter.run_planned()
        assert await run == DONE
        with pytest.raises(UsageError, match="only once"):
            await run


async def test_a_row_is_looked_up_by_its_ref() -> None:
    async with two_planned() as granter:
        found: Any = await granter.get("a")
        assert (found.ref, found.status) == ("a", "planned")
        assert await granter.get("c") is None
        with pytest.raises(UsageError, match="ref must be"):
            await granter.get("")
