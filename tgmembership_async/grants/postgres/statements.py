"""The statements that read and write the rows of a ledger in PostgreSQL, each a transaction of its own.

A step is one statement that takes a row from the status in which it was found to the next, and does nothing if the row
has changed. PostgreSQL locks the row meanwhile, so of two workers that try one succeeds.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from attrs import asdict, evolve, frozen

from tgmembership_async.errors import CallError
from tgmembership_async.grants.database_ledger import Dialect
from tgmembership_async.grants.model import (
    Attempt,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
    dump_error,
    dump_token,
)
from tgmembership_async.storage.postgres.binding import BINDING
from tgmembership_async.storage.postgres.liveness import ALIVE
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.storage.text import storable

OTHER_NAMES: Final = ("member_id", "note", "status", "attempts", "token", "error", "updated_at", "granted_at")
NAMES: Final = ("ref", "plan_id", "plan_uuid", *OTHER_NAMES)
_PLAN: Final = "coalesce(to_jsonb(plan_id), to_jsonb(plan_uuid))"
"""The plan as int or str; a row has one of the two columns."""
COLUMNS: Final = f"ref, {_PLAN}, {', '.join(OTHER_NAMES)}"
_FOUND: Final = f"""
    SELECT {COLUMNS}, worker, claim, status = 'sending' AND worker IN ({ALIVE}) FROM tgm_grants
"""  # noqa: S608 - constants
_ABANDONED: Final = f"{_FOUND} WHERE status = 'sending' AND worker NOT IN ({ALIVE}) ORDER BY id LIMIT %s"
_INSERT_ALL: Final = """
    INSERT INTO {schema}.tgm_grants (ref, plan_id, plan_uuid, member_id, note, status, attempts, updated_at)
    SELECT ref, plan_id, plan_uuid, member_id, note, 'planned', 0, %s
    FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::text[])
        AS wish (ref, plan_id, plan_uuid, member_id, note)
    ORDER BY ref COLLATE "C" -- two that plan the same refs must not deadlock
    ON CONFLICT (ref) DO NOTHING
"""
_FIND_ALL: Final = f"SELECT {COLUMNS} FROM {{schema}}.tgm_grants WHERE ref = ANY(%s)"  # noqa: S608 - constants
# A row that cannot be sent is only read, which costs no lock, no id and no commit.
_CLAIM: Final = f"""
    WITH found AS (
        {_FOUND} WHERE ref = %(ref)s
    ), taken AS (
        INSERT INTO tgm_grants AS row
            (ref, plan_id, plan_uuid, member_id, note, status, attempts, updated_at, worker, claim)
        SELECT %(ref)s, %(plan_id)s::bigint, %(plan_uuid)s::text, %(member_id)s::bigint, %(note)s, 'sending', 1,
            %(now)s::timestamptz, %(worker)s::integer, %(claim)s::bigint
        WHERE NOT EXISTS (SELECT FROM found WHERE status <> 'planned')
        ON CONFLICT (ref) DO UPDATE SET status = 'sending', attempts = row.attempts + 1, error = NULL,
            updated_at = excluded.updated_at, worker = excluded.worker, claim = excluded.claim
        WHERE row.status = 'planned'
            AND (row.plan_id = excluded.plan_id OR row.plan_uuid = excluded.plan_uuid)
            AND row.member_id IS NOT DISTINCT FROM excluded.member_id
        RETURNING *
    ), began AS (
        INSERT INTO tgm_attempt (grant_id, number, began_at) SELECT id, attempts, updated_at FROM taken
    )
    SELECT {COLUMNS}, worker, claim, true, true FROM taken
    UNION ALL SELECT *, false FROM found WHERE NOT EXISTS (SELECT FROM taken)
"""  # noqa: S608 - constants
_STEP: Final = """
    WITH stepped AS (
        UPDATE tgm_grants SET status = %(status)s, token = %(token)s, error = %(error)s, updated_at = %(updated_at)s,
            granted_at = %(granted_at)s
        WHERE ref = %(ref)s AND status = %(was)s AND attempts = %(attempts)s
            AND worker IS NOT DISTINCT FROM %(worker)s AND claim IS NOT DISTINCT FROM %(claim)s
        RETURNING id
    )
"""
_END_ATTEMPT: Final = """
    UPDATE tgm_attempt SET ended_at = %(ended_at)s, status = %(ended_as)s, evidence = %(evidence)s
    FROM stepped WHERE grant_id = stepped.id AND number = %(attempts)s
"""
_END_LATE: Final = """
    UPDATE tgm_attempt SET ended_at = %(ended_at)s, status = %(status)s, evidence = %(evidence)s
    FROM tgm_grants WHERE tgm_grants.id = grant_id AND ref = %(ref)s AND number = %(number)s AND ended_at IS NULL
