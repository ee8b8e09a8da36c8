"""The tables of a ledger in SQLite as a source or target of a copy."""

import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, cast

from tgmembership_async.grants.copying import PAGE, Entry, State, new_among
from tgmembership_async.grants.model import Attempt, Decision, DecisionMade, GrantStatus
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.grants.sqlite.statements import _moment, _number, last_id
from tgmembership_async.grants.sqlite.tables import LEDGER
from tgmembership_async.storage.binding import Binding, check_copy
from tgmembership_async.storage.sqlite.binding import read_binding, write_binding
from tgmembership_async.storage.sqlite.database import SqliteStorage

_GRANTS: Final = """
    SELECT grants.id, ref, plan_id, member_id, note, status, attempts, token.body, error, updated_at,
        granted_at
    FROM grants LEFT JOIN token ON token.id = token_id
"""
_ATTEMPTS: Final = "SELECT grant_id, number, ended, at, status, evidence FROM attempt"
_DECISIONS: Final = "SELECT grant_id, decision, decided_at, reason FROM decision"


class SqliteStore:
    """The ledger in a file. It is opened as its owner, so that no other process sends meanwhile."""

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

    async def state(self) -> State:
        """Return its state."""
        return await self._storage.read(_state)

    async def binding(self) -> Binding | None:
        """Return whose it is."""
        return await self._storage.read(partial(read_binding, component=LEDGER.name))

    async def bind(self, source: Binding | None) -> None:
        """Take over a source's binding."""
        await self._storage.write(partial(_bind, source=source))

    async def page(self, after: int, last: int) -> tuple[list[Entry], int | None]:
        """Return the entries after a row's id, and the id to continue from."""
        until = min(after + PAGE, last)
        entries = await self._storage.read(partial(_between, after=after, until=until))
        return entries, until if until < last else None

    async def take_in(self, entries: list[Entry]) -> int:
        """Store the new entries in one transaction."""
        return await self._storage.write(partial(_take_in, entries=entries))


def _bind(connection: sqlite3.Connection, source: Binding | None) -> None:
    check_copy(read_binding(connection, LEDGER.name), source, is_empty=not last_id(connection))
    if source is not None:
        write_binding(connection, LEDGER.name, source)


def _state(connection: sqlite3.Connection) -> State:
    rows, changed, sending = connection.execute(
        "SELECT count(*), max(updated_at), coalesce(sum(status = 'sending'), 0) FROM grants"
    ).fetchone()
    moment = None if changed is None else _moment(changed)
    return State(rows, moment, sending, last_id(connection))


def _between(connection: sqlite3.Connection, after: int, until: int) -> list[Entry]:
    return _entries(connection, "BETWEEN ? AND ?", (after + 1, until))


def _take_in(connection: sqlite3.Connection, entries: list[Entry]) -> int:
    refs = json.dumps([entry.ref for entry in entries])
    ids = json.dumps(
        [
            row[0]
            for row in connection.execute(
                "SELECT id FROM grants WHERE ref IN (SELECT value FROM json_each(?))", (refs,)
            ).fetchall()
        ]
    )
    new = new_among(entries, _entries(connection, "IN (SELECT value FROM json_each(?))", (ids,)))
    for entry in new:
        _write(connection, entry)
    return len(new)


def _entries(connection: sqlite3.Connection, which: str, values: Sequence[object]) -> list[Entry]:
    grants = connection.execute(f"{_GRANTS} WHERE grants.id {which} ORDER BY grants.id", values).fetchall()
    begun = connection.execute(
        f"{_ATTEMPTS} WHERE grant_id {which} ORDER BY grant_id, number, ended", values
    ).fetchall()
    made = connection.execute(f"{_DECISIONS} WHERE grant_id {which} ORDER BY id", values).fetchall()
    decisions: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for number, *decision in made:
        decisions[number].append(tuple(decision))
    attempts = {number: list(rows) for number, rows in groupby(begun, key=lambda row: row[0])}
    return [_entry(row, attempts.get(row[0], []), decisions[row[0]]) for row in grants]


def _entry(row: tuple[Any, ...], attempts: list[tuple[Any, ...]], decisions: list[tuple[Any, ...]]) -> Entry:
    _, ref, plan_id, member_id, note, status, count, token, error, updated_at, granted_at = row
    history = [_attempt(ref, number, list(pair)) for number, pair in groupby(attempts, key=lambda attempt: attempt[1])]
    made = [DecisionMade(ref, cast("Decision", what), _moment(at), reason) for what, at, reason in decisions]
    return Entry(
        ref=ref,
        plan_id=plan_id,
        member_id=member_id,
        note=note,
        status=status,
        attempts=count,
        token=None if token is None else bytes(token).decode(),
        error=error,
        updated_at=_moment(updated_at),
        granted_at=None if granted_at is None else _moment(granted_at),
        history=tuple(history),
        decisions=tuple(made),
    )


def _attempt(ref: str, number: int, pair: list[tuple[Any, ...]]) -> Attempt:
    began, *over = pair
    if not over:
        return Attempt(ref, number, _moment(began[3]), None, None, "")
    _, _, _, at, status, evidence = over[0]
    ended_at = None if at is None else _moment(at)
    return Attempt(ref, number, _moment(began[3]), ended_at, GrantStatus(status), evidence)


def _write(connection: sqlite3.Connection, entry: Entry) -> None:
    token_id = None
    if entry.token is not None:
        token_id = connection.execute("INSERT INTO token (body) VALUES (?)", (entry.token.encode(),)).lastrowid
    grant_id = connection.execute(
        "INSERT INTO grants (ref, plan_id, member_id, note, status, attempts, token_id, error, updated_at,"
        " granted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.ref, entry.plan_id, entry.member_id, entry.note, entry.status, entry.attempts),
            *(token_id, entry.error, _number(entry.updated_at)),
            None if entry.granted_at is None else _number(entry.granted_at),
        ),
    ).lastrowid
    for attempt in entry.history:
        ended_at = None if attempt.ended_at is None else _number(attempt.ended_at)
        halves: list[tuple[object, ...]] = [(0, _number(attempt.began_at), GrantStatus.SENDING, "")]
        if attempt.status is not None:
            halves.append((1, ended_at, attempt.status, attempt.evidence))
        connection.executemany(
            "INSERT INTO attempt (grant_id, number, ended, at, status, evidence) VALUES (?, ?, ?, ?, ?, ?)",
            [(grant_id, attempt.number, *half) for half in halves],
        )
    connection.executemany(
        "INSERT INTO decision (grant_id, decision, decided_at, reason) VALUES (?, ?, ?, ?)",
        [(grant_id, made.decision, _number(made.decided_at), made.reason) for made in entry.decisions],
    )
