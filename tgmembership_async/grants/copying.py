"""Copy a ledger into another one, of any kind: every row with its attempts, decisions, token and times.

Rows are copied in pages. Each page is stored completely or not at all, so an interrupted copy is resumed by starting it
again. A row that the target already has must be the same there; nothing is ever overwritten.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from itertools import starmap
from typing import Any, ClassVar, Final, TypeVar

from attrs import field, frozen

from tgmembership_async.errors import GrantError, UsageError
from tgmembership_async.grants.database_ledger import Dialect
from tgmembership_async.grants.model import Attempt, DecisionMade, GrantStatus
from tgmembership_async.storage.binding import Binding
from tgmembership_async.storage.database import Connection
from tgmembership_async.storage.sqlite.generations import Gap
from tgmembership_async.values.models import mask

T = TypeVar("T")
PAGE: Final = 500


@frozen
class Entry:
    """Everything that a ledger knows of a ref. `token` and `error` are JSON of `model.dump_token` and `dump_error`."""

    ref: str
    plan_id: int | str
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
    """Figures that change with the ledger, also where a worker's clock is slow: `statuses` are the rows of each."""

    rows: int
    changed: datetime | None
    last: int
    attempts: int
    decisions: int
    statuses: dict[GrantStatus, int]

    @property
    def sending(self) -> int:
        """Return how many rows are being sent."""
        return self.statuses[GrantStatus.SENDING]


@frozen
class Copied:
    """The result of a copy: the rows in the source, and how many of them were new to the target."""

    rows: int
    added: int


@frozen(kw_only=True)
class Statements:
    """The statements of one database that read rows to copy. They take their values by name.

    A row is its id, and then the fields of an Entry up to `granted_at`.
    """

    state: Any
    """As `select_state` returns it."""
    page: Any
    """Selects at most `limit` rows after the id `after` and up to the id `last`, by id."""
    found: Any
    """Selects the rows of `refs`."""


def select_state(grants: str, decisions: str) -> str:
    """Return the statement that selects the fields of a State, from these tables."""
    statuses = ", ".join(f"count(*) FILTER (WHERE status = '{status}')" for status in GrantStatus)
    return (
        "SELECT count(*), max(updated_at), coalesce(max(id), 0), coalesce(sum(attempts), 0), "  # noqa: S608 - constants
        f"(SELECT count(*) FROM {decisions}), {statuses} FROM {grants}"
    )


class Store(ABC):
    """The tables of a ledger, for copying. Both kinds raise UsageError or StorageError as their ledgers do."""

    _dialect: ClassVar[Dialect[Any]]
    _statements: ClassVar[Statements]

    @abstractmethod
    async def open(self) -> None:
        """Open the ledger; a target creates the tables that are missing. Rows left `sending` become `unknown`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it."""

    async def state(self) -> State:
        """Return its state."""
        return await self._read(self._state)

    async def binding(self) -> Binding | None:
        """Return the binding, or None if there is none."""
        return await self._read(self._dialect.binding)

    async def bind(self, source: Binding | None) -> None:
        """Take over a source's binding; UsageError as `check_copy` raises."""
        await self._write(partial(self._dialect.take_binding, source=source))

    async def gaps(self) -> list[Gap]:
        """Return the periods whose rows may be missing. A database has none."""
        return []

    @abstractmethod
    async def take_gaps(self, found: list[Gap]) -> None:
        """Take over a source's gaps."""

    async def page(self, after: int, last: int) -> tuple[list[Entry], int | None]:
        """Return the entries after an id, in the order in which they were written, and the id to continue from."""
        return await self._read(partial(self._page, after=after, last=last))

    async def take_in(self, entries: list[Entry]) -> int:
        """Store the new entries in one transaction, and return how many; raise GrantError as `new_among` does."""
        return await self._write(partial(self._take_in, entries=entries))

    @abstractmethod
    async def _write(self, job: Callable[[Any], T]) -> T:
        """Run a job in a thread."""

    async def _read(self, job: Callable[[Any], T]) -> T:
        """Run a job that only reads, in a thread."""
        return await self._write(job)

    @abstractmethod
    def _add(self, connection: Any, entries: list[Entry]) -> None:
        """Store these entries."""

    def _state(self, connection: Connection) -> State:
        rows, changed, last, attempts, decisions, *counts = connection.execute(self._statements.state, {}).fetchone()
        statuses = dict(zip(GrantStatus, counts, strict=True))
        return State(rows, self._dialect.loaded_time(changed), last, attempts, decisions, statuses)

    def _page(self, connection: Connection, after: int, last: int) -> tuple[list[Entry], int | None]:
        values = {"after": after, "last": last, "limit": PAGE}
        rows = connection.execute(self._statements.page, values).fetchall()
        return self._entries(connection, rows), rows[-1][0] if len(rows) == PAGE else None

    def _take_in(self, connection: Any, entries: list[Entry]) -> int:
        refs = self._dialect.stored_list([entry.ref for entry in entries])
        found = connection.execute(self._statements.found, {"refs": refs}).fetchall()
        new = new_among(entries, self._entries(connection, found))
        self._add(connection, new)
        return len(new)

    def _entries(self, connection: Connection, rows: list[tuple[Any, ...]]) -> list[Entry]:
        refs = [row[1] for row in rows]
        history: defaultdict[str, list[Attempt]] = defaultdict(list)
        decisions: defaultdict[str, list[DecisionMade]] = defaultdict(list)
        for attempt in self._dialect.attempts(connection, refs):
            history[attempt.ref].append(attempt)
        for made in self._dialect.decisions(connection, refs):
            decisions[made.ref].append(made)
        time = self._dialect.loaded_time
        fields = (
            (*columns, time(updated_at), time(granted_at), tuple(history[ref]), tuple(decisions[ref]))
            for ref, (_, *columns, updated_at, granted_at) in zip(refs, rows, strict=True)
        )
        return list(starmap(Entry, fields))


async def copy(
    source: Store, target: Store, progress: Callable[[int, int], object], *, forget_gaps: bool = False
) -> Copied:
    """Copy all rows and gaps; `progress` is called with the number of rows done and of all rows.

    Raises GrantError if the target has another row under the same ref, and UsageError if rows are being sent, the
    target belongs to another bot or service, the target cannot take over a gap (unless `forget_gaps`), or the source
    was changed meanwhile. The rows copied until then stay, and copying again continues from there.
    """
    before = await source.state()
    if before.sending:
        msg = f"{before.sending:,} rows are being sent right now: stop the workers first, and copy again"
        raise UsageError(msg)
    await target.bind(await source.binding())
    if not forget_gaps:
        await target.take_gaps(await source.gaps())
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
