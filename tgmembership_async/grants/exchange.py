"""The exchange for one ref: the status that follows from its outcome, and its result for concurrent callers."""

from collections.abc import Callable, Mapping
from typing import Final

from anyio import CancelScope, Event, get_cancelled_exc_class
from attrs import evolve, mutable

from tgmembership_async.client import Client, grant_holding
from tgmembership_async.errors import (
    APIError,
    CallError,
    DeadlineExceeded,
    GrantError,
    GrantHeld,
    NotSent,
    OutcomeUnknown,
    RefConflict,
    TGMembershipError,
    Unauthorized,
    UsageError,
)
from tgmembership_async.grants import transitions
from tgmembership_async.grants.claiming import Claiming, ClaimLost
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import SUCCEEDED, Grant, GrantRequest, GrantStatus, Settlement, method_of
from tgmembership_async.grants.unrecorded import UnrecordedAnswers, record
from tgmembership_async.protocol.outcome import TURNED_AWAY_BY_SERVICE

_NOTHING_WAS_DONE: Final = TURNED_AWAY_BY_SERVICE | {401}

STATUS_AFTER_ERROR: Final[Mapping[type[CallError], GrantStatus]] = {
    NotSent: GrantStatus.PLANNED,
    DeadlineExceeded: GrantStatus.PLANNED,
    APIError: GrantStatus.REFUSED,
    OutcomeUnknown: GrantStatus.UNKNOWN,
}
"""The status that each error leads to; an APIError of 401, or one that proves nothing was done, leads to planned."""


def settlement_of(error: CallError) -> Settlement:
    """Return the settlement of a row whose call raised this error."""
    kind = next((kind for kind in STATUS_AFTER_ERROR if isinstance(error, kind)), OutcomeUnknown)
    status = STATUS_AFTER_ERROR[kind]
    if isinstance(error, APIError) and error.code in _NOTHING_WAS_DONE:
        status = GrantStatus.PLANNED
    if error.maybe_applied:
        status = GrantStatus.UNKNOWN
    return Settlement(status, error=error, evidence=f"{type(error).__name__}: {error}")


HandOver = Callable[["Shared", Claiming, Settlement], bool]
"""Takes an answer, to end its exchange when that is recorded; returns False if it does not take it."""


@mutable(eq=False)
class Shared:
    """The result of an exchange, a Grant or an exception, for which all concurrent callers of a ref wait.

    `running` holds it until it ends. `may_wait` tells whether to keep waiting for another worker's exchange.
    """

    request: GrantRequest
    running: dict[str, "Shared"]
    may_wait: Callable[[], bool]
    hand_over: HandOver | None
    handed_over: bool = False
    grant: Grant | None = None
    fresh: bool = False
    error: Exception | None = None
    recording: bool = False
    is_over: bool = False
    _ended: Event | None = None

    def end(self) -> None:
        """Wake all callers: the exchange has ended. Ending it twice is allowed."""
        if self.running.get(self.request.ref) is self:
            del self.running[self.request.ref]
        self.is_over = True
        if self._ended is not None:
            self._ended.set()

    async def wait(self) -> None:
        """Wait until the exchange has ended."""
        if not self.is_over:
            self._ended = self._ended or Event()  # in a run only the task that carries it out waits
            await self._ended.wait()

    async def wait_for(self, request: GrantRequest) -> Grant:
        """Return the row after the exchange, or raise the error that prevented it."""
        if not transitions.agree(request, self.request):
            msg = f"{request.ref} is being granted to another plan or member right now"
            raise RefConflict(msg)
        await self.wait()
        return self.result()

    def result(self) -> Grant:
        """Return the row after the exchange, which has ended, or raise the error that prevented it."""
        if self.grant is None:
            raise self.error or UsageError(f"{self.request.ref}: the Granter was closed before this grant was started")
        return self.grant


