"""The steps of a grant as pure functions: return the row after the step, or raise GrantError and change nothing.

Every ledger uses them, so the legal steps and their changes are defined in one place.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from attrs import evolve

from tgmembership_async.errors import GrantError, OutcomeUnknown, RefConflict, TGMembershipError, UsageError
from tgmembership_async.grants.model import (
    DECIDED_FROM,
    DECIDES,
    Attempt,
    Decision,
    Grant,
    GrantRequest,
    GrantStatus,
    RefTooLong,
    Settlement,
    check_decision,
    method_of,
)
from tgmembership_async.storage.text import storable
from tgmembership_async.values.models import AccessToken

Clock = Callable[[], datetime]
T = TypeVar("T")
_PLANNED: Final = frozenset({GrantStatus.PLANNED})
_SENDING: Final = frozenset({GrantStatus.SENDING})
_GRANTED: Final = frozenset({GrantStatus.GRANTED})
_INTERRUPTED: Final = "the process that sent it died before the answer was recorded"


def utc_now() -> datetime:
    """Return the time, as aware UTC."""
    return datetime.now(UTC)


def check_aware(name: str, moment: datetime) -> datetime:
    """Return an aware datetime, or raise UsageError."""
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        msg = f"{name} must be an aware datetime, such as datetime.now(UTC) - timedelta(days=1)"
        raise UsageError(msg)
    return moment


def planned(request: GrantRequest, now: datetime) -> Grant:
    """Return the row of a new ref."""
    return _new(request, now, GrantStatus.PLANNED, 0)


def begun(request: GrantRequest, now: datetime) -> Grant:
    """Return the row of a new ref as sending. It equals `claimed(planned(...))`, in a third of the time."""
    return _new(request, now, GrantStatus.SENDING, 1)


def _new(request: GrantRequest, now: datetime, status: GrantStatus, attempts: int) -> Grant:
    return Grant(
        ref=request.ref,
        plan_id=request.plan_id,
        member_id=request.member_id,
        status=status,
        token=None,
        attempts=attempts,
        note=request.note,
        updated_at=now,
    )


def request_of(grant: Grant) -> GrantRequest:
    """Return the request that a row was planned for."""
    return GrantRequest(grant.ref, grant.plan_id, grant.member_id, grant.note)


def agree(one: Grant | GrantRequest, other: GrantRequest) -> bool:
    """Return whether both are for the same plan and member."""
    return (one.plan_id, one.member_id) == (other.plan_id, other.member_id)


def same(grant: Grant, request: GrantRequest) -> Grant:
    """Return the existing row of a ref, or raise RefConflict if the request has another plan or member."""
    if agree(grant, request):
        return grant
    msg = (
        f"{grant.ref} is {grant.status} with {_plan_and_member(grant)}, "
        f"and cannot be granted with {_plan_and_member(request)}: "
        "one ref is one payment, so use another ref for another grant"
    )
    raise RefConflict(msg)


def _plan_and_member(grant: Grant | GrantRequest) -> str:
    return f"plan {grant.plan_id} and " + ("no member" if grant.member_id is None else f"member {grant.member_id}")


def rejected(grant: Grant, request: GrantRequest, conflict: RefConflict) -> Grant:
    """Return the row to report for a request whose ref belongs to another plan or member: without that one's token."""
    return evolve(
        grant,
        plan_id=request.plan_id,
        member_id=request.member_id,
        note=request.note,
        token=None,
        error=conflict,
    )


def unstorable(request: GrantRequest, error: RefTooLong, now: datetime) -> Grant:
    """Return the row to report for a request whose ref the ledger cannot store: refused, and sent to nobody."""
    return evolve(planned(request, now), status=GrantStatus.REFUSED, error=error)


def known(ref: str, row: T | None) -> T:
    """Return the row, or raise GrantError if there is none."""
    if row is None:
        msg = f"this ledger has no grant with the ref {ref}"
        raise GrantError(msg)
    return row


def claimed(grant: Grant, now: datetime) -> Grant:
    """Return a planned row as sending, with this attempt counted."""
    return _step(grant, _PLANNED, GrantStatus.SENDING, now, attempts=grant.attempts + 1)


def settled(grant: Grant, settlement: Settlement, now: datetime) -> Grant:
    """Return a row that was being sent, as its exchange left it."""
    granted = settlement.status is GrantStatus.GRANTED
    token, error = (settlement.token, None) if granted else (None, settlement.error)
    return _step(grant, _SENDING, settlement.status, now, token=token, error=error)


def settled_attempt(began: Attempt, settlement: Settlement, ended_at: datetime | None) -> Attempt:
    """Return the record of an exchange that has ended."""
    return evolve(began, ended_at=ended_at, status=settlement.status, evidence=storable(settlement.evidence))


def interruption(grant: Grant) -> Settlement:
    """Return the settlement of an exchange whose process has ended."""
    error = OutcomeUnknown(_INTERRUPTED, method=method_of(grant.plan_id), attempts=grant.attempts, maybe_applied=True)
    return Settlement(GrantStatus.UNKNOWN, error=error, evidence=_INTERRUPTED)


def held_for_gap(grant: Grant, period: str, now: datetime) -> Grant:
    """Return a planned row as unknown: it may have been sent in a period that a restored ledger lacks."""
    msg = f"the ledger was restored from an older copy, which lacks the grants made {period}; this may be one of them"
    error = OutcomeUnknown(msg, method=method_of(grant.plan_id), attempts=grant.attempts, maybe_applied=True)
    return _step(grant, _PLANNED, GrantStatus.UNKNOWN, now, error=error)


def decided(grant: Grant, decision: Decision, token: AccessToken | None, now: datetime) -> Grant:
    """Return a row after a decision; on "retry" it keeps the error for which it was held."""
    if token is not None and decision != "granted":
        msg = "a token goes with the decision 'granted' only"
        raise UsageError(msg)
    error = grant.error if decision == "retry" else None
    checked = check_decision(decision)
    return _step(grant, DECIDED_FROM[checked], DECIDES[checked], now, token=token, error=error)


def delivered(grant: Grant, now: datetime) -> Grant:
    """Return a granted row as delivered; a row that is delivered already does not change."""
    if grant.status is GrantStatus.DELIVERED:
        return grant
    return _step(grant, _GRANTED, GrantStatus.DELIVERED, now, token=grant.token)


def _step(
    grant: Grant,
    expected: frozenset[GrantStatus],
    to: GrantStatus,
    now: datetime,
    *,
    token: AccessToken | None = None,
    error: TGMembershipError | None = None,
    attempts: int | None = None,
) -> Grant:
    # Not by LEGAL alone: a decision may take an unknown row to granted, and the end of an exchange may not.
    if grant.status not in expected:
        wanted = " or ".join(sorted(expected))
        msg = f"{grant.ref} is {grant.status}; only a grant that is {wanted} can become {to} in this way"
        raise GrantError(msg)
    return Grant(  # evolve() takes 5 times as long, and this runs twice for each member of a run
        ref=grant.ref,
        plan_id=grant.plan_id,
        member_id=grant.member_id,
        status=to,
        token=token,
        attempts=grant.attempts if attempts is None else attempts,
        note=grant.note,
        updated_at=now,
        error=error,
        granted_at=now if to is GrantStatus.GRANTED else grant.granted_at,
    )
