"""A ledger in a SQLite file, with one owner process that sends."""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Self

from tgmembership_async.errors import UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.bot_ledger import LEDGER_ADVICE
from tgmembership_async.grants.follow_ups import FollowUp, Kept, Leases, look
from tgmembership_async.grants.ledger import Claim
from tgmembership_async.grants.model import (
    Attempt,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
    check_ref,
)
from tgmembership_async.grants.paging import by_id
from tgmembership_async.grants.sqlite import statements
from tgmembership_async.grants.sqlite.statements import Row
from tgmembership_async.grants.sqlite.tables import LEDGER
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.storage.binding import Binding, agreed
from tgmembership_async.storage.sqlite.binding import read_binding, write_binding
from tgmembership_async.storage.sqlite.database import SqliteStorage
from tgmembership_async.storage.sqlite.generations import Gap, gaps, hold
from tgmembership_async.storage.text import storable
from tgmembership_async.values.models import AccessToken

_PLANNED: Final = frozenset({GrantStatus.PLANNED})
_SENDING: Final = frozenset({GrantStatus.SENDING})
_WARNED_OF_FOR: Final = timedelta(days=30)
_logger: Final = logging.getLogger("tgmembership_async.grants")


class SqliteLedger(AsyncResource):
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
        self._leases = Leases()
        self._gaps: list[Gap] = []
        self._is_warned = False

    def _shown(self) -> str:
        return f"<SqliteLedger at {self._storage.path}, {'open' if self.is_open else 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._storage.is_open

    async def open(self) -> Self:
        """Open the file, as the owner also a new one; rows that the last owner left `sending` become `unknown`.

        Raises UsageError if the file is not a ledger, is newer than this package, has another owner, or is an older
        copy than the file last used here. Raises StorageError if the file is damaged or the disk fails. In all these
        cases the file does not change.
        """
        await self._storage.open()
        self._claimed.clear()
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

    async def aclose(self) -> None:
        """Finish writing, and close the file."""
        await self._storage.aclose()

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row. Raises RefConflict for another plan or member."""
        if self._gaps:
            await self._mind_gaps(request)
        return await self._storage.write(partial(_plan, request=request, now=self._clock()))

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`, counting an attempt, for this caller to send."""
        self._check_owner()
        if self._gaps:
            await self._mind_gaps(request)
        row, mine = await self._storage.write_together(_claim_all, (request, self._clock()))
        if mine:
            self._claimed[request.ref] = row
        return Claim(row.grant, mine=mine)

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record the outcome of the exchange of a `sending` row."""
        self._check_owner()
        claimed = self._claimed.pop(check_ref(ref), None)
        return await self._storage.write_together(_settle_all, (ref, claimed, settlement, self._clock()))

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        """Take a row where the decision leads, if `model.DECIDED_FROM` allows it; record it with time and reason."""
        made = DecisionMade(check_ref(ref), decision, self._clock(), storable(reason))
        return await self._storage.write(partial(_decide, made=made, token=token))

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link; a row that is delivered already does not change."""
        return await self._storage.write(partial(_deliver, ref=check_ref(ref), now=self._clock()))

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None."""
        row = await self._storage.read(partial(statements.find, ref=check_ref(ref)))
        return None if row is None else row.grant

    def grants(
        self, status: Collection[GrantStatus] | None = None, since: datetime | None = None
    ) -> AsyncIterator[Grant]:
        """Yield rows, the oldest ref first, of these statuses and changed at `since` or later, with constant memory.

        Each page shows the rows as they are when it is read; refs that are new since the first page are left out.
        """
        return by_id(self._storage.read, statements.last_id, statements.page, status, since)

    async def attempts(self, ref: str) -> list[Attempt]:
        """Return the exchanges of a ref, in order."""
        return await self._storage.read(partial(statements.attempts, ref=check_ref(ref)))

    async def decisions(self, ref: str) -> list[DecisionMade]:
        """Return the decisions about a ref, in order."""
        return await self._storage.read(partial(statements.decisions, ref=check_ref(ref)))

    async def purge(self, delivered_before: datetime) -> int:
        """Remove the tokens of rows delivered before then, and return their number; the rows stay.

        The tokens are overwritten in the file. A journaling or copy-on-write file system may still hold them.
        """
        limit = transitions.check_aware("delivered_before", delivered_before)
        return await self._storage.write(partial(statements.wipe, delivered_before=limit))

    async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> FollowUp | None:
        """Lease the follow-up of a row, or return None: it is not due, or is leased already."""
        self._check_owner()
        now = self._clock()
        grant, kept = await self._storage.read(partial(_find_follow_up, ref=check_ref(ref)))
        seen = look(grant, kept, now, grace)
        if seen.keep is not None:
            await self._storage.write(partial(statements.keep_follow_up, ref=ref, kept=seen.keep))
        number = self._leases.take(ref, now, lease) if seen.is_due else None
        return None if number is None else FollowUp(grant, seen.failures, number)

    async def put_off(self, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Release a lease: due again at `due_at`, after `failures`. Return False if the lease was no longer held."""
        grant = follow_up.grant
        kept = Kept(grant.status, failures, due_at)
        await self._storage.write(partial(statements.keep_follow_up, ref=grant.ref, kept=kept))
        return self._leases.give_back(grant.ref, follow_up.lease)

    async def end_follow_up(self, follow_up: FollowUp) -> None:
        """Release the lease of a row whose status has changed."""
        self._storage.check_open()
        self._leases.give_back(follow_up.grant.ref, follow_up.lease)

    async def bind(self, service: str, bot_id: int, *, record: bool = True) -> Binding:
        """Return the bot and service that the ledger belongs to; with `record` a ledger without any is bound to these.

        Raises UsageError if it belongs to another bot or service.
        """
        wanted = Binding(service, None if self._shared_by_bots else bot_id)
        job = partial(_bind, wanted=wanted, bot_id=bot_id, where=self._storage.path, record=record)
        return await (self._storage.write(job) if record else self._storage.read(job))

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the ledger as it is now to a new file (mode 0600), with its tokens, while others use it.

        Writers wait meanwhile. Raises UsageError if the target exists, and StorageError if the disk fails; then no file
        is left.
        """
        await self._storage.backup(path)

    async def gaps(self) -> list[Gap]:
        """Return the periods whose rows may be missing, because an older copy was restored and accepted."""
        return await self._storage.read(gaps)

    async def _mind_gaps(self, request: GrantRequest) -> None:
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
            "%s was restored from an older copy, which lacks what was granted %s. The request for %s is new to it and "
            "has no paid_at, so it is sent, as is every other one without paid_at",
            self._storage.path,
            " and ".join(map(str, recent)),
            request.ref,
        )

    async def check_writable(self) -> None:
        """Make a durable write as large as a payment's that leaves nothing behind. Raises StorageError if it fails."""
        await self._storage.write(statements.prove_writable)

    def _check_owner(self) -> None:
        if not self._storage.owner:
            msg = "a ledger opened with owner=False reads and decides; only its owner sends"
            raise UsageError(msg)


