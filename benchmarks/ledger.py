"""Measure durable state changes per second: SqliteLedger, one commit per row, and aiosqlite.

    python benchmarks/ledger.py [--quick] [--json FILE] [--in FOLDER]

64 tasks claim and settle refs in interleaved rounds of a fixed time, on the same disk and schema, with the same pragmas
and statements. Each peer commits every change before it continues, as the ledger does:

- one commit per row: the standard library's sqlite3 in a separate thread, one transaction for each change;
- aiosqlite: the same statements under a lock, because a connection has one transaction at a time.

The files are created in FOLDER, by default the working directory: a temporary folder may be in memory.
"""

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import aiosqlite
from attrs import frozen
from tables import Row, option, publish

from tgmembership_async import AccessToken
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.grants.model import dump_token

TASKS = 64
TARGET = 6.0
PRAGMAS = ("synchronous=EXTRA", "fullfsync=ON", "secure_delete=ON", "foreign_keys=ON", "temp_store=MEMORY")

Change = Callable[[str], Awaitable[object]]
TOKEN = AccessToken(token="T" * 32, link="https://t.me/shop_bot?start=" + "T" * 32, raw={"code": "T" * 32})

FIND = "SELECT id, status, attempts FROM grants WHERE ref = ?"
CLAIM = (
    "INSERT INTO grants (ref, plan_id, member_id, note, status, attempts, updated_at) VALUES (?, 1, 42, '', ?, 1, ?)"
)
BEGIN = "INSERT INTO attempt VALUES ((SELECT id FROM grants WHERE ref = ?), 1, 0, ?, 'sending', '')"
KEEP = "INSERT INTO token (body) VALUES (?)"
SETTLE = "UPDATE grants SET status = ?, token_id = ?, updated_at = ? WHERE ref = ? AND status = 'sending'"
END = "INSERT INTO attempt VALUES ((SELECT id FROM grants WHERE ref = ?), 1, 1, ?, 'granted', 'ok: true')"


@frozen
class Store:
    """The two state changes of a grant; each is durable when it returns."""

    claim: Change
    settle: Change


def now() -> int:
    """Return microseconds since 1970."""
    return time.time_ns() // 1_000


@asynccontextmanager
async def ours(path: Path) -> AsyncIterator[Store]:
    """Yield the changes of a SqliteLedger."""
    async with SqliteLedger(path) as ledger:

        async def claim(ref: str) -> object:
            return await ledger.claim(GrantRequest(ref, 1, 42))

        async def settle(ref: str) -> object:
            return await ledger.settle(ref, Settlement(GrantStatus.GRANTED, token=TOKEN, evidence="ok: true"))

        yield Store(claim, settle)


@asynccontextmanager
async def one_commit_per_row(path: Path) -> AsyncIterator[Store]:
    """Yield the same changes with sqlite3 in a thread, one transaction each."""
    async with SqliteLedger(path):
        pass  # creates the tables
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")

    def claim_row(ref: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(FIND, (ref,)).fetchone()
        connection.execute(CLAIM, (ref, "sending", now()))
        connection.execute(BEGIN, (ref, now()))
        connection.execute("COMMIT")

    def settle_row(ref: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(FIND, (ref,)).fetchone()
        token = connection.execute(KEEP, (dump_token(TOKEN).encode(),)).lastrowid
        connection.execute(SETTLE, ("granted", token, now(), ref))
        connection.execute(END, (ref, now()))
        connection.execute("COMMIT")

    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()
        yield Store(
            lambda ref: loop.run_in_executor(thread, claim_row, ref),
            lambda ref: loop.run_in_executor(thread, settle_row, ref),
        )
    connection.close()


@asynccontextmanager
async def with_aiosqlite(path: Path) -> AsyncIterator[Store]:
    """Yield the same changes with aiosqlite."""
    async with SqliteLedger(path):
        pass  # creates the tables
    async with aiosqlite.connect(path, isolation_level=None) as db:
        turn = asyncio.Lock()
        for pragma in PRAGMAS:
            await db.execute(f"PRAGMA {pragma}")

        async def claim(ref: str) -> None:
            async with turn:
                await db.execute("BEGIN IMMEDIATE")
                await db.execute_fetchall(FIND, (ref,))
                await db.execute(CLAIM, (ref, "sending", now()))
                await db.execute(BEGIN, (ref, now()))
                await db.execute("COMMIT")

        async def settle(ref: str) -> None:
            async with turn:
                await db.execute("BEGIN IMMEDIATE")
                await db.execute_fetchall(FIND, (ref,))
                token = (await db.execute(KEEP, (dump_token(TOKEN).encode(),))).lastrowid
                await db.execute(SETTLE, ("granted", token, now(), ref))
                await db.execute(END, (ref, now()))
                await db.execute("COMMIT")

        yield Store(claim, settle)


async def changes_per_second(store: Store, refs: "count[int]", seconds: float) -> float:
    """Return the changes per second that all tasks together make in one round."""
    done = 0
    began = time.perf_counter()
    end = began + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            ref = f"stripe:pi_{next(refs)}"
            await store.claim(ref)
            await store.settle(ref)
            done += 2

    await asyncio.gather(*(work() for _ in range(TASKS)))
    return done / (time.perf_counter() - began)


Peer = Callable[[Path], AbstractAsyncContextManager[Store]]
PEERS: dict[str, Peer] = {
    "SqliteLedger": ours,
    "one commit per row": one_commit_per_row,
    "aiosqlite": with_aiosqlite,
}


async def compare(folder: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measure all peers in interleaved rounds; each peer keeps its file between rounds."""
    rates: dict[str, list[float]] = {name: [] for name in PEERS}
    refs = count()
    for _ in range(rounds):
        for name, peer in PEERS.items():
            async with peer(folder / f"{name}.db") as store:
                rates[name].append(await changes_per_second(store, refs, seconds))
    return rates


def main() -> int:
    """Print the table; return 1 if the ledger misses the target."""
    rounds, seconds = (2, 1.0) if "--quick" in sys.argv else (5, 2.0)
    with tempfile.TemporaryDirectory(dir=option("--in") or os.curdir) as folder:
        rates = asyncio.run(compare(Path(folder).resolve(), rounds, seconds))
    best = statistics.median(rates["SqliteLedger"])
    ratios = {name: best / statistics.median(found) for name, found in rates.items()}
    rows: list[Row] = [
        {
            "store": name,
            "changes/s": round(statistics.median(found)),
            "lowest": round(min(found)),
            "highest": round(max(found)),
            "µs per change": round(1e6 / statistics.median(found), 1),
            "SqliteLedger is faster by": round(ratios[name], 2),
        }
        for name, found in rates.items()
    ]
    publish({f"durable changes, {TASKS} tasks": rows}, "aiosqlite", sqlite=sqlite3.sqlite_version)
    return 0 if min(ratios[name] for name in PEERS if name != "SqliteLedger") >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
