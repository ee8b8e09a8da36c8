"""The part of a ledger that SQLite and PostgreSQL share; `sqlite` and `postgres` have the differences, mostly SQL."""

from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from attrs import field, frozen, mutable

from tgmembership_async.grants import transitions
from tgmembership_async.grants.bot_ledger import LEDGER_ADVICE
from tgmembership_async.grants.follow_ups import FormerNames, Kept, Look, look
from tgmembership_async.grants.model import (
    Attempt,
    DayCount,
    DayKey,
    Decision,
    DecisionMade,
    Grant,
    GrantStatus,
    check_ref,
    day_counts,
    load_error,
    load_token,
)
from tgmembership_async.grants.paging import Page, by_id
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.storage.binding import Binding, BindingTable, agreed, check_copy
from tgmembership_async.storage.database import Connection, S
from tgmembership_async.storage.text import storable
from tgmembership_async.values.models import AccessToken

T = TypeVar("T")
_COMPONENT: Final = "ledger"
_COUNTED_AT_ONCE: Final = 20_000
"""Ids that one statement groups by day, so that other jobs wait for milliseconds only."""
_FIRST_DAY: Final = date(1970, 1, 1)


class Row(Protocol):
    """A grant as read, with the columns that its database needs to change it."""

    @property
    def grant(self) -> Grant: ...  # noqa: D102 - as its class says


R = TypeVar("R", bound=Row)