def _bind(connection: sqlite3.Connection, wanted: Binding, bot_id: int, where: object, *, record: bool) -> Binding:
    found, is_empty = read_binding(connection, LEDGER.name), not statements.last_id(connection)
    binding = agreed(found, wanted, bot_id=bot_id, is_empty=is_empty, where=where, advice=LEDGER_ADVICE)
    if record and found is None:
        write_binding(connection, LEDGER.name, binding)
    return binding


def _take_over(connection: sqlite3.Connection, now: datetime) -> None:
    last = statements.last_id(connection)
    after: int | None = 0
    while after is not None:
        dead, after = statements.page(connection, after, last, _SENDING, None)
        ends = [(_known(connection, grant.ref), transitions.interruption(grant), now) for grant in dead]
        _end_all(connection, ends, seen=False)
    for gap in gaps(connection, unheld=True):
        _doubt_planned(connection, gap, last, now)
    hold(connection)


def _doubt_planned(connection: sqlite3.Connection, gap: Gap, last: int, now: datetime) -> None:
    """Take the planned rows of a restored copy to unknown: they may have been sent in the gap."""
    after: int | None = 0
    while after is not None:
        found, after = statements.page(connection, after, last, _PLANNED, None)
        old = [_known(connection, grant.ref) for grant in found if grant.updated_at < gap.accepted_at]
        statements.replace(connection, [(row, transitions.doubted(row.grant, str(gap), now)) for row in old])