async def carry_out(client: Client, ledger: Ledger, unrecorded: UnrecordedAnswers, shared: Shared) -> None:
    """Claim the row, send it if it is this caller's to send, and record the outcome or hand it over."""
    hold, again = Claiming(ledger, shared.request, unrecorded), False
    try:
        while await hold.begin(client, shared.may_wait, again=again):
            shared.fresh = True
            try:
                await _send(client, hold, shared)
            except ClaimLost:
                shared.fresh, again = False, True
            else:
                return
        shared.grant = hold.row
    except Exception as error:  # noqa: BLE001 - it is raised in the callers that wait
        shared.error = error
    finally:
        if not shared.handed_over:
            shared.end()


async def _send(client: Client, hold: Claiming, shared: Shared) -> None:
    problem: Exception | None = None
    request = hold.request
    try:
        token = await grant_holding(client, hold, request.plan_id, request.member_id)
    except CallError as error:
        settlement = settlement_of(error)
    except ClaimLost:
        raise
    except get_cancelled_exc_class():
        if hold.held:
            with CancelScope(shield=True):
                shared.grant = await _record(hold, _in_doubt(request, "the program stopped"))
        raise
    except Exception as error:  # noqa: BLE001 - it is raised when the row is settled
        problem, name = error, type(error).__name__
        if hold.sent and not isinstance(error, TGMembershipError):  # a bug, which proves nothing
            settlement = _in_doubt(request, f"{name} was raised")
        else:
            settlement = Settlement(GrantStatus.PLANNED, evidence=f"{name} before anything was sent")
    else:
        settlement = Settlement(GrantStatus.GRANTED, token=token, evidence="ok: true")
        if hold.held and shared.hand_over is not None and shared.hand_over(shared, hold, settlement):
            shared.handed_over = True
            return
    shared.recording = True
    grant = await _record(hold, settlement)
    if problem is not None:
        raise problem
    shared.grant = grant


async def record_answer(shared: Shared, hold: Claiming, settlement: Settlement) -> None:
    """Record an answer that was handed over."""
    try:
        shared.grant = await _record(hold, settlement)
    except Exception as error:  # noqa: BLE001 - it is raised in the callers that wait
        shared.error = error


def _in_doubt(request: GrantRequest, what: str) -> Settlement:
    method = method_of(request.plan_id)
    return settlement_of(OutcomeUnknown(f"{what} during the exchange", method=method, maybe_applied=True))


async def _record(hold: Claiming, settlement: Settlement) -> Grant:
    """Record the outcome of the call, if its row is held, and return the row."""
    if not hold.held and settlement.status is not GrantStatus.PLANNED:
        await hold.take()  # a middleware answered in place of the service
    assert hold.row is not None  # noqa: S101 - it was begun
    if not hold.held:
        return evolve(hold.row, error=settlement.error) if settlement.error else hold.row
    hold.held = False
    try:
        return await record(hold.ledger, hold.row, settlement)
    except Exception as failure:  # noqa: BLE001 - disk full, no descriptor left, a lost server
        answer = hold.unrecorded.keep(hold.row, settlement, failure)
    return await answer.stored()


def answer(grant: Grant) -> Grant:
    """Return a granted row; for any other row raise the error that a caller of `grant` gets."""
    if grant.status in SUCCEEDED:
        return grant
    if grant.status in (GrantStatus.PLANNED, GrantStatus.REFUSED):
        raise grant.error or GrantError(f"{grant.ref} is {grant.status}, and the ledger has no reason")
    if grant.status is GrantStatus.ABANDONED:
        msg = f"{grant.ref} was abandoned by a decision; nothing is granted under this ref any more"
        raise GrantError(msg)
    if grant.status is GrantStatus.SENDING:
        msg = f"{grant.ref} is still being sent by another worker; call again in a moment"
        raise GrantHeld(msg, grant=grant)
    cause = getattr(grant.error, "cause", None) or grant.error
    msg = (
        f"{grant.ref} may or may not have been granted ({cause or 'no reason recorded'}). It is not sent again until "
        "you decide, with granter.reconcile() or granter.resolve(ref, 'granted' | 'retry' | 'abandon')"
    )
    raise GrantHeld(msg, grant=grant)


def rejects_credentials(grant: Grant) -> bool:
    """Tell whether a row is planned again because the credentials were rejected."""
    return isinstance(grant.error, Unauthorized)
