"""Reconcile unknown rows with `getSubscribers` or the payment requests: the proof of one row, and asking about all."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from anyio import CapacityLimiter, Lock, create_task_group
from attrs import frozen

from tgmembership_async.client import Client, clock_of
from tgmembership_async.errors import OutcomeUnknown, TGMembershipError, Unauthorized, UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.ledger import Ledger, get_many
from tgmembership_async.grants.model import Grant, GrantStatus
from tgmembership_async.protocol.service_clock import Offset
from tgmembership_async.session import Session
from tgmembership_async.values.models import AccessToken, Subscriber

if TYPE_CHECKING:  # not loaded by users of a Session
    from tgmembership_async.project.client import Project
    from tgmembership_async.project.models import PaymentRequest

MARGIN: Final = timedelta(minutes=5)
"""The time after the attempt in which a subscription must have begun: the recording clock may have been wrong."""
_SETTLING: Final = 8
"""Members in progress for each request in flight: the results of the others are written, in common commits."""
_ENDS_THE_ROUND: Final = (UsageError, Unauthorized)
_NOT_GRANTED: Final = frozenset({GrantStatus.PLANNED, GrantStatus.REFUSED})
"""The statuses whose last attempt granted nothing; one before it may have been unknown."""


@frozen
class Finding:
    """The result of `reconcile` for one unknown row: whether it was settled, why or why not, and the records seen."""

    grant: Grant
    settled: bool
    why: str
    seen: "tuple[Subscriber | PaymentRequest, ...]" = ()


Pair = tuple[int | str, int | None]


def judged(
    plan_id: int | str, began: datetime, seen: Iterable[Subscriber], *, rivals: int, offset: Offset | None
) -> tuple[bool, str]:
    """Tell whether a member's subscriptions prove that an attempt was carried out, and why.

    `began` is when the attempt began by our clock, `rivals` how many rows a subscription may belong to, this one
    included. Proof began by the service's clock after the attempt, by `MARGIN` at least: our clock may be slow, by the
    offset of the service's Date or, if it was set meanwhile, by an unknown offset.
    """
    mine = [found for found in seen if found.plan_id == plan_id]
    latest = max((found.started_at for found in mine if found.started_at is not None), default=None)
    slow = max(timedelta(), timedelta() if offset is None else offset.most)
    if rivals > 1:
        return False, "another row of the ledger has the same plan and member, and the subscription may be that one's"
    if not mine:
        return False, "the member has no subscription to this plan; an unused token would not show here"
    if latest is None or latest < began:
        return False, "the member has this plan, but nothing shows that it began after the attempt"
    if offset is None:
        return False, (
            f"a subscription to plan {plan_id} began at {latest}, but how far the service's clock is from ours is not "
            "known: its reply has no Date that could be true"
        )
    if latest - began < slow + MARGIN:
        return False, (
            f"a subscription to plan {plan_id} began at {latest}, too close to the attempt: clocks may differ by "
            f"{(slow + MARGIN).total_seconds():.0f} s"
        )
    return True, f"a subscription to plan {plan_id} began at {latest}, after the attempt"


async def reconcile(
    client: Client, ledger: Ledger, *, concurrency: int, on_finding: Callable[[Finding], object] | None
) -> list[Finding]:
    """Ask about the unknown rows, and settle those with proof; a call that fails is a Finding too.

    Rejected credentials and a closed client end the round, and are raised.
    """
    held = [grant async for grant in ledger.grants([GrantStatus.UNKNOWN])]
    of_member: dict[int | None, list[Grant]] = defaultdict(list)
    for grant in held:
        of_member[grant.member_id].append(grant)
    look = await _look(client, ledger, {(grant.plan_id, grant.member_id) for grant in held}, concurrency)
    findings: dict[str, Finding] = {}
    failures: list[Exception] = []
    members = iter(of_member.items())

    async def work() -> None:
        for member_id, grants in members:
            if failures:
                return
            try:
                for finding in await look.at(member_id, grants):
                    findings[finding.grant.ref] = finding
                    if on_finding is not None:
                        on_finding(finding)
            except Exception as failure:  # noqa: BLE001 - raised below, not as a group
                failures.append(failure)

    async with create_task_group() as group:
        for _ in range(min(_SETTLING * concurrency, len(of_member))):
            group.start_soon(work)
    for failure in failures:
        raise failure
    return [findings[grant.ref] for grant in held]


async def _look(client: Client, ledger: Ledger, pairs: set[Pair], concurrency: int) -> "_Look":
    """Return the object that asks about the rows with these plans and members."""
    if isinstance(client, Session):
        rivals = _Rivals(ledger, pairs)
        await rivals.count()
        return _Subscriptions(ledger, rivals, client, CapacityLimiter(concurrency))
    project, users = cast("Project", client), {member_id for _, member_id in pairs}
    listed: defaultdict[int | None, list[PaymentRequest]] = defaultdict(list)
    failure = None
    try:
        if pairs:
            async for found in project.payment_requests():
                if found.user_id in users:
                    listed[found.user_id].append(found)
    except _ENDS_THE_ROUND:
        raise
    except TGMembershipError as error:
        failure = error
    ids = {found.payment_request_id for requests in listed.values() for found in requests}
    rivals = _Rivals(ledger, pairs, ids)
    await rivals.count()
    return _PaymentRequests(ledger, rivals, project, listed, failure)


class _Rivals:
    """The rows that something found could belong to, for each of some pairs of plan and member.

    A row with one of the `known` ids of payment requests is left out, and its id is in `taken`.
    """

    def __init__(self, ledger: Ledger, pairs: set[Pair], known: Collection[str] = ()) -> None:
        self._ledger = ledger
        self._known = known
        self._refs: dict[Pair, set[str]] = {pair: set() for pair in pairs}
        self._turn = Lock()
        self._begun = self._done = 0
        self._counted_at: datetime | None = None
        self._last: str | None = None
        self._waiting: set[str] = set()
        self.taken: set[str] = set()

    def number(self, grant: Grant) -> int:
        """Return the number of rows with the plan and member of a row, itself included."""
        return len(self._refs[grant.plan_id, grant.member_id])

    def may_miss(self, moment: datetime, offset: Offset) -> bool:
        """Tell whether a row that was sent before `moment`, by the service's clock, may be new since the last count."""
        return self._counted_at is None or self._counted_at + offset.least <= moment

    async def count(self) -> None:
        """Count the rows, or those that have changed since the last count; calls that wait for it share one count."""
        begun = self._begun
        async with self._turn:
            if self._done > begun:
                return
            self._begun += 1
            since, now = self._counted_at, transitions.utc_now()
            async for grant in self._ledger.grants(None if self._refs else [], since):
                await self._add(grant)
                self._last = grant.ref if since is None else self._last
            if self._last is not None and since is not None:
                # The clock of another worker may be behind `since`: it wrote new refs, or sent some that were waiting.
                async for grant in self._ledger.grants(after=self._last):
                    await self._add(grant)
                    self._last = grant.ref
                for grant in (await get_many(self._ledger, list(self._waiting))).values() if self._waiting else ():
                    await self._add(grant)
            self._done, self._counted_at = self._begun, now

    async def _add(self, grant: Grant) -> None:
        refs = self._refs.get((grant.plan_id, grant.member_id))
        id_ = None if grant.token is None else grant.token.raw
        if refs is None:
            return
        if isinstance(id_, str) and id_ in self._known:
            self.taken.add(id_)
        elif await self._may_be_granted(grant, refs):
            refs.add(grant.ref)
            self._waiting.discard(grant.ref)
        else:
            self._waiting.add(grant.ref)

    async def _may_be_granted(self, grant: Grant, refs: set[str]) -> bool:
        """Tell whether an attempt may have granted; a row is asked about in vain if its pair has two rivals already."""
        if grant.status not in _NOT_GRANTED or isinstance(grant.error, OutcomeUnknown):
            return True
        if not grant.attempts or len(refs) > 1:
            return False
        return any(one.status is GrantStatus.UNKNOWN for one in await self._ledger.attempts(grant.ref))