def _hold(connection: sqlite3.Connection, request: GrantRequest, gap: Gap, now: datetime) -> None:
    """Write the row of a ref that may have been granted in a gap, unless the row exists."""
    for row in statements.insert(connection, [transitions.planned(request, now)]) or ():
        statements.replace(connection, [(row, transitions.doubted(row.grant, str(gap), now))])


def _plan(connection: sqlite3.Connection, request: GrantRequest, now: datetime) -> Grant:
    new = statements.insert(connection, [transitions.planned(request, now)])
    return transitions.same(_known(connection, request.ref).grant, request) if new is None else new[0].grant


def _claim_all(
    connection: sqlite3.Connection, wishes: Sequence[tuple[GrantRequest, datetime]]
) -> list[tuple[Row, bool]]:
    new = statements.insert(
        connection, [transitions.claimed(transitions.planned(request, now), now) for request, now in wishes]
    )
    if new is None:
        return [_claim(connection, request, now) for request, now in wishes]
    statements.begin_attempts(connection, new)
    return [(row, True) for row in new]


def _claim(connection: sqlite3.Connection, request: GrantRequest, now: datetime) -> tuple[Row, bool]:
    found = statements.find(connection, request.ref)
    if found is None:
        return _claim_all(connection, [(request, now)])[0]
    if transitions.same(found.grant, request).status is not GrantStatus.PLANNED:
        return found, False
    sending = statements.replace(connection, [(found, transitions.claimed(found.grant, now))])
    statements.begin_attempts(connection, sending)
    return sending[0], True


def _settle_all(
    connection: sqlite3.Connection, ends: Sequence[tuple[str, Row | None, Settlement, datetime]]
) -> list[Grant]:
    return _end_all(
        connection, [(row or _known(connection, ref), settlement, now) for ref, row, settlement, now in ends]
    )


def _end_all(
    connection: sqlite3.Connection, ends: Sequence[tuple[Row, Settlement, datetime]], *, seen: bool = True
) -> list[Grant]:
    after = [(row, transitions.settled(row.grant, settlement, now)) for row, settlement, now in ends]
    rows = statements.replace(connection, after)
    statements.end_attempts(
        connection,
        [(row, settlement, now if seen else None) for row, (_, settlement, now) in zip(rows, ends, strict=True)],
    )
    return [row.grant for row in rows]


def _decide(connection: sqlite3.Connection, made: DecisionMade, token: AccessToken | None) -> Grant:
    row = _known(connection, made.ref)
    [after] = statements.replace(
        connection, [(row, transitions.decided(row.grant, made.decision, token, made.decided_at))]
    )
    statements.add_decision(connection, after, made)
    return after.grant


def _deliver(connection: sqlite3.Connection, ref: str, now: datetime) -> Grant:
    row = _known(connection, ref)
    after = transitions.delivered(row.grant, now)
    return after if after is row.grant else statements.replace(connection, [(row, after)])[0].grant


def _find_follow_up(connection: sqlite3.Connection, ref: str) -> tuple[Grant, Kept | None]:
    row = _known(connection, ref)
    return row.grant, statements.follow_up(connection, row)


def _known(connection: sqlite3.Connection, ref: str) -> Row:
    row = statements.find(connection, ref)
    transitions.known(ref, None if row is None else row.grant)
    assert row is not None  # noqa: S101 - known
    return row
