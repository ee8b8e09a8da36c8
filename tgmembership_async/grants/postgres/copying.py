"""The tables of a ledger in PostgreSQL as a source or target of a copy."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.copying import Entry, Statements, Store, select_state
from tgmembership_async.grants.postgres.ledger import PostgresLedger
from tgmembership_async.grants.postgres.statements import COLUMNS, DIALECT, NAMES, OTHER_NAMES, plan_columns
from tgmembership_async.grants.postgres.tables import LEDGER
from tgmembership_async.storage.postgres.database import PostgresStorage
from tgmembership_async.storage.postgres.liveness import WORKERS
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.storage.sqlite.generations import Gap

T = TypeVar("T")
_GRANTS: Final = f"SELECT id, {COLUMNS} FROM tgm_grants"  # noqa: S608 - constants
_LOCK: Final = "LOCK TABLE tgm_grants IN SHARE ROW EXCLUSIVE MODE"
_NUMBERS: Final = "SELECT nextval(pg_get_serial_sequence('tgm_grants', 'id')) FROM generate_series(1, %s)"
_COPY_GRANTS: Final = f"COPY tgm_grants (id, {', '.join(NAMES)}) FROM STDIN"
_COPY_ATTEMPTS: Final = """
    COPY tgm_attempt (grant_id, number, began_at, ended_at, status, evidence) FROM STDIN
"""
_COPY_DECISIONS: Final = "COPY tgm_decision (grant_id, decision, decided_at, reason) FROM STDIN"
_MOST_BYTES: Final = 2_000  # as PostgresLedger checks it


class PostgresStore(Store):
    """The ledger in a database."""

    _dialect = DIALECT
    _statements = Statements(
        state=select_state("tgm_grants", "tgm_decision"),
        page=f"{_GRANTS} WHERE id > %(after)s AND id <= %(last)s ORDER BY id LIMIT %(limit)s",
        found=f"{_GRANTS} WHERE ref = ANY(%(refs)s)",
    )

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

    async def take_gaps(self, found: list[Gap]) -> None:
        """Raise UsageError if there is one: a database holds no refs for their `paid_at`."""
        if found:
            msg = (
                f"the ledger was restored from an older copy, which lacks the grants made "
                f"{' and '.join(map(str, found))}. A server does not hold the refs that were paid then, and would send "
                "them again: first provision the payments of that period, with their paid_at, with the ledger in the "
                "file, which records them as unknown, and then copy with --forget-gaps"
            )
            raise UsageError(msg)

    async def take_in(self, entries: list[Entry]) -> int:
        """Store the new entries in one transaction."""
        for entry in entries:
            if len(entry.ref.encode()) > _MOST_BYTES:
                msg = f"{entry.ref:.40}... has more than {_MOST_BYTES:,} bytes, and cannot be a ref in PostgreSQL"
                raise UsageError(msg)
        return await super().take_in(entries)

    async def _write(self, job: Callable[[Any], T]) -> T:
        return await self._storage.run(job)

    def _take_in(self, connection: Lane, entries: list[Entry]) -> int:
        with connection.transaction():
            connection.execute(_LOCK)  # others wait for one page, so that none of its refs is added meanwhile
            return super()._take_in(connection, entries)

    def _add(self, connection: Lane, entries: list[Entry]) -> None:
        numbers = [row[0] for row in connection.execute(_NUMBERS, (len(entries),)).fetchall()]
        _add(connection, dict(zip(numbers, entries, strict=True)))


def _nothing(_: Lane) -> None:
    return None


def _add(lane: Lane, new: dict[int, Entry]) -> None:
    rows = [
        (number, one.ref, *plan_columns(one.plan_id), *(getattr(one, name) for name in OTHER_NAMES))
        for number, one in new.items()
    ]
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