class _Verdict(NamedTuple):
    settled: bool
    why: str
    token: AccessToken | None = None


@frozen
class _Look(ABC):
    """Judges the rows of one member at a time."""

    ledger: Ledger
    rivals: _Rivals

    @abstractmethod
    async def at(self, member_id: int | None, grants: Sequence[Grant]) -> list[Finding]:
        """Return the findings for the rows of a member."""

    def _is_late(self, found: Any) -> bool:  # noqa: ARG002 - payment requests are read before the rivals are counted
        """Tell whether something found may belong to a row that was sent after the rivals were counted."""
        return False

    async def _judge(
        self,
        grant: Grant,
        seen: "Sequence[Subscriber | PaymentRequest]",
        rule: Callable[[datetime, int], _Verdict],
    ) -> Finding:
        try:
            of_plan = [one for one in seen if str(one.plan_id).lower() == str(grant.plan_id)]
            if any(map(self._is_late, of_plan)):
                await self.rivals.count()
            rivals = self.rivals.number(grant)
            # The time of the attempt decides nothing where nothing that was seen could be proof.
            attempts = await self.ledger.attempts(grant.ref) if of_plan and rivals == 1 else []
            verdict = rule(max((attempt.began_at for attempt in attempts), default=grant.updated_at), rivals)
            if verdict.settled:
                grant = await self.ledger.decide(grant.ref, "granted", verdict.token, f"reconciled: {verdict.why}")
        except _ENDS_THE_ROUND:
            raise
        except TGMembershipError as error:
            verdict = _Verdict(settled=False, why=f"it could not be settled: {error}")
        return Finding(grant, settled=verdict.settled, why=verdict.why, seen=tuple(seen))


