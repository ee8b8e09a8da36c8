"""The lanes: the warmest first, never one that did not end cleanly, never one that was idle for too long."""

from typing import Any

import anyio
import pytest
from scripted_server import answering

from tgmembership_async.transport.lanes import Lanes


class Lane:
    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True
        raise OSError


def run_lanes(scenario: Any, backend: str) -> None:
    anyio.run(scenario, backend=backend)


def test_a_lane_comes_back_only_after_a_clean_end(backend: str) -> None:
    async def scenario() -> None:
        made: list[Lane] = []

        def make() -> Lane:
            made.append(Lane())
            return made[-1]

        lanes = Lanes(make)

        async def clean(lane: Lane) -> tuple[Lane, bool]:
            return lane, True

        async def unclean(lane: Lane) -> tuple[Lane, bool]:
            return lane, False

        async def broken(_lane: Lane) -> tuple[Lane, bool]:
            raise LookupError

        first = await lanes.lend(clean, max_idle=5)
        assert await lanes.lend(clean, max_idle=5) is first
        assert lanes.idle == 1
        with pytest.raises(LookupError):
            await lanes.lend(broken, max_idle=5)
        assert first.closed
        assert lanes.idle == 0
        second = await lanes.lend(unclean, max_idle=5)
        assert second.closed
        third = await lanes.lend(clean, max_idle=5)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await lanes.lend(clean, max_idle=-1)
        assert third.closed, "too old to be used again"
        await lanes.aclose()
        assert lanes.idle == 0
        late = await lanes.lend(clean, max_idle=5)
        assert late.closed, "what ends after the close does not come back"

    run_lanes(scenario, backend)


def test_the_warmest_lane_is_taken_first(backend: str) -> None:
    async def scenario() -> None:
        lanes = Lanes(Lane)
        both = anyio.Event()
        inside: list[Lane] = []

        async def together(lane: Lane) -> tuple[Lane, bool]:
            inside.append(lane)
            if len(inside) == 2:
                both.set()
            await both.wait()
            return lane, True

        order: list[Lane] = []

        async def use() -> None:
            order.append(await lanes.lend(together, max_idle=5))

        async with anyio.create_task_group() as group:
            group.start_soon(use)
            group.start_soon(use)
        assert lanes.idle == 2

        async def alone(lane: Lane) -> tuple[Lane, bool]:
            return lane, True

        assert await lanes.lend(alone, max_idle=5) is order[-1]

    run_lanes(scenario, backend)


def test_a_connection_is_kept_and_a_grant_wants_a_fresh_one(
    serve: Any, run: Any, monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    server = serve(answering())
    monkeypatch.setattr("tgmembership_async.transport.lanes.KEEP_ALIVE_UNSAFE", -1.0)

    async def scenario() -> None:
        async with session(server.url) as tg:
            for _ in range(3):
                await tg.get_plans()
            assert server.connections == 1
            await tg.add_member(1, 42)
            assert server.connections == 2

    run(scenario)


def test_there_are_never_more_connections_than_asked_for(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        async with session(server.url, max_connections=3) as tg:
            async with anyio.create_task_group() as group:
                for _ in range(60):
                    group.start_soon(tg.get_plans)
            assert server.connections <= 3

    run(scenario)
    assert len(server.requests) == 60


def test_a_connection_that_the_server_closed_while_idle_is_not_used(serve: Any, run: Any, session: Any) -> None:
    def one_each(connection: Any) -> None:
        connection.request()
        connection.answer()

    server = serve(one_each)

    async def scenario() -> None:
        async with session(server.url) as tg:
            for _ in range(5):
                await tg.get_plans()
                await anyio.sleep(0.02)
                assert (await tg.add_member(1, 42)).raw == []
                await anyio.sleep(0.02)

    run(scenario)
    assert server.connections == 10
