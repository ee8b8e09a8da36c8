"""The tables of a ledger in PostgreSQL as a source or target of a copy."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, cast

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.copying import PAGE, Entry, State, new_among
from tgmembership_async.grants.model import Attempt, Decision, DecisionMade, GrantStatus
from tgmembership_async.grants.postgres.ledger import PostgresLedger
from tgmembership_async.grants.postgres.statements import last_id, names_bots
from tgmembership_async.grants.postgres.tables import LEDGER
from tgmembership_async.storage.binding import Binding, check_copy
from tgmembership_async.storage.postgres.binding import read_binding, write_binding
from tgmembership_async.storage.postgres.database import PostgresStorage
from tgmembership_async.storage.postgres.liveness import WORKERS
from tgmembership_async.storage.postgres.server import Lane

_STATE: Final = "SELECT count(*), max(updated_at), count(*) FILTER (WHERE status = 'sending') FROM tgm_grants"
_TIMES: Final = ("updated_at", "granted_at")
_COLUMNS: Final = ("ref", "plan_id", "member_id", "note", "status", "attempts", "token", "error", *_TIMES)
_GRANTS: Final = f"SELECT id, {', '.join(_COLUMNS)} FROM tgm_grants"  # noqa: S608 - constants
_PAGE: Final = _GRANTS + " WHERE id > %s AND id <= %s ORDER BY id LIMIT %s"
_FIND: Final = _GRANTS + " WHERE ref = ANY(%s)"
_ATTEMPTS: Final = """
    SELECT grant_id, number, began_at, ended_at, status, evidence FROM tgm_attempt
    WHERE grant_id = ANY(%s) ORDER BY grant_id, number
"""
_DECISIONS: Final = """
    SELECT grant_id, decision, decided_at, reason FROM tgm_decision WHERE grant_id = ANY(%s) ORDER BY id
"""
_LOCK: Final = "LOCK TABLE tgm_grants IN SHARE ROW EXCLUSIVE MODE"
_NUMBERS: Final = "SELECT nextval(pg_get_serial_sequence('tgm_grants', 'id')) FROM generate_series(1, %s)"
_COPY_GRANTS: Final = f"COPY tgm_grants (id, {', '.join(_COLUMNS)}) FROM STDIN"
_COPY_ATTEMPTS: Final = """
    COPY tgm_attempt (grant_id, number, began_at, ended_at, status, evidence) FROM STDIN
"""
_COPY_DECISIONS: Final = "COPY tgm_decision (grant_id, decision, decided_at, reason) FROM STDIN"
_MOST_BYTES: Final = 2_000  # as PostgresLedger checks it


class PostgresStore:
    """The ledger in a database."""

    def __init__(self, conninfo: str) -> None:
        self._ledger = PostgresLedger(conninfo)
        self._storage = PostgresStorage(conninfo, (WORKERS, LEDGER))

    async def open(self) -> None:
        """Connect; rows that workers left `sending` when their processes ended become `unknown`."""
        async with self._ledger:
            pass
        await self._storage.open(_nothing)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._storage.aclose()

    async def state(self) -> State:
        """Return its state."""
        return await self._storage.run(_state)

    async def binding(self) -> Binding | None:
        """Return whose it is."""
        return await self._storage.run(partial(read_binding, component=LEDGER.name))

    async def bind(self, source: Binding | None) -> None:
        """Take over a source's binding."""
        await self._storage.run(partial(_bind, source=source))

    async def page(self, after: int, last: int) -> tuple[list[Entry], int | None]:
        """Return the entries after a row's id, and the id to continue from."""
        return await self._storage.run(partial(_page, after=after, last=last))

    async def take_in(self, entries: list[Entry]) -> int:
        """Store the new entries in one transaction."""
        for entry in entries:
            if len(entry.ref.encode()) > _MOST_BYTES:
                msg = f"{entry.ref:.40}... has more than {_MOST_BYTES:,} bytes, and cannot be a ref in PostgreSQL"
                raise UsageError(msg)
        return await self._storage.run(partial(_take_in, entries=entries))


def _nothing(_: Lane) -> None:
    return None


def _bind(lane: Lane, source: Binding | None) -> None:
    check_copy(read_binding(lane, LEDGER.name), source, is_empty=names_bots(lane))
    if source is not None:
        write_binding(lane, LEDGER.name, source)
        check_copy(read_binding(lane, LEDGER.name), source, is_empty=True)  # another bot may have been quicker


def _state(lane: Lane) -> State:
    rows, changed, sending = lane.execute(_STATE).fetchone() or (0, None, 0)
    return State(rows, changed, sending, last_id(lane))


def _page(lane: Lane, after: int, last: int) -> tuple[list[Entry], int | None]:
    rows = lane.execute(_PAGE.encode(), (after, last, PAGE)).fetchall()
    return _entries(lane, rows), rows[-1][0] if len(rows) == PAGE else None


def _take_in(lane: Lane, entries: list[Entry]) -> int:
    with lane.transaction():
        lane.execute(_LOCK)  # others wait for one page, so that none of its refs is added meanwhile
        found = lane.execute(_FIND.encode(), ([entry.ref for entry in entries],)).fetchall()
        new = new_among(entries, _entries(lane, found))
        numbers = [row[0] for row in lane.execute(_NUMBERS, (len(new),)).fetchall()]
        _write(lane, dict(zip(numbers, new, strict=True)))
    return len(new)


def _entries(lane: Lane, rows: list[tuple[Any, ...]]) -> list[Entry]:
    numbers = [row[0] for row in rows]
    history: defaultdict[int, list[Attempt]] = defaultdict(list)
    decisions: defaultdict[int, list[DecisionMade]] = defaultdict(list)
    refs = {row[0]: row[1] for row in rows}
    for grant_id, number, began_at, ended_at, status, evidence in lane.execute(_ATTEMPTS, (numbers,)).fetchall():
        end = None if status is None else GrantStatus(status)
        history[grant_id].append(
            Attempt(refs[grant_id], number, _utc(began_at), None if ended_at is None else _utc(ended_at), end, evidence)
        )
    for grant_id, decision, decided_at, reason in lane.execute(_DECISIONS, (numbers,)).fetchall():
        made = DecisionMade(refs[grant_id], cast("Decision", decision), _utc(decided_at), reason)
        decisions[grant_id].append(made)
    return [_entry(row, history[row[0]], decisions[row[0]]) for row in rows]


def _entry(row: Sequence[Any], history: list[Attempt], decisions: list[DecisionMade]) -> Entry:
    columns: dict[str, Any] = dict(zip(_COLUMNS, row[1:], strict=True))
    columns |= {name: columns[name] and _utc(columns[name]) for name in _TIMES}
    return Entry(**columns, history=tuple(history), decisions=tuple(decisions))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _write(lane: Lane, new: dict[int, Entry]) -> None:
    rows = [(number, *(getattr(one, name) for name in _COLUMNS)) for number, one in new.items()]
    tried = [
        (number, each.number, each.began_at, each.ended_at, each.status, each.evidence)
        for number, one in new.items()
        for each in one.history
    ]
    made = [
        (number, each.decision, each.decided_at, each.reason) for number, one in new.items() for each in one.decisions
    ]
    for statement, values in ((_COPY_GRANTS, rows), (_COPY_ATTEMPTS, tried), (_COPY_DECISIONS, made)):
        with lane.cursor() as cursor, cursor.copy(statement.encode()) as stream:
            for row in values:
                stream.write_row(row)
