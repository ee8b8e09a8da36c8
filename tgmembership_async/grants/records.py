"""The rows of a ledger in SQLite: the statements that read and write its tables."""

import json
import sqlite3
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, cast

from tgmembership_async.errors import CallError, GrantError
from tgmembership_async.grants.model import (
    Attempt,
    Decision,
    DecisionMade,
    Grant,
    GrantStatus,
    Settlement,
    dump_error,
    dump_token,
    load_error,
    load_token,
)
from tgmembership_async.storage.text import storable
from tgmembership_async.values.models import AccessToken

_SELECT: Final = """
    SELECT grants.id, ref, plan_id, member_id, status, token.body, attempts, note, updated_at, error
    FROM grants LEFT JOIN token ON token.id = token_id
"""
_PAGE: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _number(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(number: int) -> datetime:
    return _EPOCH + number * _MICROSECOND


class Row(NamedTuple):
    """A grant as it was found, and where."""

    id: int
    grant: Grant


def _row(row: tuple[Any, ...]) -> Row:
    id_, ref, plan_id, member_id, status, token, attempts, note, updated_at, error = row
    grant = Grant(
        ref=ref,
        plan_id=plan_id,
        member_id=member_id,
        status=GrantStatus(status),
        token=None if token is None else load_token(token),
        attempts=attempts,
        note=note,
        updated_at=_moment(updated_at),
        error=None if error is None else load_error(error),
    )
    return Row(id_, grant)


def find(connection: sqlite3.Connection, ref: str) -> Row | None:
    """Return the row of a ref, or None."""
    row = connection.execute(_SELECT + " WHERE ref = ?", (ref,)).fetchone()
    return None if row is None else _row(row)


def insert(connection: sqlite3.Connection, grant: Grant) -> Row | None:
    """Write the row of a new ref, and return it; None, and no change, if the ref is there already."""
    values = (grant.plan_id, grant.member_id, grant.note, grant.status, grant.attempts, _number(grant.updated_at))
    done = connection.execute(
        "INSERT INTO grants (ref, plan_id, member_id, note, status, attempts, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (ref) DO NOTHING",
        (grant.ref, *values),
    )
    return Row(cast("int", done.lastrowid), grant) if done.rowcount else None


def replace(connection: sqlite3.Connection, row: Row, after: Grant) -> Row:
    """Take a row from the state it was found in to the next, and return it; GrantError if it is not in that state."""
    before = row.grant
    error = dump_error(after.error) if isinstance(after.error, CallError) else None
    token_id = None if after.token is None or before.token is not None else _add_token(connection, after.token)
    changed = connection.execute(
        "UPDATE grants SET status = ?, token_id = coalesce(?, token_id), attempts = ?, updated_at = ?, error = ?"
        " WHERE id = ? AND ref = ? AND status = ?",
        (after.status, token_id, after.attempts, _number(after.updated_at), error, row.id, before.ref, before.status),
    ).rowcount
    if changed != 1:
        msg = f"{before.ref} is not {before.status} any more"
        raise GrantError(msg)
    return Row(row.id, after)


def _add_token(connection: sqlite3.Connection, token: AccessToken) -> int | None:
    return connection.execute("INSERT INTO token (body) VALUES (?)", (dump_token(token).encode(),)).lastrowid


def begin_attempt(connection: sqlite3.Connection, sending: Row) -> None:
    """Record that a row is being sent."""
    _add_to_attempt(connection, sending, 0, (_number(sending.grant.updated_at), GrantStatus.SENDING, ""))


def end_attempt(
    connection: sqlite3.Connection, sending: Row, settlement: Settlement, ended_at: datetime | None
) -> None:
    """Record how the exchange of a row ended; `ended_at` is None if nobody saw it."""
    at = None if ended_at is None else _number(ended_at)
    _add_to_attempt(connection, sending, 1, (at, settlement.status, storable(settlement.evidence)))


def _add_to_attempt(connection: sqlite3.Connection, row: Row, ended: int, rest: tuple[int | None, str, str]) -> None:
    connection.execute(
        "INSERT INTO attempt (grant_id, number, ended, at, status, evidence) VALUES (?, ?, ?, ?, ?, ?)",
        (row.id, row.grant.attempts, ended, *rest),
    )


def add_decision(connection: sqlite3.Connection, row: Row, made: DecisionMade) -> None:
    """Record a decision."""
    connection.execute(
        "INSERT INTO decision (grant_id, decision, decided_at, reason) VALUES (?, ?, ?, ?)",
        (row.id, made.decision, _number(made.decided_at), made.reason),
    )


def attempts(connection: sqlite3.Connection, ref: str) -> list[Attempt]:
    """Return the exchanges of a ref, in order."""
    rows = connection.execute(
        "SELECT began.number, began.at, over.at, over.status, coalesce(over.evidence, '')"
        " FROM grants JOIN attempt AS began ON began.grant_id = grants.id AND began.ended = 0"
        " LEFT JOIN attempt AS over ON over.grant_id = grants.id AND over.number = began.number AND over.ended = 1"
        " WHERE ref = ? ORDER BY began.number",
        (ref,),
    ).fetchall()
    return [
        Attempt(
            ref,
            number,
            _moment(began),
            None if ended is None else _moment(ended),
            None if status is None else GrantStatus(status),
            evidence,
        )
        for number, began, ended, status, evidence in rows
    ]


def decisions(connection: sqlite3.Connection, ref: str) -> list[DecisionMade]:
    """Return the decisions about a ref, in order."""
    rows = connection.execute(
        "SELECT decision, decided_at, reason FROM decision JOIN grants ON grants.id = grant_id"
        " WHERE ref = ? ORDER BY decision.id",
        (ref,),
    ).fetchall()
    return [DecisionMade(ref, cast("Decision", what), _moment(at), reason) for what, at, reason in rows]


def last_id(connection: sqlite3.Connection) -> int:
    """Return the id of the newest ref, 0 if there is none."""
    (found,) = connection.execute("SELECT max(id) FROM grants").fetchone()
    return found or 0


def page(
    connection: sqlite3.Connection, after: int, last: int, states: Collection[GrantStatus], since: datetime | None
) -> tuple[list[Row], int | None]:
    """Return what qualifies among the next rows after an id, and the id to go on from; None behind `last`.

    It looks at so many rows and no more, however few qualify, for while it does nobody else is served.
    """
    until = min(after + _PAGE, last)
    rows = connection.execute(
        _SELECT + " WHERE grants.id > ? AND grants.id <= ?"  # noqa: S608 - constant
        " AND status IN (SELECT value FROM json_each(?)) AND updated_at >= ? ORDER BY grants.id",
        (after, until, json.dumps(list(states)), -(2**63) if since is None else _number(since)),
    ).fetchall()
    return [_row(row) for row in rows], until if until < last else None


def wipe(connection: sqlite3.Connection, delivered_before: datetime) -> int:
    """Overwrite the tokens of rows delivered before then, and return of how many."""
    done = " FROM grants WHERE status = 'delivered' AND updated_at < ? AND token_id IS NOT NULL"
    before = (_number(delivered_before),)
    connection.execute(
        f"UPDATE token SET body = zeroblob(length(body)) WHERE id IN (SELECT token_id{done})",  # noqa: S608 - constant
        before,
    )
    return connection.execute(
        f"UPDATE grants SET token_id = NULL WHERE id IN (SELECT id{done})",  # noqa: S608 - constant
        before,
    ).rowcount
