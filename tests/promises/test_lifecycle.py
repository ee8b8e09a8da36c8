"""Opening, closing or using a Session in other tasks, on other loops or at the wrong time never hangs."""

import asyncio
import threading
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from scripted_server import answering

from tgmembership_async import CallError, OutcomeUnknown, RetryPolicy, Session, UsageError


def session(url: str, **options: Any) -> Session:
    return Session(1, CANARY_KEY, base_url=url, proxy=None, **options)


def test_entered_and_left_from_different_tasks(serve: Any, run: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        tg = session(server.url)
        for step in (tg.open, tg.get_plans, tg.aclose):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
        with pytest.raises(UsageError, match="closed"):
            await tg.get_plans()

    run(scenario)


def test_used_on_another_loop(serve: Any) -> None:
    server = serve(answering())
    tg = session(server.url)

    async def enter() -> None:
        await tg.open()
        await tg.get_plans()

    async def use() -> None:
        for step in (tg.get_plans, tg.aclose):
            with pytest.raises(UsageError, match="another event loop"):
                await step()

    with asyncio.Runner() as first:
        first.run(enter())
        elsewhere = threading.Thread(
            target=lambda: [anyio.run(use, backend=backend) for backend in ("asyncio", "trio")]
        )
        elsewhere.start()
        elsewhere.join(20)
        assert not elsewhere.is_alive()
        first.run(tg.aclose())


async def arrival(server: Any) -> None:
    while not server.requests:  # noqa: ASYNC110 - its requests arrive in a thread
        await anyio.sleep(0.01)


def hang(connection: Any) -> None:
    connection.request()
    connection.sock.recv(1)


@pytest.mark.parametrize("calls", [1, 30])
@pytest.mark.parametrize("method", ["get_plans", "add_member"])
def test_closed_while_calls_run(calls: int, method: str, serve: Any, run: Any) -> None:
    server = serve(hang)
    ends: list[Exception] = []

    async def scenario() -> None:
        tg = await session(server.url, grant_timeout=0.7, retry=RetryPolicy(transient_base=1000)).open()

        async def call() -> None:
            try:
                await getattr(tg, method)(*((1, 42) if method == "add_member" else ()))
            except (CallError, UsageError) as error:
                ends.append(error)

        with anyio.fail_after(15):
            async with anyio.create_task_group() as group:
                for _ in range(calls):
                    group.start_soon(call)
                await arrival(server)
                await tg.aclose()
                await tg.aclose()

    run(scenario)
    assert len(ends) == calls
    sent = [error for error in ends if isinstance(error, OutcomeUnknown)]
    assert {type(error) for error in ends} <= {OutcomeUnknown, UsageError}
    assert (len(sent) > 0) is (method == "add_member")
    assert len(sent) <= 8


def test_closed_by_a_task_that_is_itself_cancelled(serve: Any, run: Any) -> None:
    server = serve(hang)

    async def scenario() -> None:
        tg = await session(server.url, grant_timeout=3600, deadline=3600).open()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:

                async def call() -> None:
                    with pytest.raises(OutcomeUnknown):
                        await tg.add_member(1, 42)

                group.start_soon(call)
                await arrival(server)
                with anyio.move_on_after(0.1):
                    await tg.aclose()

    run(scenario)


def test_a_loop_that_ends_without_closing(serve: Any) -> None:
    server = serve(answering())
    tg = session(server.url)

    async def forget() -> None:
        await tg.open()
        await tg.get_plans()
        await tg._shared._transport.aclose()  # closes the sockets, as the end of a process does

    asyncio.run(forget())

    async def later() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await tg.get_plans()

    asyncio.run(later())


def test_opened_twice_or_again(serve: Any, run: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        tg = session(server.url)
        await tg.open()
        with pytest.raises(UsageError, match="already open"):
            await tg.open()
        await tg.aclose()
        with pytest.raises(UsageError, match="make a new one"):
            await tg.open()

    run(scenario)