@frozen
class _Subscriptions(_Look):
    """Asks for the subscriptions of each member."""

    session: Session
    asking: CapacityLimiter

    async def at(self, member_id: int | None, grants: Sequence[Grant]) -> list[Finding]:
        if member_id is None:
            return _unsettled(grants, "it names no member to ask about")
        if self.session.generation != "legacy":
            return _unsettled(grants, f"API {self.session.generation} cannot be asked who has access")
        try:
            async with self.asking:
                found = await self.session.get_subscribers(member_id)
        except _ENDS_THE_ROUND:
            raise
        except TGMembershipError as error:
            return _unsettled(grants, f"the service could not be asked: {error}")

        seen = [one for one in found if one.user_id in (None, member_id)]  # others prove nothing about this member

        def rule(plan_id: int | str, began: datetime, rivals: int) -> _Verdict:
            return _Verdict(*judged(plan_id, began, seen, rivals=rivals, offset=clock_of(self.session).offset))

        return [await self._judge(grant, seen, partial(rule, grant.plan_id)) for grant in grants]

    def _is_late(self, found: Any) -> bool:
        offset = clock_of(self.session).offset
        return offset is not None and found.started_at is not None and self.rivals.may_miss(found.started_at, offset)


@frozen
class _PaymentRequests(_Look):
    """Looks through the payment requests of a project, which were read before."""

    project: "Project"
    listed: "Mapping[int | None, Sequence[PaymentRequest]]"
    failure: TGMembershipError | None

    async def at(self, member_id: int | None, grants: Sequence[Grant]) -> list[Finding]:
        if self.failure is not None:
            return _unsettled(grants, f"the service could not be asked: {self.failure}")
        from tgmembership_async.grants.payment_requests import created_by  # noqa: PLC0415 - see above

        seen = self.listed.get(member_id, ())

        def rule(plan_id: int | str, began: datetime, rivals: int) -> _Verdict:
            offset = clock_of(self.project).offset
            token, why = created_by(plan_id, began, seen, others=self.rivals.taken, rivals=rivals, offset=offset)
            return _Verdict(token is not None, why, token)

        return [await self._judge(grant, seen, partial(rule, grant.plan_id)) for grant in grants]


def _unsettled(grants: Iterable[Grant], why: str) -> list[Finding]:
    return [Finding(grant, settled=False, why=why) for grant in grants]
