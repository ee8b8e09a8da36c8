"""Follow-ups: the next action on a grant after its exchange, and when it is due. Stored in the ledger beside the row.

| status             | action                         | first due                    |
| ------------------ | ------------------------------ | ---------------------------- |
| planned            | tell the owner that it waits   | `grace` after the first look |
| granted            | deliver the link               | at once                      |
| refused, unknown   | ask the owner for a decision   | at once                      |

A follow-up belongs to a row in one status. When the row changes its status, a new follow-up begins. A decision ends it
too, so that a new one begins if the row comes to the same status again; whoever has leased the old one then, postpones
nothing.
"""

from datetime import datetime, timedelta
from typing import Any, Final, Protocol, runtime_checkable

from attrs import frozen

from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import Grant, GrantStatus
from tgmembership_async.renamed import warn_renamed

OPEN: Final = (GrantStatus.PLANNED, GrantStatus.GRANTED, GrantStatus.REFUSED, GrantStatus.UNKNOWN)
"""The statuses that have a follow-up."""
_WAITS: Final = frozenset({GrantStatus.PLANNED})


@frozen
class FollowUp:
    """A follow-up that the caller has leased: the row as it is now, and how often its callback has failed.

    `lease` is a fencing number: a later lease of the same row has a higher one.
    """

    grant: Grant
    failures: int = 0
    lease: int = 0


@runtime_checkable
class FollowUps(Ledger, Protocol):
    """A Ledger that also keeps follow-ups. `SqliteLedger`, `PostgresLedger` and `MemoryLedger` do."""

    async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> FollowUp | None:
        """Lease the follow-up of a row for `lease`, or return None: it is not due, or another worker has leased it.

        A planned row becomes due `grace` after it was first looked at.
        """
        ...

    async def postpone(self, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Release a lease: due again at `due_at`, after `failures`. Return False if the lease was no longer held."""
        ...

    async def end_follow_up(self, follow_up: FollowUp) -> None:
        """Release the lease of a row whose status has changed."""
        ...

    async def check_writable(self) -> None:
        """Make a small durable write that leaves nothing behind; raises StorageError if the ledger cannot write."""
        ...


class FormerNames:
    """The former name of a method of FollowUps."""

    async def put_off(self: Any, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Call `postpone`, under its former name."""
        warn_renamed("put_off", "postpone")
        return bool(await self.postpone(follow_up, failures=failures, due_at=due_at))


def accept_former_names(ledger: Ledger) -> None:
    """Give the class of a user's own ledger that has `put_off` instead of `postpone` the new name too, and warn."""
    kind: Any = type(ledger)
    if hasattr(kind, "put_off") and getattr(kind, "postpone", FollowUps.postpone) is FollowUps.postpone:
        warn_renamed(f"{kind.__name__}.put_off", "postpone", stacklevel=4)
        kind.postpone = _put_off


async def _put_off(self: Any, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
    return bool(await self.put_off(follow_up, failures=failures, due_at=due_at))


@frozen
class Kept:
    """The part of a follow-up that a ledger stores."""

    about: GrantStatus
    failures: int
    due_at: datetime


@frozen
class Look:
    """The result of a look at a row: whether its follow-up is due, how often it failed, and the part to store."""

    is_due: bool
    failures: int = 0
    keep: Kept | None = None


def look(grant: Grant, kept: Kept | None, now: datetime, grace: timedelta) -> Look:
    """Look at a row; `kept` is the stored part of its follow-up, in this status or an earlier one."""
    if grant.status not in OPEN:
        return Look(is_due=False)
    if kept is not None and kept.about is grant.status:
        return Look(kept.due_at <= now, kept.failures)
    if grant.status in _WAITS:
        return Look(is_due=False, keep=Kept(grant.status, 0, now + grace))
    return Look(is_due=True)


def is_about(follow_up: FollowUp, grant: Grant) -> bool:
    """Tell whether a follow-up is about a row as it is: the same status of the same attempt."""
    leased = follow_up.grant
    return (leased.status, leased.attempts) == (grant.status, grant.attempts)


class Leases:
    """The leases of a ledger that one process owns. They end with the process, so they are not stored."""

    __slots__ = ("_last", "_until")

    def __init__(self) -> None:
        self._until: dict[str, tuple[int, datetime]] = {}
        self._last = 0

    def take(self, grant: Grant, seen: Look, now: datetime, lease: timedelta) -> FollowUp | None:
        """Return the follow-up with a new lease, or None if it is not due or while another lease is valid."""
        held = self._until.get(grant.ref)
        if not seen.is_due or (held is not None and held[1] > now):
            return None
        self._last += 1
        self._until[grant.ref] = self._last, now + lease
        return FollowUp(grant, seen.failures, self._last)

    def holds(self, ref: str, lease: int) -> bool:
        """Tell whether a lease was neither ended nor followed by another one."""
        held = self._until.get(ref)
        return held is not None and held[0] == lease

    def give_back(self, ref: str, lease: int) -> bool:
        """End a lease, and return whether it was still held."""
        if not self.holds(ref, lease):
            return False
        del self._until[ref]
        return True
