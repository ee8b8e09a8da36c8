"""The AccessCheck: look up the access of a user at the service, share concurrent lookups, and cache the results."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from anyio import Event
from attrs import evolve, field, frozen, mutable

from tgmembership_async.client import Client
from tgmembership_async.errors import APIError, CallError, UsageError
from tgmembership_async.protocol.endpoints import check_id, check_uuid
from tgmembership_async.session import Session
from tgmembership_async.settings import positive_int, seconds

if TYPE_CHECKING:  # not loaded by users of a Session
    from tgmembership_async.project.client import Project

_LARGEST_CACHE: Final = 10_000


@frozen
class Access:
    """The access of a user, as of `checked_at` (aware UTC).

    `plans` are all plans that the user has access to now: their ids are int, or UUIDs of a project. `expires_at` is the
    end of the access that was checked (aware UTC), None if it has no end. `stale`: the service did not answer, and this
    is an older result.
    """

    allowed: bool
    plans: frozenset[int | str]
    expires_at: datetime | None
    checked_at: datetime
    stale: bool = False

    def __bool__(self) -> bool:
        return self.allowed


@frozen
class _Period:
    """A time of access to a plan. A side that is None is open."""

    plan_id: int | str | None
    expires_at: datetime | None
    starts_at: datetime | None = None


@frozen
class _Cached:
    periods: tuple[_Period, ...]
    checked_at: datetime


@mutable(eq=False)
class _Lookup:
    """A request in flight, shared by concurrent callers; `is_outdated` if the user was forgotten meanwhile."""

    finished: Event = field(factory=Event)
    is_outdated: bool = False
    failure: CallError | None = None


class AccessCheck:
    """Ask the service whether a user has access: `await check(user_id, plan_id)` returns an Access.

    A Session asks `getSubscribers`, which API v1 does not have. A Project asks for the user's memberships, and compares
    their dates; its plan ids are UUIDs.

    The result for each user is cached for `ttl` seconds, also if the user has no access; concurrent callers share one
    request. While the service is down an older result is returned, marked `stale`, for `grace` more seconds. The cache
    holds the `size` most recently used users. `clock` returns aware UTC. Raises UsageError for wrong values.

    A subscription is valid until its `expires_at`; without one, as long as the service lists it (*assumed*). So is a
    membership of a project, from its start to its end, whatever the status of its subscription (*assumed*).
    """

    def __init__(
        self,
        session: "Session | Project",
        *,
        ttl: float = 60.0,
        grace: float = 3_600.0,
        size: int = _LARGEST_CACHE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not isinstance(session, Client):
            msg = f"AccessCheck takes a Session or a Project, not {type(session).__name__}"
            raise UsageError(msg)
        self._session = session
        self._ttl = timedelta(seconds=seconds("ttl", ttl))
        self._grace = timedelta(seconds=0 if grace == 0 else seconds("grace", grace))
        self._size = positive_int(size, "size")
        self._clock = clock
        self._cache: OrderedDict[int, _Cached] = OrderedDict()
        self._lookups: dict[int, _Lookup] = {}

    async def __call__(self, user_id: int, plan_id: int | str | None = None) -> Access:
        """Return whether a user has access to a plan, or to any plan if `plan_id` is None.

        Raises the errors of `Session.get_subscribers` or `Project.memberships` if there is no older result to return.
        """
        check_id("user_id", user_id)
        if plan_id is not None:
            check = check_id if isinstance(self._session, Session) else check_uuid
            plan_id = check("plan_id", plan_id)
        while True:
            cached, now = self._cache.get(user_id), self._clock()
            if cached is not None and cached.checked_at <= now < cached.checked_at + self._ttl:
                self._cache.move_to_end(user_id)
                return _access(cached, plan_id, now)
            lookup = self._lookups.get(user_id)
            if lookup is None:
                lookup = await self._look_up(user_id)
            else:
                await lookup.finished.wait()
            if lookup.failure is not None:
                return self._stale(self._cache.get(user_id), plan_id, lookup.failure)

    def forget(self, user_id: int) -> None:
        """Remove a user from the cache, after a grant, for example. The result of a request in flight is not used."""
        self._cache.pop(user_id, None)
        if user_id in self._lookups:
            self._lookups[user_id].is_outdated = True

    async def _periods(self, user_id: int) -> tuple[_Period, ...]:
        if isinstance(self._session, Session):
            found = await self._session.get_subscribers(user_id)
            return tuple([_Period(one.plan_id, one.expires_at) for one in found if one.user_id in (None, user_id)])
        rows = self._session.memberships(user_id)
        return tuple(
            [
                _Period(one.plan_id and one.plan_id.lower(), one.ends_at, one.starts_at)
                async for one in rows
                if one.user_id in (None, user_id)
            ]
        )

    async def _look_up(self, user_id: int) -> _Lookup:
        """Send the request, and cache the result; if it is cancelled, waiting callers send another."""
        lookup = self._lookups[user_id] = _Lookup()
        try:
            found = await self._periods(user_id)
        except CallError as error:
            lookup.failure = error
        else:
            if not lookup.is_outdated:
                self._store(user_id, _Cached(found, self._clock()))
        finally:
            del self._lookups[user_id]
            lookup.finished.set()
        return lookup

    def _store(self, user_id: int, cached: _Cached) -> None:
        self._cache[user_id] = cached
        self._cache.move_to_end(user_id)
        while len(self._cache) > self._size:
            self._cache.popitem(last=False)

    def _stale(self, cached: _Cached | None, plan_id: int | str | None, failure: CallError) -> Access:
        now = self._clock()
        refused = isinstance(failure, APIError) and not failure.retryable
        if cached is None or refused or now >= cached.checked_at + self._ttl + self._grace:
            raise failure
        return evolve(_access(cached, plan_id, now), stale=True)


def _access(cached: _Cached, plan_id: int | str | None, now: datetime) -> Access:
    running = [one for one in cached.periods if one.expires_at is None or one.expires_at > now]
    running = [one for one in running if one.starts_at is None or one.starts_at <= now]
    wanted = [one for one in running if plan_id is None or one.plan_id == plan_id]
    plans = frozenset(one.plan_id for one in running if one.plan_id is not None)
    return Access(bool(wanted), plans, _end(wanted), cached.checked_at)


def _end(periods: Sequence[_Period]) -> datetime | None:
    """Return the latest end, or None if a period has no end."""
    ends = [one.expires_at for one in periods]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None
