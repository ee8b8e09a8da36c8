"""The deadline holds within 50 ms under a dribbling server, a full queue, a long pause and a long backoff."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from scripted_server import answering

from tgmembership_async import CallError, DeadlineExceeded, OutcomeUnknown, RateLimited, RetryPolicy, Session

DEADLINE = 0.2
PATIENT = RetryPolicy(transient_base=3600, throttled_base=3600, backoff_cap=3600)
TRIES = 5  # other processes may delay an attempt


def session(url: str, **options: Any) -> Session:
    return Session(1, CANARY_KEY, base_url=url, proxy=None, **{"retry": PATIENT, "deadline": DEADLINE, **options})


async def overshoot(call: Callable[[], Awaitable[object]], error: type[CallError]) -> float:
    """Return the smallest overshoot of the deadline of several calls that end in this error, in seconds."""
    missed = []
    for _ in range(TRIES):
        began = anyio.current_time()
        with pytest.raises((error, DeadlineExceeded)) as ended:  # on a busy machine the request may not be sent in time
            await call()
        if isinstance(ended.value, error):
            missed.append(anyio.current_time() - began - DEADLINE)
            if missed[-1] <= 0.05:
                break
    return min(missed)


def dribble(connection: Any) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(400):
        connection.send(b" ")
        with suppress(TimeoutError):
            connection.sock.settimeout(0.01)
            connection.sock.recv(1)
            return


@pytest.mark.parametrize(("method", "error"), [("get_plans", DeadlineExceeded), ("add_member", OutcomeUnknown)])
def test_under_a_dribbling_server(method: str, error: type[CallError], serve: Any, run: Any) -> None:
    server = serve(dribble)

    async def scenario() -> None:
        async with session(server.url) as tg:
            arguments = (1, 42) if method == "add_member" else ()
            assert await overshoot(lambda: getattr(tg, method)(*arguments), error) <= 0.05

    run(scenario)


def test_in_a_full_queue(serve: Any, run: Any) -> None:
    def slow(connection: Any) -> None:
        connection.request()
        connection.sock.recv(1)

    server = serve(slow)

    async def scenario() -> None:
        full = session(server.url, max_connections=2, deadline=10, read_timeout=60, grant_timeout=0.1)
        async with full as tg, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(tg.get_plans)
            await anyio.sleep(0.1)
            view = tg.with_options(deadline=DEADLINE)
            assert await overshoot(lambda: view.add_member(1, 42), DeadlineExceeded) <= 0.05
            group.cancel_scope.cancel()

    run(scenario)
    assert not any(b"addMember" in request for request in server.requests)


def test_under_a_pause_that_ends_too_late(serve: Any, run: Any) -> None:
    server = serve(answering(429, b"", retry_after="3600"))

    async def scenario() -> None:
        async with session(server.url) as tg:
            assert await overshoot(lambda: tg.add_member(1, 42), RateLimited) <= 0.05
            assert await overshoot(lambda: tg.add_member(1, 42), RateLimited) <= 0.05

    run(scenario)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fractions", [[0.9], [0.00001, 0.9]], ids=["the first", "the second"])
def test_under_a_backoff_without_end(
    refused_port: int, run: Any, monkeypatch: pytest.MonkeyPatch, fractions: list[float]
) -> None:
    # The first or the second random backoff does not fit into the deadline.
    drawn = itertools.cycle(fractions)
    monkeypatch.setattr("tgmembership_async.middleware.random", lambda: next(drawn))

    async def scenario() -> None:
        async with session(f"http://127.0.0.1:{refused_port}") as tg:
            assert await overshoot(lambda: tg.add_member(1, 42), DeadlineExceeded) <= 0.05
            with pytest.raises(DeadlineExceeded) as late:
                await tg.add_member(1, 42)
            assert not late.value.maybe_applied

    run(scenario)
