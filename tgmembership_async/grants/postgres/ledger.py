"""A ledger in PostgreSQL: any number of workers on any number of machines, with one exchange for each ref."""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final, Self, TypeVar, overload

from attrs import evolve
from psycopg import AsyncConnection, Connection

from tgmembership_async.errors import GrantError, StorageError, UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.bot_ledger import key
from tgmembership_async.grants.database_ledger import DatabaseLedger
from tgmembership_async.grants.follow_ups import FollowUp
from tgmembership_async.grants.ledger import Claim
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus, Settlement, check_ref
from tgmembership_async.grants.postgres import follow_ups, statements
from tgmembership_async.grants.postgres.jobs import ClaimRef, SettleRef, check_fits, give_up, plan, plan_all, plan_in
from tgmembership_async.grants.postgres.statements import DIALECT, Row
from tgmembership_async.grants.postgres.tables import LEDGER
from tgmembership_async.storage.postgres.liveness import WorkersStorage
from tgmembership_async.storage.postgres.server import Lane, Server
from tgmembership_async.values.secret import Secret, hides_arguments

T = TypeVar("T")
_PROVED_WITHIN: Final = 2.0  # seconds
_UNCONFIRMED: Final = "the intent could not be confirmed, so it was not sent"


class PostgresLedger(DatabaseLedger[WorkersStorage]):
    """A Ledger in the database that `conninfo` names, in the first schema of its search_path; `clock` is aware UTC.

    Any number of processes may open it, and each may send. Two that claim one ref make one exchange. Rows that a worker
    was sending when its process ended are `unknown` to the next reader; a slow worker keeps its rows. A lost connection
    is restored for up to half a minute, and a claim that cannot be committed is not sent.

    The ledger belongs to the first bot and service that a Granter uses it for, and is refused for any other. A new
    ledger with `shared_by_bots=True` is for all bots of one service: a ref is stored as `BOT_ID:REF`, and each Granter
    sees only the rows of its bot.

    It takes up to four connections, and one more from the first claim on. The password in `conninfo` is shown nowhere.
    Raises StorageError if the server fails. Connect to the server itself (tested: 15), or through a pooler in
    session mode: the lock that shows that a worker is alive belongs to a session. A pooler in transaction mode is
    refused with UsageError, when it is opened or at the next heartbeat, before anything else is sent.
    """

    _dialect = DIALECT

    @hides_arguments
    def __init__(
        self,
        conninfo: str | Secret,
        *,
        shared_by_bots: bool = False,
        clock: transitions.Clock = transitions.utc_now,
    ) -> None:
        self._storage = WorkersStorage(conninfo, LEDGER)
        self._shared_by_bots = shared_by_bots
        self._clock = clock
        self._numbers = count(1)
        self._claimed: dict[str, Row] = {}
        self._owed: dict[str, SettleRef] = {}

    @property
    def interruptions(self) -> int:
        """Return how often this worker lost the connection that shows others that it is alive."""
        return self._storage.liveness.interruptions if self.is_open else 0

    async def open(self) -> Self:
        """Connect, create the tables or bring them up to date, and settle the rows of workers that have ended.

        Raises UsageError if the server rejects the user, the user may not create tables, or the tables are newer than
        this package; StorageError if the server is unreachable.
        """
        await self._storage.open(self._look)
        return self

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row. Raises RefConflict for another plan or member."""
        check_fits(request)
        return await self._storage.run(partial(plan, request=request, now=self._clock(), schema=self._storage.schema))

    async def plan_all(self, requests: Collection[GrantRequest]) -> list[Grant]:
        """Record the intents of the requests whose refs are new, all or none; return the rows of all, in their order.

        A row that was planned with another plan or member is returned as it is: compare it.
        """
        for request in requests:
            check_fits(request)
        schema = self._storage.schema
        return await self._storage.run(partial(plan_all, requests=requests, now=self._clock(), schema=schema))

    @overload
    def plan_in(
        self, connection: Connection[Any], *requests: GrantRequest, bot_id: int | None = None
    ) -> list[Grant]: ...
    @overload
    def plan_in(
        self, connection: AsyncConnection[Any], *requests: GrantRequest, bot_id: int | None = None
    ) -> Awaitable[list[Grant]]: ...
    def plan_in(
        self, connection: Connection[Any] | AsyncConnection[Any], *requests: GrantRequest, bot_id: int | None = None
    ) -> list[Grant] | Awaitable[list[Grant]]:
        """Record intents in your own transaction, next to the order they belong to; return their rows.

        They become visible, and can be sent, when you commit; a rollback discards them. Await the result if
        `connection` is a psycopg.AsyncConnection. Raises RefConflict, and then none of the requests is recorded.

        A ledger with `shared_by_bots=True` needs the `bot_id`, and returns rows with the refs that it keeps.
        """
        self._storage.check_open()
        if self._shared_by_bots != (bot_id is not None):
            msg = "plan_in takes the bot_id in a ledger with shared_by_bots=True, and in no other"
            raise UsageError(msg)
        if bot_id is not None:
            requests = tuple(evolve(request, ref=key(bot_id, request.ref)) for request in requests)
        for request in requests:
            check_fits(request)
        return plan_in(connection, requests, self._clock(), self._storage.schema)

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`, counting an attempt, for this caller to send."""
        check_fits(request)
        job = ClaimRef(request, next(self._numbers), self._storage.liveness, self._clock)
        try:
            claim = await self._storage.run(job)
        except StorageError:
            # The claim may have been committed. Then it is settled when the server is reachable again.
            if job.worker is not None:
                unsent = Settlement(GrantStatus.PLANNED, evidence=_UNCONFIRMED)
                self._owed[request.ref] = SettleRef(request.ref, unsent, self._clock(), (job.worker, job.number))
            raise
        if claim.mine:
            self._claimed[request.ref] = Row(claim.grant, job.worker, job.number)
        return claim

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record the outcome of the exchange of a `sending` row; if the server is unreachable, again later.

        An answer that comes after this worker was presumed to have ended is recorded as a decision. If another decision
        was made by then, or the row was sent again, it does not change and is returned; the attempt stores the answer.
        """
        row = self._claimed.get(check_ref(ref))
        mine = None if row is None else (row.worker, row.claim)
        attempt = 0 if row is None else row.grant.attempts
        job = SettleRef(ref, settlement, self._clock(), mine, row, attempt)
        try:
            grant = await self._storage.run(job)
        except StorageError:
            if mine is not None:
                self._owed[ref] = job
            raise
        self._claimed.pop(ref, None)
        self._owed.pop(ref, None)
        return grant

    async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> FollowUp | None:
        """Lease the follow-up of a row, or return None: it is not due, or another running worker has leased it."""
        job = follow_ups.Begin(check_ref(ref), lease, grace, self._storage.liveness, self._clock)
        return await self._storage.run(job)

    async def postpone(self, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Release a lease: due again at `due_at`, after `failures`. Return False if the lease was no longer held."""
        return await self._storage.run(
            partial(follow_ups.postpone, follow_up=follow_up, failures=failures, due_at=due_at)
        )

    async def end_follow_up(self, follow_up: FollowUp) -> None:
        """Release the lease of a row whose status has changed."""
        await self._storage.run(partial(follow_ups.end, follow_up=follow_up))

    async def check_writable(self) -> None:
        """Make a durable write that leaves nothing behind; raises StorageError if that fails or takes seconds."""
        await self._storage.run(statements.prove_writable, patience=_PROVED_WITHIN, abandon=True)

    @property
    def _where(self) -> Server:
        return self._storage.server

    async def _write(self, job: Callable[[Any], T]) -> T:
        return await self._storage.run(job)

    def _look(self, lane: Lane) -> None:
        """Record settlements that are still owed, and take rows of workers that have ended to unknown; in a thread."""
        for ref, job in tuple(self._owed.items()):
            with suppress(GrantError):  # it was never committed, or has been settled meanwhile
                job(lane)
            if self._owed.get(ref) is job:  # a claim may have failed meanwhile, and be owed a settlement of its own
                del self._owed[ref]
        while rows := statements.abandoned(lane):
            for row in rows:
                give_up(lane, row, self._clock())
