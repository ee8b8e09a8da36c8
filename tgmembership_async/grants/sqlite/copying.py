"""The tables of a ledger in SQLite as a source or target of a copy."""

import os
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from tgmembership_async.grants.copying import Entry, Statements, Store, select_state
from tgmembership_async.grants.model import GrantStatus
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.grants.sqlite.statements import DIALECT, SELECT, AttemptRow, add_to_attempts
from tgmembership_async.grants.sqlite.tables import LEDGER
from tgmembership_async.storage.sqlite.database import SqliteStorage
from tgmembership_async.storage.sqlite.generations import Gap, adopt, gaps

T = TypeVar("T")


class SqliteStore(Store):
    """The ledger in a file. It is opened as its owner, so that no other process sends meanwhile."""

    _dialect = DIALECT
    _statements = Statements(
        state=select_state("grants", "decision"),
        page=f"{SELECT} WHERE grants.id > :after AND grants.id <= :last ORDER BY grants.id LIMIT :limit",
        found=f"{SELECT} WHERE ref IN (SELECT value FROM json_each(:refs))",  # noqa: S608 - constant
    )

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._ledger = SqliteLedger(path)
        self._storage = SqliteStorage(path, LEDGER)

    async def open(self) -> None:
        """Open the file as its owner; rows that the last owner left `sending` become `unknown`."""
        async with self._ledger:
            pass
        await self._storage.open()

    async def aclose(self) -> None:
        """Close it."""
        await self._storage.aclose()

    async def gaps(self) -> list[Gap]:
        """Return the periods that restored copies lack."""
        return await self._storage.read(gaps)

    async def take_gaps(self, found: list[Gap]) -> None:
        """Hold new refs that were paid in these periods, too."""
        await self._storage.write(partial(adopt, found=found))

    async def _read(self, job: Callable[[Any], T]) -> T:
        return await self._storage.read(job)

    async def _write(self, job: Callable[[Any], T]) -> T:
        return await self._storage.write(job)

    def _add(self, connection: sqlite3.Connection, entries: list[Entry]) -> None:
        for entry in entries:
            _add(connection, entry)


def _add(connection: sqlite3.Connection, entry: Entry) -> None:
    token_id = None
    if entry.token is not None:
        token_id = connection.execute("INSERT INTO token (body) VALUES (?)", (entry.token.encode(),)).lastrowid
    grant_id = connection.execute(
        "INSERT INTO grants (ref, plan_id, member_id, note, status, attempts, token_id, error, updated_at,"
        " granted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.ref, entry.plan_id, entry.member_id, entry.note, entry.status, entry.attempts),
            *(token_id, entry.error, DIALECT.stored_time(entry.updated_at)),
            DIALECT.stored_time(entry.granted_at),
        ),
    ).lastrowid
    assert grant_id is not None  # noqa: S101 - inserted
    attempts: list[AttemptRow] = []
    for attempt in entry.history:
        attempts.append(AttemptRow(grant_id, attempt.number, False, attempt.began_at, GrantStatus.SENDING))
        if attempt.status is not None:
            attempts.append(
                AttemptRow(grant_id, attempt.number, True, attempt.ended_at, attempt.status, attempt.evidence)
            )
    add_to_attempts(connection, attempts)
    connection.executemany(
        "INSERT INTO decision (grant_id, decision, decided_at, reason) VALUES (?, ?, ?, ?)",
        [(grant_id, made.decision, DIALECT.stored_time(made.decided_at), made.reason) for made in entry.decisions],
    )
