"""A ledger in a SQLite file, with one owner process that sends."""

import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.database_ledger import DatabaseLedger
from tgmembership_async.grants.follow_ups import FollowUp, Kept, Leases, is_about
from tgmembership_async.grants.ledger import Claim
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus, Settlement, check_ref
from tgmembership_async.grants.sqlite import statements
from tgmembership_async.grants.sqlite.statements import DIALECT, Row
from tgmembership_async.grants.sqlite.tables import LEDGER
from tgmembership_async.storage.sqlite.database import SqliteStorage
from tgmembership_async.storage.sqlite.generations import Gap, gaps, hold

T = TypeVar("T")
_PLANNED: Final = frozenset({GrantStatus.PLANNED})
_SENDING: Final = frozenset({GrantStatus.SENDING})
_UNCONFIRMED: Final = "the intent could not be confirmed, so it was not sent"
_WARNED_OF_FOR: Final = timedelta(days=30)
_logger: Final = logging.getLogger("tgmembership_async.grants.restored")


class SqliteLedger(DatabaseLedger[SqliteStorage]):
    """A Ledger in the file at `path`, which holds tokens and so has mode 0600; `clock` returns aware UTC.

    One process at a time owns it, and sends. With `owner=False` it is opened beside a running owner, or without one, to
    read, plan, decide, mark as delivered and purge. Rows that an owner was sending when its process ended are `unknown`
    to the next owner.

    With `must_exist=True` a missing ledger raises UsageError and is not created. `wait` is the number of seconds that
    `open` waits for another owner to end. `restored=True` accepts an older copy than the file last used here, for one
    opening: its `planned` rows become `unknown`, and so do new refs whose `paid_at` falls into the gap.

    The ledger belongs to the first bot and service that a Granter uses it for, and is refused for any other. A new
    ledger with `shared_by_bots=True` is for all bots of one service: a ref is stored as `BOT_ID:REF`, and each Granter
    sees only the rows of its bot.

    Raises StorageError if the disk fails; then the change was not stored.
    """

    _dialect = DIALECT

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        owner: bool = True,
        must_exist: bool = False,
        restored: bool = False,
        wait: float | None = None,
        shared_by_bots: bool = False,
        clock: transitions.Clock = transitions.utc_now,
    ) -> None:
        self._storage = SqliteStorage(path, LEDGER, owner=owner, must_exist=must_exist, restored=restored, wait=wait)
        self._clock = clock
        self._shared_by_bots = shared_by_bots
        self._claimed: dict[str, Row] = {}
        self._unconfirmed: dict[str, _Wish] = {}
        self._leases = Leases()
        self._gaps: list[Gap] = []
        self._is_warned = False

    async def open(self) -> Self:
        """Open the file, as the owner also a new one; rows that the last owner left `sending` become `unknown`.

        Raises UsageError if the file is not a ledger, is newer than this package, has another owner, or is an older
        copy than the file last used here. Raises StorageError if the file is damaged or the disk fails. In all these
        cases the file does not change.
        """
        await self._storage.open()
        self._claimed.clear()
        self._unconfirmed.clear()
        self._leases = Leases()
        self._is_warned = False
        try:
            if self._storage.owner:
                await self._storage.write(partial(_take_over, now=self._clock()))
            self._gaps = await self.gaps()
        except BaseException:
            await self._storage.aclose()
            raise
        return self

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row. Raises RefConflict for another plan or member."""
        if self._gaps:
            await self._hold_if_in_gap(request)
        return await self._storage.write(partial(_plan, request=request, now=self._clock()))

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`, counting an attempt, for this caller to send."""
        self._check_owner()
        if self._unconfirmed:
            await self._release_unconfirmed()
        if self._gaps:
            await self._hold_if_in_gap(request)
        wish = _Wish(request, self._clock())
        try:
            row, mine = await self._storage.write_together(_claim_and_settle, wish)
        except StorageError:
            self._unconfirmed[request.ref] = wish  # the disk may fail after the commit, as it syncs the folder
            raise
        if mine:
            self._claimed[request.ref] = row
        return Claim(row.grant, mine=mine)

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record the outcome of the exchange of a `sending` row."""
        self._check_owner()
        claimed = self._claimed.pop(check_ref(ref), None)
        row, _ = await self._storage.write_together(_claim_and_settle, _End(ref, claimed, settlement, self._clock()))
        return row.grant

    def settle_later(self, ref: str, settlement: Settlement, done: Callable[[Grant | None], object]) -> None:
        """Like `settle`, without a task that waits; see `ledger.SettlesLater`."""
        self._check_owner()
        end = _End(ref, self._claimed.pop(ref, None), settlement, self._clock())
        self._storage.write_later(_claim_and_settle, end, lambda found: done(None if found is None else found[0].grant))

    async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> FollowUp | None:
        """Lease the follow-up of a row, or return None: it is not due, or is leased already."""
        self._check_owner()
        now = self._clock()
        grant, seen = await self._storage.read(partial(DIALECT.look, ref=check_ref(ref), now=now, grace=grace))
        if seen.keep is not None:
            await self._storage.write(partial(statements.keep_follow_up, ref=ref, kept=seen.keep))
        return self._leases.take(grant, seen, now, lease)

    async def postpone(self, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Release a lease: due again at `due_at`, after `failures`. Return False if the lease was no longer held."""
        grant = follow_up.grant
        if not self._leases.holds(grant.ref, follow_up.lease):
            self._storage.check_open()
            return False
        kept = Kept(grant.status, failures, due_at)
        is_kept = await self._storage.write(partial(_postpone, follow_up=follow_up, kept=kept))
        return self._leases.give_back(grant.ref, follow_up.lease) and is_kept

    async def end_follow_up(self, follow_up: FollowUp) -> None:
        """Release the lease of a row whose status has changed."""
        self._storage.check_open()
        self._leases.give_back(follow_up.grant.ref, follow_up.lease)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the ledger as it is now to a new file (mode 0600), with its tokens, while others use it.

        Writers wait meanwhile. Raises UsageError if the target exists, and StorageError if the disk fails; then no file
        is left.
        """
        await self._storage.backup(path)

    async def gaps(self) -> list[Gap]:
        """Return the periods whose rows may be missing, because an older copy was restored and accepted."""
        return await self._storage.read(gaps)

    async def _hold_if_in_gap(self, request: GrantRequest) -> None:
        """Hold a new ref that was paid in a gap; warn once if `paid_at` is missing."""
        if request.paid_at is None:
            await self._warn_of_gaps(request)
            return
        gap = next((gap for gap in self._gaps if request.paid_at in gap), None)
        if gap is not None:
            await self._storage.write(partial(_hold, request=request, gap=gap, now=self._clock()))

    async def _warn_of_gaps(self, request: GrantRequest) -> None:
        now = self._clock()
        recent = [gap for gap in self._gaps if now - gap.accepted_at < _WARNED_OF_FOR]
        if self._is_warned or not recent or await self.get(request.ref) is not None or self._is_warned:
            return
        self._is_warned = True
        _logger.warning(
            "%s was restored from an older copy, which lacks the grants made %s. The request for %s is new to it and "
            "has no paid_at, so it is sent, as is every other one without paid_at",
            self._storage.path,
            " and ".join(map(str, recent)),
            request.ref,
        )

    async def check_writable(self) -> None:
        """Make a durable write as large as a payment's that leaves nothing behind. Raises StorageError if it fails."""
        await self._storage.write(statements.prove_writable)

    @property
    def _where(self) -> Path:
        return self._storage.path

    async def _read(self, job: Callable[[Any], T]) -> T:
        if self._unconfirmed:
            with suppress(StorageError):
                await self._release_unconfirmed()
        return await self._storage.read(job)

    async def _write(self, job: Callable[[Any], T]) -> T:
        if self._unconfirmed:
            await self._release_unconfirmed()
        return await self._storage.write(job)

    async def _release_unconfirmed(self) -> None:
        """Return the rows to planned whose claims failed and were committed all the same: nothing was sent."""
        wishes = dict(self._unconfirmed)
        await self._storage.write(partial(_release, wishes=wishes.values(), claimed=self._claimed, now=self._clock()))
        for ref, wish in wishes.items():
            if self._unconfirmed.get(ref) is wish:
                del self._unconfirmed[ref]

    def _check_owner(self) -> None:
        if not self._storage.owner:
            msg = "a ledger opened with owner=False reads and decides; only its owner sends"
            raise UsageError(msg)