@frozen(kw_only=True)
class Dialect(Generic[R]):
    """The SQL to read and change the rows of one database. Its statements take their values by name.

    The columns of a grant are the fields of `copying.Entry` up to `granted_at`, in their order.
    """

    row_of: Any
    """Selects the row of `ref`, for `load`."""
    rows_of: Any
    """Selects the rows of `refs`, for `load`."""
    id_of: Any
    """Selects the id of the row of `ref`."""
    newest: Any
    """Selects the id of the newest row, or NULL."""
    names_bots: Any
    """Selects whether several bots may share the rows: there is none or, in PostgreSQL, each ref names its bot."""
    attempts_of: Any
    """Selects ref, number, beginning, end, status and evidence of the exchanges of `refs`, in order."""
    decisions_of: Any
    """Selects ref, decision, time and reason of the decisions about `refs`, in order."""
    counts: Any
    """Selects each status of the rows whose refs begin with `prefix`, and their number."""
    days: Any
    """Selects the day in days since 1970 (UTC), the plan, the status and the number of the rows with ids after `after`
    up to `last` whose refs begin with `prefix`; the day is that of `granted_at` or, if that is NULL, `updated_at`."""
    search: Any
    """Selects the columns of at most `limit` grants whose refs begin with `prefix`: those whose member is `text`, and
    then those whose refs go on with a text that contains `text`; the newest first."""
    follow_up_of: Any
    """Selects status, failures and due time of the stored follow-up of `ref`."""
    wipe: tuple[Any, ...]
    """Remove the tokens of rows delivered before `before`; the last one counts the rows."""
    load: Callable[[Sequence[Any]], R]
    page: Callable[[Any, int, int, Collection[GrantStatus], datetime | None], Page]
    """Returns the matching rows after an id, and the id to continue from; None after the last id."""
    decide: Callable[[DecisionMade, Any, R, Grant], bool]
    """Applies a decision to a row and records it; returns False if the row has changed."""
    deliver: Callable[[Any, R, Grant], bool]
    """Records that a row is delivered; returns False if the row has changed."""
    binding_table: BindingTable
    stored_time: Callable[[Any], Any]
    """Converts a time, as `loaded_time` does; None stays None."""
    loaded_time: Callable[[Any], Any]
    stored_list: Callable[[list[str]], Any]

    def find(self, connection: Connection, ref: str) -> R | None:
        """Return the row of a ref, or None."""
        row = connection.execute(self.row_of, {"ref": ref}).fetchone()
        return None if row is None else self.load(row)

    def find_all(self, connection: Connection, refs: list[str]) -> dict[str, Grant]:
        """Return the grants of these refs, by ref; a ref without a row is left out."""
        rows = connection.execute(self.rows_of, {"refs": self.stored_list(refs)}).fetchall()
        return {grant.ref: grant for grant in (self.load(row).grant for row in rows)}

    def known(self, connection: Connection, ref: str) -> R:
        """Return the row of a ref, or raise GrantError if there is none."""
        return transitions.known(ref, self.find(connection, ref))

    def grant(self, columns: Sequence[Any]) -> Grant:
        """Return the grant of these columns."""
        ref, plan_id, member_id, note, status, attempts, token, error, updated_at, granted_at = columns
        return Grant(
            ref=ref,
            plan_id=plan_id,
            member_id=member_id,
            status=GrantStatus(status),
            token=None if token is None else load_token(token),
            attempts=attempts,
            note=note,
            updated_at=self.loaded_time(updated_at),
            error=None if error is None else load_error(error),
            granted_at=self.loaded_time(granted_at),
        )

    def last_id(self, connection: Connection) -> int:
        """Return the id of the newest ref, 0 if there is none."""
        (found,) = connection.execute(self.newest, {}).fetchone()
        return found or 0

    def bounds(self, connection: Connection, after: str | None) -> tuple[int, int]:
        """Return the id of the row of `after`, 0 if that is None, and the id of the newest ref.

        Raises GrantError if there is no such row.
        """
        if after is None:
            return 0, self.last_id(connection)
        [first] = transitions.known(after, connection.execute(self.id_of, {"ref": after}).fetchone())
        return first, self.last_id(connection)

    def attempts(self, connection: Connection, refs: list[str]) -> list[Attempt]:
        """Return the exchanges of these refs, those of each ref in order."""
        rows = connection.execute(self.attempts_of, {"refs": self.stored_list(refs)}).fetchall()
        time = self.loaded_time
        return [
            Attempt(ref, number, time(began), time(ended), None if status is None else GrantStatus(status), evidence)
            for ref, number, began, ended, status, evidence in rows
        ]

    def decisions(self, connection: Connection, refs: list[str]) -> list[DecisionMade]:
        """Return the decisions about these refs, those about each ref in order."""
        rows = connection.execute(self.decisions_of, {"refs": self.stored_list(refs)}).fetchall()
        return [DecisionMade(ref, decision, self.loaded_time(at), reason) for ref, decision, at, reason in rows]

    def count(self, connection: Connection, prefix: str) -> dict[GrantStatus, int]:
        """Return the number of rows of each status."""
        rows = connection.execute(self.counts, {"prefix": prefix}).fetchall()
        return {GrantStatus(status): number for status, number in rows}

    def days_of(self, connection: Connection, after: int, last: int, prefix: str) -> Counter[DayKey]:
        """Return the number of rows with these ids by day, plan and status."""
        rows = connection.execute(self.days, {"after": after, "last": last, "prefix": prefix}).fetchall()
        return Counter({(_FIRST_DAY + timedelta(day), plan_id, status): n for day, plan_id, status, n in rows})

    def found(self, connection: Connection, text: str, limit: int, prefix: str) -> list[Grant]:
        """Return the grants that a search finds."""
        rows = connection.execute(self.search, {"text": text, "limit": limit, "prefix": prefix}).fetchall()
        return [self.grant(row) for row in rows]

    def look(self, connection: Connection, ref: str, now: datetime, grace: timedelta) -> tuple[Grant, Look]:
        """Return the row of a ref, and whether its follow-up is due."""
        grant = self.known(connection, ref).grant
        row = connection.execute(self.follow_up_of, {"ref": ref}).fetchone()
        kept = None if row is None else Kept(GrantStatus(row[0]), row[1], self.loaded_time(row[2]))
        return grant, look(grant, kept, now, grace)

    def purge(self, connection: Connection, before: datetime) -> int:
        """Remove the tokens of rows delivered before then, and return their number."""
        values = {"before": self.stored_time(before)}
        counts: list[int] = [connection.execute(statement, values).rowcount for statement in self.wipe]
        return counts[-1]

    def binding(self, connection: Connection) -> Binding | None:
        """Return the bot and service that the ledger belongs to, or None while that is not recorded."""
        return self.binding_table.read(connection, _COMPONENT)

    def bind(self, connection: Connection, wanted: Binding, bot_id: int, where: object, *, record: bool) -> Binding:
        """Return the binding; with `record` a ledger without any is bound to `wanted`."""

        def check(found: Binding | None) -> Binding:
            is_empty = self._names_bots(connection)
            return agreed(found, wanted, bot_id=bot_id, is_empty=is_empty, where=where, advice=LEDGER_ADVICE)

        return self.binding_table.bind(connection, _COMPONENT, check, record=record)

    def take_binding(self, connection: Connection, source: Binding | None) -> None:
        """Take over the binding of a ledger whose rows are copied into this one; UsageError as `check_copy` raises."""
        check_copy(self.binding(connection), source, is_empty=self._names_bots(connection))
        if source is not None:
            self.binding_table.write(connection, _COMPONENT, source)
            check_copy(self.binding(connection), source, is_empty=True)  # another bot may have been quicker

    def _names_bots(self, connection: Connection) -> bool:
        return bool(connection.execute(self.names_bots, {}).fetchone()[0])


@mutable
class Step(Generic[R]):
    """Take a row from its present status to where `advance` leads, and write that with `record`.

    It can be run again after a lost connection.
    """

    dialect: Dialect[R]
    ref: str
    advance: Callable[[Grant], Grant]
    record: Callable[[Any, R, Grant], bool]
    after: Grant | None = field(default=None, init=False)

    def __call__(self, connection: Connection) -> Grant:
        """Return the row after the step, or raise the error of `advance`."""
        while True:
            row = self.dialect.known(connection, self.ref)
            if row.grant == self.after:
                return row.grant  # committed before the connection was lost
            self.after = self.advance(row.grant)
            if self.after is row.grant or self.record(connection, row, self.after):
                return self.after


