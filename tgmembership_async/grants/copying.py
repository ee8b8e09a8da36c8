"""Copy a ledger into another one, of any kind: every row with its attempts, decisions, token and times.

Rows are copied in pages. Each page is stored completely or not at all, so an interrupted copy is resumed by starting it
again. A row that the target already has must be the same there; nothing is ever overwritten.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, Protocol

from attrs import field, frozen

from tgmembership_async.errors import GrantError, UsageError
from tgmembership_async.grants.model import Attempt, DecisionMade
from tgmembership_async.storage.binding import Binding
from tgmembership_async.values.models import mask

PAGE: Final = 500


@frozen
class Entry:
    """Everything that a ledger knows of a ref. `token` and `error` are JSON of `model.dump_token` and `dump_error`."""

    ref: str
    plan_id: int
    member_id: int | None
    note: str
    status: str
    attempts: int
    token: str | None = field(repr=mask)
    error: str | None
    updated_at: datetime
    granted_at: datetime | None
    history: tuple[Attempt, ...]
    decisions: tuple[DecisionMade, ...]


@frozen
class State:
    """What shows whether a ledger was changed: its number of rows, the latest change, and how many are being sent."""

    rows: int
    changed: datetime | None
    sending: int
    last: int


@frozen
class Copied:
    """The result of a copy: the rows in the source, and how many of them were new to the target."""

    rows: int
    added: int


class Store(Protocol):
    """The tables of a ledger, for copying. Both kinds raise UsageError or StorageError as their ledgers do."""

    async def open(self) -> None:
        """Open the ledger; a target creates the tables that are missing."""
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...

    async def state(self) -> State:
        """Return its state."""
        ...

    async def binding(self) -> Binding | None:
        """Return whose it is, or None while nobody has recorded that."""
        ...

    async def bind(self, source: Binding | None) -> None:
        """Take over a source's binding; UsageError as `check_copy` raises."""
        ...

    async def page(self, after: int, last: int) -> tuple[list[Entry], int | None]:
        """Return the entries after an id, in the order in which they were written, and the id to continue from."""
        ...

    async def take_in(self, entries: list[Entry]) -> int:
        """Store the new entries in one transaction, and return how many; raise GrantError as `new_among` does."""
        ...


async def copy(source: Store, target: Store, progress: Callable[[int, int], object]) -> Copied:
    """Copy all rows; `progress` is called with the number of rows done and of all rows.

    Raises GrantError where the target has another row under the same ref, and UsageError where rows are being sent, the
    target belongs to another bot or service, or the source was changed meanwhile. What was copied until then stays, and
    copying again goes on from there.
    """
    before = await source.state()
    if before.sending:
        msg = f"{before.sending:,} rows are being sent right now: stop the workers first, and copy again"
        raise UsageError(msg)
    await target.bind(await source.binding())
    done = added = 0
    after: int | None = 0
    while after is not None:
        entries, after = await source.page(after, before.last)
        added += await target.take_in(entries)
        done += len(entries)
        progress(done, before.rows)
    if await source.state() != before:
        msg = "the ledger was changed while it was copied: stop the workers that use it, and copy into an empty one"
        raise UsageError(msg)
    return Copied(done, added)


def new_among(entries: Iterable[Entry], found: Iterable[Entry]) -> list[Entry]:
    """Return the entries whose refs are not among those found; raise GrantError if one that was found differs."""
    there = {entry.ref: entry for entry in found}
    new: list[Entry] = []
    for entry in entries:
        if entry.ref not in there:
            new.append(entry)
        elif there[entry.ref] != entry:
            msg = (
                f"{entry.ref} is {entry.status} here ({entry.attempts} attempts) and {there[entry.ref].status} there "
                f"({there[entry.ref].attempts} attempts): nothing is overwritten, so find out which of them is right"
            )
            raise GrantError(msg)
    return new
