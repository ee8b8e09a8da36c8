"""The operations on a ledger in PostgreSQL, each as a job that can be run again after a lost connection."""

from collections.abc import Awaitable, Collection
from datetime import datetime
from typing import Any, Final

from attrs import evolve, mutable
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from tgmembership_async.errors import GrantError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.database_ledger import decided
from tgmembership_async.grants.ledger import Claim
from tgmembership_async.grants.model import (
    Attempt,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    RefTooLong,
    Settlement,
    dump_token,
    load_token,
)
from tgmembership_async.grants.postgres import statements
from tgmembership_async.grants.postgres.statements import DIALECT, Row
from tgmembership_async.storage.postgres.liveness import Liveness
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.values.models import AccessToken

_MOST_BYTES: Final = 2_000  # the limit of a B-tree index, less a margin
_LATE: Final = "the answer came after this worker was presumed to have ended"
_TOO_LATE: Final = f"{_LATE}, and the row had been decided or sent again; it stays as it is"
_LATE_MEANS: Final[dict[GrantStatus, Decision]] = {
    GrantStatus.GRANTED: "granted",
    GrantStatus.PLANNED: "retry",
    GrantStatus.REFUSED: "retry",
}


def check_fits(request: GrantRequest) -> None:
    """Raise RefTooLong for a ref that is too long for the index."""
    if len(request.ref.encode()) > _MOST_BYTES:
        msg = f"in a PostgresLedger a ref has at most {_MOST_BYTES:,} bytes as UTF-8, and {request.ref:.40}... has more"
        raise RefTooLong(msg)


def plan(lane: Lane, request: GrantRequest, now: datetime, schema: str) -> Grant:
    """Record an intent if the ref is new; return its row."""
    if lane.execute(*statements.insert_all([request], now, schema)).rowcount:
        return transitions.planned(request, now)
    return transitions.same(DIALECT.known(lane, request.ref).grant, request)


def plan_all(lane: Lane, requests: Collection[GrantRequest], now: datetime, schema: str) -> list[Grant]:
    """Record the intents whose refs are new, in one transaction; return the rows of all of them as they are."""
    with lane.transaction():
        lane.execute(*statements.insert_all(requests, now, schema))
        find = statements.find_all((request.ref for request in requests), schema)
        grants = statements.grants_by_ref(lane.execute(*find).fetchall())
    return [grants[request.ref] for request in requests]


def plan_in(
    connection: Connection[Any] | AsyncConnection[Any], requests: Collection[GrantRequest], now: datetime, schema: str
) -> list[Grant] | Awaitable[list[Grant]]:
    """Record intents in a transaction of the caller's, or none of them; return their rows, to be awaited or not."""
    insert = statements.insert_all(requests, now, schema)
    find = statements.find_all((request.ref for request in requests), schema)
    if isinstance(connection, AsyncConnection):
        return _plan_in_async(connection, requests, insert, find)
    if _would_commit(connection):
        connection.execute("SELECT")
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(*insert)
        return _as_asked(requests, cursor.execute(*find).fetchall())


def _as_asked(requests: Collection[GrantRequest], rows: list[tuple[Any, ...]]) -> list[Grant]:
    grants = statements.grants_by_ref(rows)
    return [transitions.same(grants[request.ref], request) for request in requests]


