"""The statements that read and write the rows of a ledger in SQLite."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from tgmembership_async.errors import CallError, GrantError
from tgmembership_async.grants.database_ledger import Dialect
from tgmembership_async.grants.follow_ups import Kept
from tgmembership_async.grants.model import DecisionMade, Grant, GrantStatus, Settlement, dump_error, dump_token
from tgmembership_async.storage.sqlite.binding import BINDING
from tgmembership_async.storage.sqlite.bulk_statements import change_rows, insert_rows
from tgmembership_async.storage.text import storable

SELECT: Final = """
    SELECT grants.id, ref, plan_id, member_id, note, status, attempts, CAST(token.body AS TEXT), error, updated_at,
        granted_at
    FROM grants LEFT JOIN token ON token.id = token_id
"""
_PAGE: Final = 500
_EXAMINED: Final = 20_000  # rows, in about 5 ms
_ROOM: Final = 16_384  # bytes: more than the longest ref and note take, with their places in the index
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _number(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def _moment(number: int | None) -> datetime | None:
    return None if number is None else _EPOCH + number * _MICROSECOND


class Row(NamedTuple):
    """A grant as read, with the id of its row."""

    id: int
    grant: Grant


def _row(row: Sequence[Any]) -> Row:
    return Row(row[0], DIALECT.grant(row[1:]))


def insert(connection: sqlite3.Connection, grants: Sequence[Grant]) -> list[Row | None]:
    """Write the rows of new refs; return for each grant its row, or None if its ref was there already."""
    new_ids = insert_rows(
        connection,
        "grants (ref, plan_id, member_id, note, status, attempts, updated_at)",
        [
            (new.ref, new.plan_id, new.member_id, new.note, str(new.status), new.attempts, _number(new.updated_at))
            for new in grants
        ],
        "ON CONFLICT (ref) DO NOTHING",
    )
    if len(new_ids) == len(grants):
        return list(map(Row, new_ids, grants))
    bounds = (new_ids.start, new_ids.stop - 1)
    id_of = dict(connection.execute("SELECT ref, id FROM grants WHERE id BETWEEN ? AND ?", bounds).fetchall())
    ids = [id_of.pop(grant.ref, None) for grant in grants]
    return [None if id_ is None else Row(id_, grant) for id_, grant in zip(ids, grants, strict=True)]


def replace(connection: sqlite3.Connection, steps: Sequence[tuple[Row, Grant]]) -> list[Row]:
    """Take each row from the status in which it was found to the next; GrantError if one has changed."""
    changed = change_rows(
        connection,
        "UPDATE grants SET status = column1, token_id = coalesce(column2, token_id), attempts = column3, updated_at"
        " = column4, granted_at = column5, error = column6 FROM (VALUES)"
        " WHERE id = column7 AND ref = column8 AND status = column9",
        [
            (
                *(str(after.status), token_id, after.attempts, _number(after.updated_at), _number(after.granted_at)),
                dump_error(after.error) if isinstance(after.error, CallError) else None,
                *(row.id, row.grant.ref, str(row.grant.status)),
            )
            for (row, after), token_id in zip(steps, _add_tokens(connection, steps), strict=True)
        ],
    )
    if changed != len(steps):
        msg = " or ".join(f"{row.grant.ref} is not {row.grant.status} any more" for row, _ in steps)
        raise GrantError(msg)
    return [Row(row.id, after) for row, after in steps]


def _add_tokens(connection: sqlite3.Connection, steps: Sequence[tuple[Row, Grant]]) -> list[int | None]:
    """Store the tokens that are new, and return the token id of each step."""
    new = [after.token if row.grant.token is None else None for row, after in steps]
    bodies = [(dump_token(token).encode(),) for token in new if token is not None]
    ids = iter(insert_rows(connection, "token (body)", bodies))
    return [None if token is None else next(ids) for token in new]


class AttemptRow(NamedTuple):
    """A row for the beginning of an exchange, or for its end; `at` is None if nobody saw the end."""

    grant_id: int
    number: int
    ended: bool
    at: datetime | None
    status: GrantStatus
    evidence: str = ""


def beginning(sending: Row) -> AttemptRow:
    """Return the beginning of the exchange of a row that is being sent."""
    grant = sending.grant
    return AttemptRow(sending.id, grant.attempts, False, grant.updated_at, GrantStatus.SENDING)


def end(row: Row, settlement: Settlement, at: datetime | None) -> AttemptRow:
    """Return the end of the exchange of a row."""
    return AttemptRow(row.id, row.grant.attempts, True, at, settlement.status, storable(settlement.evidence))


def add_to_attempts(connection: sqlite3.Connection, rows: Iterable[AttemptRow]) -> None:
    """Record that exchanges began or ended."""
    values = [(row.grant_id, row.number, row.ended, _number(row.at), str(row.status), row.evidence) for row in rows]
    insert_rows(connection, "attempt (grant_id, number, ended, at, status, evidence)", values)


def _decide(made: DecisionMade, connection: sqlite3.Connection, before: Row, after: Grant) -> bool:
    replace(connection, [(before, after)])
    connection.execute("DELETE FROM follow_up WHERE grant_id = ?", (before.id,))
    connection.execute(
        "INSERT INTO decision (grant_id, decision, decided_at, reason) VALUES (?, ?, ?, ?)",
        (before.id, made.decision, _number(made.decided_at), storable(made.reason)),
    )
    return True


def _deliver(connection: sqlite3.Connection, before: Row, after: Grant) -> bool:
    replace(connection, [(before, after)])
    return True


def keep_follow_up(connection: sqlite3.Connection, ref: str, kept: Kept) -> None:
    """Store the follow-up of a ref, in place of the one stored before."""
    connection.execute(
        "INSERT OR REPLACE INTO follow_up (grant_id, about, failures, due_at)"
        " SELECT id, ?, ?, ? FROM grants WHERE ref = ?",
        (kept.about, kept.failures, _number(kept.due_at), ref),
    )


def prove_writable(connection: sqlite3.Connection) -> None:
    """Allocate pages in the file as new rows do, and free them: a write to existing pages would prove too little."""
    connection.execute("CREATE TABLE room (body BLOB)")
    connection.execute("INSERT INTO room VALUES (zeroblob(?))", (_ROOM,))
    connection.execute("DROP TABLE room")


def page(
    connection: sqlite3.Connection, after: int, last: int, states: Collection[GrantStatus], since: datetime | None
) -> tuple[list[Grant], int | None]:
    """Return the matching ones of the next rows after an id, and the id to continue from; None after `last`.

    The number of rows that are examined is limited, however few match, because no other job runs meanwhile.
    """
    until = min(after + _EXAMINED, last)
    rows = connection.execute(
        SELECT + " WHERE grants.id > ? AND grants.id <= ?"  # noqa: S608 - constant
        " AND status IN (SELECT value FROM json_each(?)) AND updated_at >= ? ORDER BY grants.id LIMIT ?",
        (after, until, json.dumps(list(states)), -(2**63) if since is None else _number(since), _PAGE),
    ).fetchall()
    if len(rows) == _PAGE:
        until = rows[-1][0]
    return [_row(row).grant for row in rows], until if until < last else None


_DELIVERED: Final = "FROM grants WHERE status = 'delivered' AND updated_at < :before AND token_id IS NOT NULL"
DIALECT: Final = Dialect(
    row_of=f"{SELECT} WHERE ref = :ref",
    rows_of=f"{SELECT} WHERE ref IN (SELECT value FROM json_each(:refs))",  # noqa: S608 - a constant
    id_of="SELECT id FROM grants WHERE ref = :ref",
    newest="SELECT max(id) FROM grants",
    names_bots="SELECT NOT EXISTS (SELECT 1 FROM grants)",
    attempts_of="""
        SELECT ref, began.number, began.at, over.at, over.status, coalesce(over.evidence, '')
        FROM grants JOIN attempt AS began ON began.grant_id = grants.id AND began.ended = 0
        LEFT JOIN attempt AS over ON over.grant_id = grants.id AND over.number = began.number AND over.ended = 1
        WHERE ref IN (SELECT value FROM json_each(:refs)) ORDER BY grants.id, began.number
    """,
    decisions_of="""
        SELECT ref, decision, decided_at, reason FROM decision JOIN grants ON grants.id = grant_id
        WHERE ref IN (SELECT value FROM json_each(:refs)) ORDER BY decision.id
    """,
    counts="""
        SELECT status, count(*) FROM grants WHERE :prefix = '' OR substr(ref, 1, length(:prefix)) = :prefix
        GROUP BY status
    """,
    days="""
        SELECT coalesce(granted_at, updated_at) / 86400000000 AS day, plan_id, status, count(*) FROM grants
        WHERE id > :after AND id <= :last AND (:prefix = '' OR substr(ref, 1, length(:prefix)) = :prefix)
        GROUP BY day, plan_id, status
    """,
    search=f"""
        SELECT {SELECT.partition("grants.id,")[2]}
        WHERE substr(ref, 1, length(:prefix)) = :prefix
            AND (instr(substr(ref, length(:prefix) + 1), :text) OR CAST(member_id AS TEXT) = :text)
        ORDER BY CAST(member_id AS TEXT) IS :text DESC, grants.id DESC LIMIT :limit
    """,
    follow_up_of="SELECT about, failures, due_at FROM follow_up JOIN grants ON id = grant_id WHERE ref = :ref",
    wipe=(
        f"UPDATE token SET body = zeroblob(length(body)) WHERE id IN (SELECT token_id {_DELIVERED})",  # noqa: S608 - constant
        f"UPDATE grants SET token_id = NULL WHERE id IN (SELECT id {_DELIVERED})",  # noqa: S608 - constant
    ),
    load=_row,
    page=page,
    decide=_decide,
    deliver=_deliver,
    binding_table=BINDING,
    stored_time=_number,
    loaded_time=_moment,
    stored_list=json.dumps,
)
