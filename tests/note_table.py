"""A component of two versions for tests of the storage: a table of notes."""

import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from tgmembership_async.storage.sqlite.database import Component, Job, SqliteStorage

_FIRST = ("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",)
_SECOND = (
    "ALTER TABLE note ADD COLUMN author TEXT NOT NULL DEFAULT 'nobody'",
    "CREATE TABLE reply (note_id INTEGER REFERENCES note (id) DEFERRABLE INITIALLY DEFERRED) STRICT",
)
OLD_NOTES = Component("note", (_FIRST,))
NOTES = Component("note", (_FIRST, _SECOND))
OTHERS = Component("other", (("CREATE TABLE other (id INTEGER PRIMARY KEY) STRICT",),))


def add(text: str) -> Job[int | None]:
    return lambda connection: connection.execute("INSERT INTO note (text) VALUES (?)", (text,)).lastrowid


def texts(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM note ORDER BY id")]


def an_orphan(connection: sqlite3.Connection) -> None:
    """Write a row that only COMMIT rejects."""
    connection.execute("INSERT INTO reply VALUES (999)")


@asynccontextmanager
async def opened(path: Path, component: Component = NOTES, *, owner: bool = True) -> AsyncIterator[SqliteStorage]:
    storage = SqliteStorage(path, component, owner=owner)
    await storage.open()
    try:
        yield storage
    finally:
        await storage.aclose()


@asynccontextmanager
async def busy(storage: SqliteStorage) -> AsyncIterator[None]:
    """Keep the writer busy, so that jobs queued meanwhile become one group."""
    begun, end = threading.Event(), threading.Event()

    def work(_: sqlite3.Connection) -> None:
        begun.set()
        end.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(storage.read, work)
        await anyio.to_thread.run_sync(begun.wait, 60)
        try:
            yield
            await anyio.wait_all_tasks_blocked()
        finally:
            end.set()


def python(code: str, *arguments: object) -> list[str]:
    """Return a command line that runs code which can import the package and these modules."""
    header = f"import sys; sys.path[:0] = {[*sys.path, str(Path(__file__).parent)]!r}\n"
    return [sys.executable, "-c", header + code, *map(str, arguments)]
