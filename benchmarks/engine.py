"""Measure `Granter.provision` without the cost of calls, compared to its parts.

    python benchmarks/engine.py [--quick] [--json FILE] [--in FOLDER]

The figures are CPU of all threads per member, interleaved. The engine alone is compared to workers that only read a
shared iterator. The engine with a SqliteLedger is compared to plain sqlite3, which makes the same two durable changes
by executemany, in groups as large as the number of tasks. The second table is the maximum delay of the event loop. The
third is a run over requests that were all granted by an earlier run, which it looks up in the ledger.

The files are created in FOLDER, by default the working directory: a temporary folder may be in memory.
"""

import asyncio
import gc
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from provision import KEY, Null, requests
from tables import Row, option, publish

from tgmembership_async import AccessToken, Session
from tgmembership_async.grants import Grant, Granter, GrantRequest, MemoryLedger, SqliteLedger
from tgmembership_async.grants.model import dump_token
from tgmembership_async.grants.provisioning import EVERY_REASON, Run
from tgmembership_async.grants.transitions import planned, utc_now
from tgmembership_async.protocol.wire import Hold
from tgmembership_async.storage.sqlite import schema

TOKEN = AccessToken(token="T" * 24, link="https://t.me/shop_bot?start=" + "T" * 24, raw={"code": "T" * 24})
CLAIM = "INSERT INTO grants (ref, plan_id, member_id, note, status, attempts, updated_at) VALUES (?, 1, ?, '', ?, 1, ?)"
BEGIN = "INSERT INTO attempt VALUES (?, 1, 0, ?, 'sending', '')"
KEEP = "INSERT INTO token (id, body) VALUES (?, ?)"
SETTLE = "UPDATE grants SET status = 'granted', token_id = ?, updated_at = ? WHERE id = ? AND status = 'sending'"
END = "INSERT INTO attempt VALUES (?, 1, 1, ?, 'granted', 'ok: true')"

Way = Callable[[list[GrantRequest], int, Path], Awaitable[object]]


class Silent(Session):
    """A Session whose grants return at once; it takes the claim on the row, as each call does before its request."""

    async def _ask(self, *_: object, hold: Hold | None = None, **_named: object) -> Any:
        if hold is not None:
            await hold.take()
        return TOKEN


def silent(tasks: int) -> Session:
    """Return a Silent session with a connection for each task: with fewer, each row is planned before it is claimed."""
    return Silent(1, KEY, transport=Null(), max_connections=tasks)


async def bare_workers(wishes: list[GrantRequest], tasks: int, _: Path) -> None:
    """Read all requests from one iterator, and do nothing with them."""
    left = iter(wishes)

    async def work() -> None:
        for wish in left:
            await nothing(wish)

    async def nothing(_: GrantRequest) -> None:
        pass

    await asyncio.gather(*(work() for _ in range(tasks)))


async def engine_alone(wishes: list[GrantRequest], tasks: int, _: Path) -> None:
    """Run the engine over all requests with a grant that does nothing."""
    done = planned(wishes[0], utc_now()), True

    async def nothing(_: GrantRequest, *__: object) -> tuple[Grant, bool]:
        return done

    async def nowhere(_: Collection[str]) -> dict[str, Grant]:
        return {}

    async with silent(tasks) as session:
        await Run(wishes, nothing, nowhere, session, concurrency=tasks, stop_on=EVERY_REASON)


async def bare_sqlite(wishes: list[GrantRequest], tasks: int, path: Path) -> None:
    """Make the two changes of state for one group after another, with a commit for each change."""
    async with SqliteLedger(path):
        pass  # creates the tables
    body = dump_token(TOKEN).encode()
    with closing(schema.connect(path, owner=True)) as connection:
        for first in range(0, len(wishes), tasks):
            group = list(enumerate(wishes[first : first + tasks], first + 1))
            now = time.time_ns() // 1_000
            with committed(connection):
                connection.executemany(CLAIM, [(wish.ref, wish.member_id, "sending", now) for _, wish in group])
                connection.executemany(BEGIN, [(number, now) for number, _ in group])
            with committed(connection):
                connection.executemany(KEEP, [(number, body) for number, _ in group])
                connection.executemany(SETTLE, [(number, now, number) for number, _ in group])
                connection.executemany(END, [(number, now) for number, _ in group])