"""
# The follow-up stays for its lease, with a status that only a decision to "granted" leads to, and due.
_ADD_DECISION: Final = """
    , ended AS (
        UPDATE tgm_follow_up SET about = 'granted', failures = 0, due_at = 'epoch'
        FROM stepped WHERE grant_id = stepped.id
    )
    INSERT INTO tgm_decision (grant_id, decision, decided_at, reason)
    SELECT id, %(decision)s, %(decided_at)s, %(reason)s FROM stepped
"""
_NOTHING_MORE: Final = "SELECT id FROM stepped"
_PROVE: Final = """
    WITH nothing AS (
        INSERT INTO tgm_grants (ref, plan_id, note, status, attempts, updated_at)
        SELECT '', 1, '', 'planned', 0, now() WHERE false -- takes the table's lock, and the right to write to it
    )
    UPDATE tgm_component SET version = version WHERE name = 'ledger'
"""
_PAGE: Final = 500
_MOST_AT_ONCE: Final = 100


@frozen
class Row:
    """A grant as read: which worker sent it last, by which claim, and whether that worker is running while it sends."""

    grant: Grant
    worker: int | None = None
    claim: int | None = None
    alive: bool = False


def _row(row: Sequence[Any]) -> Row:
    *columns, worker, claim, alive = row
    return Row(DIALECT.grant(columns), worker, claim, bool(alive))


def abandoned(lane: Lane) -> list[Row]:
    """Return some of the rows that workers were sending when their processes ended."""
    return [_row(row) for row in lane.execute(_ABANDONED.encode(), (_MOST_AT_ONCE,)).fetchall()]


def insert_all(requests: Iterable[GrantRequest], now: datetime, schema: str) -> tuple[bytes, list[object]]:
    """Return the statement, and its values, that plans the requests whose refs are new."""
    rows = [(row.ref, *plan_columns(row.plan_id), row.member_id, row.note) for row in requests]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
    return _in(schema, _INSERT_ALL), [now, *columns]


def plan_columns(plan_id: int | str) -> tuple[int | None, str | None]:
    """Return the values of `plan_id` and `plan_uuid`."""
    return (None, plan_id) if isinstance(plan_id, str) else (plan_id, None)


def find_all(refs: Iterable[str], schema: str) -> tuple[bytes, list[object]]:
    """Return the statement, and its values, that finds the rows of these refs, for `grants_by_ref`."""
    return _in(schema, _FIND_ALL), [list(refs)]


def _in(schema: str, statement: str) -> bytes:
    return statement.format(schema=schema.replace("%", "%%")).encode()  # psycopg takes a bare % for a placeholder


def grants_by_ref(rows: Iterable[Sequence[Any]]) -> dict[str, Grant]:
    """Return the grants of the rows that `find_all` selected, by ref."""
    return {grant.ref: grant for grant in map(DIALECT.grant, rows)}


def claim(lane: Lane, request: GrantRequest, now: datetime, worker: int, number: int) -> tuple[Row, bool] | None:
    """Take a ref that is new or planned, with this plan and member, to sending: `transitions.claimed` in one statement.

    Return the row, and whether it was claimed; None if another worker wrote it at the same moment.
    """
    plan_id, plan_uuid = plan_columns(request.plan_id)
    plan = {"plan_id": plan_id, "plan_uuid": plan_uuid}
    values = {"now": now, "worker": worker, "claim": number, **asdict(request), **plan}
    row = lane.execute(_CLAIM.encode(), values).fetchone()
    return None if row is None else (_row(row[:-1]), row[-1])


def settle(lane: Lane, before: Row, after: Grant, settlement: Settlement, ended_at: datetime | None) -> bool:
    """Record how the exchange of a row ended; `ended_at` is None if it is unknown."""
    more = {"ended_at": ended_at, "ended_as": settlement.status, "evidence": storable(settlement.evidence)}
    return _stepped(lane, before, after, _END_ATTEMPT, more)


def end_late(lane: Lane, attempt: Attempt) -> None:
    """Record the end of an attempt whose end was unknown; its row does not change."""
    lane.execute(_END_LATE.encode(), asdict(evolve(attempt, evidence=storable(attempt.evidence))))


def _decide(made: DecisionMade, lane: Lane, before: Row, after: Grant) -> bool:
    more = {"decision": made.decision, "decided_at": made.decided_at, "reason": storable(made.reason)}
    return _stepped(lane, before, after, _ADD_DECISION, more)


def _deliver(lane: Lane, before: Row, after: Grant) -> bool:
    return _stepped(lane, before, after, _NOTHING_MORE, {})


def _stepped(
    lane: Lane,
    before: Row,
    after: Grant,
    then: str,
    more: Mapping[str, object],
) -> bool:
    values = {
        "ref": before.grant.ref,
        "was": before.grant.status,
        "attempts": before.grant.attempts,
        "worker": before.worker,
        "claim": before.claim,
        "status": after.status,
        "token": None if after.token is None else dump_token(after.token),
        "error": dump_error(after.error) if isinstance(after.error, CallError) else None,
        "updated_at": after.updated_at,
        "granted_at": after.granted_at,
    }
    return lane.execute((_STEP + then).encode(), {**values, **more}).rowcount == 1


def prove_writable(lane: Lane) -> None:
    """Write a row unchanged, which the server makes durable like any other write; wait only briefly for locks."""
    with lane.transaction():
        lane.execute("SELECT set_config('lock_timeout', '3s', true), set_config('statement_timeout', '5s', true)")
        lane.execute(_PROVE.encode())


def page(
    lane: Lane, after: int, last: int, states: Collection[GrantStatus], since: datetime | None
) -> tuple[list[Grant], int | None]:
    """Return the next matching rows after an id, and the id to continue from; None after `last`."""
    if not states:
        return [], None
    # A literal instead of a parameter, so that the planner can use the partial index of open rows.
    wanted = ", ".join(f"'{status}'" for status in sorted(states))
    rows = lane.execute(
        f"SELECT {COLUMNS}, id FROM tgm_grants WHERE id > %s AND id <= %s AND status IN ({wanted})"  # noqa: S608 - constants
        " AND updated_at >= coalesce(%s::timestamptz, '-infinity') ORDER BY id LIMIT %s".encode(),
        (after, last, since, _PAGE),
    ).fetchall()
    return [DIALECT.grant(row[:-1]) for row in rows], rows[-1][-1] if len(rows) == _PAGE else None


DIALECT: Final = Dialect(
    row_of=f"{_FOUND} WHERE ref = %(ref)s",
    rows_of=f"{_FOUND} WHERE ref = ANY(%(refs)s)",
    id_of="SELECT id FROM tgm_grants WHERE ref = %(ref)s",
    newest="SELECT max(id) FROM tgm_grants",
    names_bots="SELECT NOT EXISTS (SELECT FROM tgm_grants WHERE ref !~ '^[0-9]+:')",
    attempts_of="""
        SELECT ref, number, began_at, ended_at, tgm_attempt.status, evidence
        FROM tgm_attempt JOIN tgm_grants ON tgm_grants.id = grant_id
        WHERE ref = ANY(%(refs)s) ORDER BY grant_id, number
    """,
    decisions_of="""
        SELECT ref, decision, decided_at, reason FROM tgm_decision JOIN tgm_grants ON tgm_grants.id = grant_id
        WHERE ref = ANY(%(refs)s) ORDER BY tgm_decision.id
    """,
    counts="""
        SELECT status, count(*) FROM tgm_grants WHERE %(prefix)s = '' OR starts_with(ref, %(prefix)s) GROUP BY status
    """,
    days=f"""
        SELECT day, {_PLAN}, status, number FROM (
            SELECT (coalesce(granted_at, updated_at) AT TIME ZONE 'UTC')::date - date '1970-01-01' AS day,
                plan_id, plan_uuid, status, count(*) AS number
            FROM tgm_grants
            WHERE id > %(after)s AND id <= %(last)s AND (%(prefix)s = '' OR starts_with(ref, %(prefix)s))
            GROUP BY day, plan_id, plan_uuid, status
        ) AS days
    """,  # noqa: S608 - a constant
    search=f"""
        SELECT {COLUMNS} FROM tgm_grants
        WHERE starts_with(ref, %(prefix)s)
            AND (strpos(substr(ref, length(%(prefix)s) + 1), %(text)s) > 0 OR member_id::text = %(text)s)
        ORDER BY member_id::text IS NOT DISTINCT FROM %(text)s DESC, id DESC LIMIT %(limit)s
    """,  # noqa: S608 - constants
    follow_up_of="""
        SELECT about, failures, due_at FROM tgm_follow_up JOIN tgm_grants ON id = grant_id WHERE ref = %(ref)s
    """,
    wipe=(
        """
        UPDATE tgm_grants SET token = NULL
        WHERE status = 'delivered' AND updated_at < %(before)s AND token IS NOT NULL
        """,
    ),
    load=_row,
    page=page,
    decide=_decide,
    deliver=_deliver,
    binding_table=BINDING,
    stored_time=lambda time: time,
    loaded_time=lambda time: time and time.astimezone(UTC),
    stored_list=lambda items: items,
)
