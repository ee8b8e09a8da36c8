"""Reconcile unknown rows with `getSubscribers` or the payment requests: the proof of one row, and asking about all."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from anyio import CapacityLimiter, create_task_group
from attrs import frozen

from tgmembership_async.client import Client, clock_of
from tgmembership_async.errors import TGMembershipError, Unauthorized, UsageError
from tgmembership_async.grants.ledger import Ledger
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
_POSSIBLE: Final = [status for status in GrantStatus if status not in (GrantStatus.REFUSED, GrantStatus.PLANNED)]


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
        rivals, _ = await _rivals(ledger, pairs, known=())
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
    rivals, others = await _rivals(ledger, pairs, known=ids)
    return _PaymentRequests(ledger, rivals, project, listed, others, failure)


async def _rivals(ledger: Ledger, pairs: set[Pair], known: Collection[str]) -> tuple[Counter[Pair], set[str]]:
    """Count the rows that something found could belong to, for each pair of plan and member.

    A row that has one of the `known` ids of payment requests is left out, and its id returned.
    """
    counts: Counter[Pair] = Counter()
    taken: set[str] = set()
    async for grant in ledger.grants(_POSSIBLE if pairs else []):
        pair = grant.plan_id, grant.member_id
        if pair not in pairs:
            continue
        id_ = None if grant.token is None else grant.token.raw
        if isinstance(id_, str) and id_ in known:
            taken.add(id_)
        else:
            counts[pair] += 1
    return counts, taken


class _Verdict(NamedTuple):
    settled: bool
    why: str
    token: AccessToken | None = None


@frozen
class _Look(ABC):
    """Judges the rows of one member at a time."""

    ledger: Ledger
    rivals: Mapping[Pair, int]

    @abstractmethod
    async def at(self, member_id: int | None, grants: Sequence[Grant]) -> list[Finding]:
        """Return the findings for the rows of a member."""

    async def _judge(
        self,
        grant: Grant,
        seen: "Sequence[Subscriber | PaymentRequest]",
        rule: Callable[[datetime, int], _Verdict],
    ) -> Finding:
        rivals = self.rivals[grant.plan_id, grant.member_id]
        try:
            # The time of the attempt decides nothing where nothing that was seen could be proof.
            could_be = rivals == 1 and any(str(one.plan_id).lower() == str(grant.plan_id) for one in seen)
            attempts = await self.ledger.attempts(grant.ref) if could_be else []
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
                seen = await self.session.get_subscribers(member_id)
        except _ENDS_THE_ROUND:
            raise
        except TGMembershipError as error:
            return _unsettled(grants, f"the service could not be asked: {error}")

        def rule(plan_id: int | str, began: datetime, rivals: int) -> _Verdict:
            return _Verdict(*judged(plan_id, began, seen, rivals=rivals, offset=clock_of(self.session).offset))

        return [await self._judge(grant, seen, partial(rule, grant.plan_id)) for grant in grants]


@frozen
class _PaymentRequests(_Look):
    """Looks through the payment requests of a project, which were read before."""

    project: "Project"
    listed: "Mapping[int | None, Sequence[PaymentRequest]]"
    others: Collection[str]
    failure: TGMembershipError | None

    async def at(self, member_id: int | None, grants: Sequence[Grant]) -> list[Finding]:
        if self.failure is not None:
            return _unsettled(grants, f"the service could not be asked: {self.failure}")
        from tgmembership_async.grants.payment_requests import created_by  # noqa: PLC0415 - see above

        seen = self.listed.get(member_id, ())

        def rule(plan_id: int | str, began: datetime, rivals: int) -> _Verdict:
            offset = clock_of(self.project).offset
            token, why = created_by(plan_id, began, seen, others=self.others, rivals=rivals, offset=offset)
            return _Verdict(token is not None, why, token)

        return [await self._judge(grant, seen, partial(rule, grant.plan_id)) for grant in grants]


def _unsettled(grants: Iterable[Grant], why: str) -> list[Finding]:
    return [Finding(grant, settled=False, why=why) for grant in grants]