def decided(dialect: Dialect[R], made: DecisionMade, token: AccessToken | None) -> Step[R]:
    """Return the step that a decision makes."""
    advance = partial(transitions.decided, decision=made.decision, token=token, now=made.decided_at)
    return Step(dialect, made.ref, advance, partial(dialect.decide, made))


class DatabaseLedger(AsyncResource, FormerNames, Generic[S]):
    """A Ledger in a database. Subclasses define how to open it, run a job, plan, claim, settle and follow up."""

    _dialect: ClassVar[Dialect[Any]]
    _storage: S
    _clock: transitions.Clock
    _shared_by_bots: bool

    def _shown(self) -> str:
        return f"<{type(self).__name__} at {self._where}, {'open' if self.is_open else 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._storage.is_open

    async def aclose(self) -> None:
        """Finish writing, and close; rows that are still being sent become `unknown`."""
        await self._storage.aclose()

    async def bind(self, service: str, bot_id: int, *, record: bool = True) -> Binding:
        """Return the bot and service that the ledger belongs to; with `record` a ledger without any is bound to these.

        Raises UsageError if it belongs to another bot or service.
        """
        wanted = Binding(service, None if self._shared_by_bots else bot_id)
        job = partial(self._dialect.bind, wanted=wanted, bot_id=bot_id, where=self._where, record=record)
        return await (self._write(job) if record else self._read(job))

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        """Apply a decision to a row if `model.DECIDED_FROM` allows it; record it with time and reason."""
        made = DecisionMade(check_ref(ref), decision, self._clock(), reason)
        return await self._write(decided(self._dialect, made, token))

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link; a row that is delivered already does not change."""
        advance = partial(transitions.delivered, now=self._clock())
        return await self._write(Step(self._dialect, check_ref(ref), advance, self._dialect.deliver))

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None."""
        row = await self._read(partial(self._dialect.find, ref=check_ref(ref)))
        return None if row is None else row.grant

    async def get_many(self, refs: Collection[str]) -> dict[str, Grant]:
        """Return the rows of these refs, by ref; a ref without a row is left out."""
        return await self._read(partial(self._dialect.find_all, refs=list(map(check_ref, refs))))

    def grants(
        self,
        status: Collection[GrantStatus] | None = None,
        since: datetime | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Grant]:
        """Yield rows, the oldest ref first, of these statuses and changed at `since` or later, with constant memory.

        With `after`, begin behind the row of that ref. Each page shows the rows as they are when it is read; refs that
        are new since the first page are left out.
        """
        bounds = partial(self._dialect.bounds, after=None if after is None else check_ref(after))
        return by_id(self._read, bounds, self._dialect.page, status, since)

    async def attempts(self, ref: str) -> list[Attempt]:
        """Return the exchanges of a ref, in order."""
        return await self._read(partial(self._dialect.attempts, refs=[check_ref(ref)]))

    async def decisions(self, ref: str) -> list[DecisionMade]:
        """Return the decisions about a ref, in order."""
        return await self._read(partial(self._dialect.decisions, refs=[check_ref(ref)]))

    async def count(self, prefix: str = "") -> dict[GrantStatus, int]:
        """Return the number of rows of each status, of the refs that begin with `prefix`; 0 is left out."""
        return await self._read(partial(self._dialect.count, prefix=prefix))

    async def count_by_day(self, prefix: str = "", *, counted: Callable[[int], object] | None = None) -> list[DayCount]:
        """Return the number of rows by day, plan and status, of the refs that begin with `prefix`.

        The database groups the rows, a part of them at a time; refs that are new since the first part are left out.
        `counted` is called after each part with the number of rows counted so far.
        """
        days: Counter[DayKey] = Counter()
        newest = await self._read(self._dialect.last_id)
        for after in range(0, newest, _COUNTED_AT_ONCE):
            last = min(after + _COUNTED_AT_ONCE, newest)
            days += await self._read(partial(self._dialect.days_of, after=after, last=last, prefix=prefix))
            if counted is not None:
                counted(days.total())
        return day_counts(days)

    async def search(self, text: str, *, limit: int, prefix: str = "") -> list[Grant]:
        """Return at most `limit` rows whose member is `text`, and then whose ref contains it; the newest ref first.

        With `prefix`, only refs that begin with it, and `text` is searched behind it.
        """
        return await self._read(partial(self._dialect.found, text=storable(text), limit=limit, prefix=prefix))

    async def purge(self, delivered_before: datetime) -> int:
        """Remove the tokens of rows delivered before then, and return their number; the rows stay.

        In a SQLite file the tokens are overwritten; a journaling or copy-on-write file system may still hold them.
        The files of a PostgreSQL server hold them until it vacuums the table, and its backups as long as they exist.
        """
        limit = transitions.check_aware("delivered_before", delivered_before)
        return await self._write(partial(self._dialect.purge, before=limit))

    @property
    @abstractmethod
    def _where(self) -> object: ...

    @abstractmethod
    async def _write(self, job: Callable[[Any], T]) -> T:
        """Run a job in a thread."""

    async def _read(self, job: Callable[[Any], T]) -> T:
        """Run a job that only reads, in a thread."""
        return await self._write(job)
