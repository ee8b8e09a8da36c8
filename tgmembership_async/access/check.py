"""AccessCheck: ask the service who has access, once for callers that ask at once, and remember it for a while."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from anyio import Event
from attrs import evolve, field, frozen, mutable

from tgmembership_async.errors import APIError, CallError, RateLimited, ServerError, UsageError
from tgmembership_async.protocol.endpoints import check_id
from tgmembership_async.session import Session
from tgmembership_async.settings import places, seconds
from tgmembership_async.values.models import Subscriber

_LARGEST_CACHE: Final = 10_000
_SAYS_THAT_IT_IS_DOWN: Final = (RateLimited, ServerError)


@frozen
class Access:
    """Whether a user has access, as of `checked_at` (aware UTC).

    `plans` are the plans that the user has access to now, whichever was asked for; `expires_at` is when access ends
    (aware UTC), None if the service tells no end. `stale`: the service did not answer, and this is an older answer.
    """

    allowed: bool
    plans: frozenset[int]
    expires_at: datetime | None
    checked_at: datetime
    stale: bool = False

    def __bool__(self) -> bool:
        return self.allowed


@frozen
class _Known:
    subscribers: tuple[Subscriber, ...]
    checked_at: datetime


@mutable(eq=False)
class _Question:
    """A request on its way, for all who ask at once."""

    answered: Event = field(factory=Event)
    failure: CallError | None = None


class AccessCheck:
    """Ask `getSubscribers` whether a user has access: `await check(user_id, plan_id)` returns an Access.

    An answer is kept for `ttl` seconds for each user, a "no" too; callers who ask at once share one request. While the
    service is down an older answer serves for `grace` more seconds, and says that it is `stale`. At most `size` users
    are remembered, those who asked last. `clock` returns aware UTC. Wrong values raise UsageError here.

    A subscription counts until its `expires_at`; one without counts as long as the service lists it (*assumed*).
    """

    def __init__(
        self,
        session: Session,
        *,
        ttl: float = 60.0,
        grace: float = 3_600.0,
        size: int = _LARGEST_CACHE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not isinstance(session, Session):
            msg = f"AccessCheck takes a Session, not {type(session).__name__}"
            raise UsageError(msg)
        self._session = session
        self._ttl = timedelta(seconds=seconds("ttl", ttl))
        self._grace = timedelta(seconds=0 if grace == 0 else seconds("grace", grace))
        self._size = places(size, "size")
        self._clock = clock
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._questions: dict[int, _Question] = {}

    async def __call__(self, user_id: int, plan_id: int | None = None) -> Access:
        """Return whether a user has access to a plan, or to any if `plan_id` is None.

        Raises what `Session.get_subscribers` raises where the service does not answer and no older answer serves.
        """
        check_id("user_id", user_id)
        if plan_id is not None:
            check_id("plan_id", plan_id)
        while True:
            known, now = self._known.get(user_id), self._clock()
            if known is not None and now < known.checked_at + self._ttl:
                self._known.move_to_end(user_id)
                return _access(known, plan_id, now)
            question = self._questions.get(user_id)
            if question is None:
                question = await self._ask(user_id)
            else:
                await question.answered.wait()
            if question.failure is not None:
                return self._stale(known, plan_id, question.failure)

    def forget(self, user_id: int) -> None:
        """Ask the service the next time, since something about this user has changed: a grant, say."""
        self._known.pop(user_id, None)

    async def _ask(self, user_id: int) -> _Question:
        """Ask the service, and remember the answer; who waits for a question that was cancelled asks anew."""
        question = self._questions[user_id] = _Question()
        try:
            found = await self._session.get_subscribers(user_id)
        except CallError as error:
            question.failure = error
        else:
            self._remember(user_id, _Known(tuple(found), self._clock()))
        finally:
            del self._questions[user_id]
            question.answered.set()
        return question

    def _remember(self, user_id: int, known: _Known) -> None:
        self._known[user_id] = known
        self._known.move_to_end(user_id)
        while len(self._known) > self._size:
            self._known.popitem(last=False)

    def _stale(self, known: _Known | None, plan_id: int | None, failure: CallError) -> Access:
        now = self._clock()
        refused = isinstance(failure, APIError) and not isinstance(failure, _SAYS_THAT_IT_IS_DOWN)
        if known is None or refused or now >= known.checked_at + self._ttl + self._grace:
            raise failure
        return evolve(_access(known, plan_id, now), stale=True)


def _access(known: _Known, plan_id: int | None, now: datetime) -> Access:
    running = [one for one in known.subscribers if one.expires_at is None or one.expires_at > now]
    wanted = [one for one in running if plan_id is None or one.plan_id == plan_id]
    plans = frozenset(one.plan_id for one in running if one.plan_id is not None)
    return Access(bool(wanted), plans, _end(wanted), known.checked_at)


def _end(subscribers: Sequence[Subscriber]) -> datetime | None:
    """Return the latest end, None where one has none."""
    ends = [one.expires_at for one in subscribers]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None