@contextmanager
def committed(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


async def with_memory(wishes: list[GrantRequest], tasks: int, _: Path) -> None:
    """Provision with the ledger in memory."""
    async with Granter(silent(tasks), MemoryLedger()) as granter:
        await granter.provision(wishes, concurrency=tasks)


async def with_ledger(wishes: list[GrantRequest], tasks: int, path: Path) -> None:
    """Provision with the durable ledger."""
    async with Granter(silent(tasks), SqliteLedger(path)) as granter:
        await granter.provision(wishes, concurrency=tasks)


async def cost(way: Way, wishes: list[GrantRequest], tasks: int, folder: Path) -> float:
    """Return microseconds of CPU per member."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        began = time.process_time()
        await way(wishes, tasks, Path(fresh, "grants.db"))
        return 1e6 * (time.process_time() - began) / len(wishes)


async def lag(wishes: list[GrantRequest], tasks: int, folder: Path) -> float:
    """Return the maximum delay in seconds of a task on the same event loop that sleeps for one millisecond."""
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - due)

    watching = asyncio.create_task(watch())
    await cost(with_ledger, wishes, tasks, folder)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return worst


async def resumed(members: int, folder: Path) -> Row:
    """Return the members per second of a run whose rows are all granted already."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        path = Path(fresh, "grants.db")
        await bare_sqlite(list(requests(members)), 1_000, path)
        async with SqliteLedger(path) as ledger, Granter(silent(64), ledger) as granter:
            wall, cpu = time.perf_counter(), time.process_time()
            summary = await granter.provision(requests(members), concurrency=64)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert summary.already == members, summary
    return {"members": members, "members/s": round(members / wall), "members per CPU second": round(members / cpu)}


WAYS: dict[str, tuple[Way, int, str | None]] = {
    "bare workers, 64": (bare_workers, 64, None),
    "engine alone, 64 tasks": (engine_alone, 64, "bare workers, 64"),
    "engine with MemoryLedger, 64 tasks": (with_memory, 64, "bare workers, 64"),
    "bare sqlite3, groups of 64": (bare_sqlite, 64, None),
    "engine with SqliteLedger, 64 tasks": (with_ledger, 64, "bare sqlite3, groups of 64"),
    "bare sqlite3, groups of 1,000": (bare_sqlite, 1_000, None),
    "engine with SqliteLedger, 1,000 tasks": (with_ledger, 1_000, "bare sqlite3, groups of 1,000"),
}


def main() -> None:
    """Print the three tables."""
    rounds, members, known = (3, 4_000, 20_000) if "--quick" in sys.argv else (9, 20_000, 200_000)
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    wishes = list(requests(members))
    gc.collect()
    gc.freeze()  # exclude objects loaded so far from later garbage collections
    with tempfile.TemporaryDirectory(dir=option("--in") or os.curdir) as folder:
        place = Path(folder).resolve()
        for _ in range(rounds):
            for name, (way, tasks, _) in WAYS.items():
                costs[name].append(asyncio.run(cost(way, wishes, tasks, place)))
        lags = {tasks: asyncio.run(lag(wishes, tasks, place)) for tasks in (64, 1_000)}
        again = asyncio.run(resumed(known, place))
    rows: list[Row] = []
    for name, (_, _, peer) in WAYS.items():
        ratios = [mine / its for mine, its in zip(costs[name], costs[peer or name], strict=True)]
        rows.append(
            {
                "what": name,
                "CPU µs per member": round(statistics.median(costs[name]), 1),
                "lowest": round(min(costs[name]), 1),
                "ratio to its peer": round(statistics.median(ratios), 2) if peer else None,
            }
        )
    worst: list[Row] = [{"tasks": tasks, "worst lag, ms": round(1e3 * lag, 1)} for tasks, lag in lags.items()]
    tables = {
        "the engine on a call that does nothing": rows,
        "the event loop with SqliteLedger": worst,
        "a run that is resumed": [again],
    }
    publish(tables, sqlite=sqlite3.sqlite_version)


if __name__ == "__main__":
    main()