def _take_over(connection: sqlite3.Connection, now: datetime) -> None:
    last = DIALECT.last_id(connection)
    after: int | None = 0
    while after is not None:
        dead, after = statements.page(connection, after, last, _SENDING, None)
        ends = [_End(grant.ref, None, transitions.interruption(grant), now) for grant in dead]
        attempts = [
            statements.end(row, job.settlement, None) for row, job in zip(_settle(connection, ends), ends, strict=True)
        ]
        statements.add_to_attempts(connection, attempts)
    for gap in gaps(connection, unheld=True):
        _hold_planned(connection, gap, last, now)
    hold(connection)


def _hold_planned(connection: sqlite3.Connection, gap: Gap, last: int, now: datetime) -> None:
    """Take the planned rows of a restored copy to unknown: they may have been sent in the gap."""
    after: int | None = 0
    while after is not None:
        found, after = statements.page(connection, after, last, _PLANNED, None)
        old = [DIALECT.known(connection, grant.ref) for grant in found if grant.updated_at < gap.accepted_at]
        statements.replace(connection, [(row, transitions.held_for_gap(row.grant, str(gap), now)) for row in old])


def _hold(connection: sqlite3.Connection, request: GrantRequest, gap: Gap, now: datetime) -> None:
    """Write the row of a ref that may have been granted in a gap, unless the row exists."""
    [row] = statements.insert(connection, [transitions.planned(request, now)])
    if row is not None:
        statements.replace(connection, [(row, transitions.held_for_gap(row.grant, str(gap), now))])