def _would_commit(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Tell whether psycopg's `transaction()` would be the outermost one, and commit the caller's transaction."""
    return not connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE


async def _plan_in_async(
    connection: AsyncConnection[Any], requests: Collection[GrantRequest], insert: Any, find: Any
) -> list[Grant]:
    if _would_commit(connection):
        await connection.execute("SELECT")
    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(*insert)
        await cursor.execute(*find)
        return _as_asked(requests, await cursor.fetchall())


def give_up(lane: Lane, row: Row, now: datetime) -> None:
    """Take a row that was left `sending` by a worker that has ended to unknown, unless another worker just did."""
    ended = transitions.interruption(row.grant)
    statements.settle(lane, row, transitions.settled(row.grant, ended, now), ended, None)


@mutable
class ClaimRef:
    """Claim a ref, as claim `number` of this worker."""

    request: GrantRequest
    number: int
    liveness: Liveness
    clock: transitions.Clock
    worker: int | None = None

    def __call__(self, lane: Lane) -> Claim:
        """Return the row, and whether it is this worker's to send."""
        self.worker = self.liveness.secure()
        while True:
            row, taken = statements.claim(lane, self.request, self.clock(), self.worker, self.number) or (None, False)
            if row is None:
                continue
            if taken:
                return Claim(row.grant, mine=True)
            grant = transitions.same(row.grant, self.request)
            if grant.status is GrantStatus.SENDING and (row.worker, row.claim) == (self.worker, self.number):
                return Claim(grant, mine=True)  # committed before the connection was lost
            if grant.status is GrantStatus.SENDING and not row.alive:
                give_up(lane, row, self.clock())
            elif grant.status is not GrantStatus.PLANNED:
                return Claim(grant, mine=False, elsewhere=row.alive)


@mutable
class SettleRef:
    """Record the outcome of an exchange that was begun by the claim `mine`: worker and number.

    `attempt` is the number of the attempt; 0 for a claim that was never confirmed, so that nothing was sent.
    """

    ref: str
    settlement: Settlement
    now: datetime
    mine: tuple[int | None, int | None] | None
    row: Row | None = None
    attempt: int = 0

    @property
    def _token(self) -> AccessToken | None:
        """Return the token as it is read from the ledger."""
        return None if self.settlement.token is None else load_token(dump_token(self.settlement.token))

    def __call__(self, lane: Lane) -> Grant:
        """Return the row after the step; raise GrantError if it is not this worker's to settle."""
        row, self.row = self.row or DIALECT.known(lane, self.ref), None
        while True:
            grant = row.grant
            if (row.worker, row.claim) == self.mine:
                if (grant.status, grant.token) == (self.settlement.status, self._token):
                    return grant  # committed before the connection was lost
                if grant.status is GrantStatus.UNKNOWN:
                    return self._late(lane)
            elif grant.status is GrantStatus.SENDING and not self.attempt:
                msg = f"{self.ref} is being sent by another worker, and only that worker can record the outcome"
                raise GrantError(msg)
            if self.attempt and ((row.worker, row.claim), grant.status) != (self.mine, GrantStatus.SENDING):
                if not self._granted_before_it_is_sent_again(grant):
                    return self._too_late(lane, grant)
                self._claim(lane, grant)
                row = DIALECT.known(lane, self.ref)
                continue
            after = transitions.settled(grant, self.settlement, self.now)
            if statements.settle(lane, row, after, self.settlement, self.now):
                return after
            row = DIALECT.known(lane, self.ref)

    def _late(self, lane: Lane) -> Grant:
        decision = _LATE_MEANS[self.settlement.status]
        made = DecisionMade(self.ref, decision, self.now, f"{_LATE}: {self.settlement.evidence}")
        return decided(DIALECT, made, self.settlement.token)(lane)

    def _granted_before_it_is_sent_again(self, grant: Grant) -> bool:
        return (grant.status, self.settlement.status) == (GrantStatus.PLANNED, GrantStatus.GRANTED)

    def _claim(self, lane: Lane, grant: Grant) -> None:
        """Claim the row before another worker sends it again, which would create a second token."""
        worker, number = self.mine or (None, None)
        assert worker is not None and number is not None  # noqa: S101, PT018 - it was claimed
        request = transitions.request_of(grant)
        self.settlement = evolve(self.settlement, evidence=f"nothing was sent: {_LATE}: {self.settlement.evidence}")
        statements.claim(lane, request, self.now, worker, number)

    def _too_late(self, lane: Lane, grant: Grant) -> Grant:
        evidence = f"{_TOO_LATE}: {self.settlement.evidence}"
        statements.end_late(lane, Attempt(self.ref, self.attempt, self.now, self.now, self.settlement.status, evidence))
        return grant