def _plan(connection: sqlite3.Connection, request: GrantRequest, now: datetime) -> Grant:
    [new] = statements.insert(connection, [transitions.planned(request, now)])
    return transitions.same(DIALECT.known(connection, request.ref).grant, request) if new is None else new.grant


def _postpone(connection: sqlite3.Connection, follow_up: FollowUp, kept: Kept) -> bool:
    ref = follow_up.grant.ref
    if not is_about(follow_up, DIALECT.known(connection, ref).grant):
        return False  # another process may have decided, which knows of no lease
    statements.keep_follow_up(connection, ref, kept)
    return True


class _Wish(NamedTuple):
    request: GrantRequest
    now: datetime


class _End(NamedTuple):
    ref: str
    row: Row | None
    settlement: Settlement
    now: datetime


def _release(connection: sqlite3.Connection, wishes: Iterable[_Wish], claimed: Collection[str], now: datetime) -> None:
    unsent = Settlement(GrantStatus.PLANNED, evidence=_UNCONFIRMED)
    found = [(wish, DIALECT.find(connection, wish.request.ref)) for wish in wishes]
    ends = [
        _End(row.grant.ref, row, unsent, now)
        for wish, row in found
        if row is not None
        # A claim that was made since has another time, and is known as soon as its caller has heard of it.
        and (row.grant.status, row.grant.updated_at) == (GrantStatus.SENDING, wish.now)
        and row.grant.ref not in claimed
    ]
    _claim_and_settle(connection, ends)


def _claim_and_settle(connection: sqlite3.Connection, jobs: Sequence[_Wish | _End]) -> list[tuple[Row, bool]]:
    """Settle and claim rows; return for each job its row, and whether the row was claimed by it.

    In a run these jobs alternate, and one statement for all of a kind costs as much as one for each stretch of it.
    Settlements come first, so that a claim finds the rows settled before it.
    """
    ends = [job for job in jobs if isinstance(job, _End)]
    ended = _settle(connection, ends)
    begun = _claim(connection, [job for job in jobs if isinstance(job, _Wish)])
    attempts = [statements.end(row, job.settlement, job.now) for row, job in zip(ended, ends, strict=True)]
    attempts += [statements.beginning(row) for row, mine in begun if mine]
    statements.add_to_attempts(connection, attempts)
    settled, claimed = iter(ended), iter(begun)
    return [(next(settled), False) if isinstance(job, _End) else next(claimed) for job in jobs]


def _settle(connection: sqlite3.Connection, ends: Sequence[_End]) -> list[Row]:
    rows = [job.row or DIALECT.known(connection, job.ref) for job in ends]
    settled = [transitions.settled(row.grant, job.settlement, job.now) for row, job in zip(rows, ends, strict=True)]
    return statements.replace(connection, list(zip(rows, settled, strict=True)))


def _claim(connection: sqlite3.Connection, wishes: Sequence[_Wish]) -> list[tuple[Row, bool]]:
    new = statements.insert(connection, [transitions.begun(request, now) for request, now in wishes])
    return [
        _claim_known(connection, wish) if row is None else (row, True) for row, wish in zip(new, wishes, strict=True)
    ]


def _claim_known(connection: sqlite3.Connection, wish: _Wish) -> tuple[Row, bool]:
    found = DIALECT.known(connection, wish.request.ref)
    if transitions.same(found.grant, wish.request).status is not GrantStatus.PLANNED:
        return found, False
    [sending] = statements.replace(connection, [(found, transitions.claimed(found.grant, wish.now))])
    return sending, True
