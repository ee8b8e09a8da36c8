"""A claim on one row: taken right before each request, and let go before each wait.

So `sending` means that our request may be on the wire now, and what a process leaves that dies while it waits is
`planned`.
"""

import time
from collections.abc import Callable
from typing import Final

from anyio import CancelScope, current_time, sleep
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import field, mutable

from tgmembership_async.errors import CallError, GrantError, StorageError, TGMembershipError
from tgmembership_async.grants.ledger import Claim, Ledger
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus, Settlement
from tgmembership_async.grants.owing import Debt, Owed
from tgmembership_async.session import Session, departure_of

_SURE_FOR: Final = 2.0
"""Seconds after which a claim is proved before it is used: the process may have been stopped, and taken for dead."""
_FIRST_LOOK: Final = 0.02  # seconds until asking again for what another worker is sending; doubled each time
_LONGEST_PAUSE: Final = 0.5


class Taken(GrantError):
    """The row is not this caller's to send any more: somebody else sends it, has sent it, or has decided about it."""


@mutable(eq=False)
class Claiming:
    """The `Hold` of one call on the row of `request`; `row` is the row as it was last seen."""

    ledger: Ledger
    request: GrantRequest
    owed: Owed
    row: Grant | None = None
    held: bool = field(default=False, init=False)
    _debt: Debt | None = field(default=None, init=False)
    _since: tuple[float, float, int] = field(default=(0.0, 0.0, 0), init=False)

    async def begin(self, session: Session, goes_on: Callable[[], bool], *, again: bool) -> bool:
        """Claim the row, or only plan it if the call has to wait; tell whether it is ours to send.

        A row that another worker sends is waited for, a whole call's deadline at most, as long as `goes_on()`. `again`:
        it was taken from us just now.
        """
        departure = departure_of(session)
        if not (again or departure.is_free):
            self.row = await self.ledger.plan(self.request)
            if self.row.status is not GrantStatus.SENDING:
                return self.row.status is GrantStatus.PLANNED
        departure.coming += 1
        try:
            claim = await self._claim()
        finally:
            departure.coming -= 1
        if claim.elsewhere:
            end, pause = current_time() + session.deadline, _FIRST_LOOK
            while claim.elsewhere and goes_on() and current_time() < end:
                await sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                claim = await self._claim()
        return claim.mine

    async def take(self) -> None:
        """Make sure that the row is ours and `sending`; raise Taken if it is somebody else's by now."""
        if self.held and self._in_doubt():
            await self.release("nothing was sent: this process, or its connection to the ledger, was held up")
        if self.held:
            return
        if self._debt is not None:
            await self._debt.paid()
            self._debt = None
        # One that is cancelled may happen all the same, and then nobody would know of it.
        with CancelScope(shield=True):
            await self._claim_again()
        await checkpoint_if_cancelled()

    async def release(self, why: str, error: CallError | None = None) -> None:
        """Take the row back to `planned` if it is held, with the reason."""
        if not self.held or self.row is None:
            return
        self.held = False
        settlement = Settlement(GrantStatus.PLANNED, error=error, evidence=why)
        with CancelScope(shield=True):
            try:
                self.row = await self.ledger.settle(self.request.ref, settlement)
            except GrantError:
                return  # it is somebody else's; whoever takes it again finds that out
            except Exception as failure:  # noqa: BLE001 - whatever a ledger raises
                self._debt = self.owed.owe(self.row, settlement, failure)

    async def _claim_again(self) -> None:
        try:
            claim = await self._claim()
        except TGMembershipError:
            raise
        except Exception as error:
            # A foreign exception in the middle of a call would pass for an unknown outcome.
            msg = f"{self.request.ref}: it could not be claimed, and was not sent: {type(error).__name__}: {error}"
            raise StorageError(msg) from error
        if not claim.mine:
            msg = f"{self.request.ref} is {claim.grant.status} by now, and not this caller's to send"
            raise Taken(msg)

    async def _claim(self) -> Claim:
        claim = await self.ledger.claim(self.request)
        self.row, self.held = claim.grant, claim.mine
        self._since = self._now()
        return claim

    def _now(self) -> tuple[float, float, int]:
        # The clock on the wall goes on while the machine sleeps, and the other one cannot be set.
        return time.monotonic(), time.time(), getattr(self.ledger, "interruptions", 0)

    def _in_doubt(self) -> bool:
        (monotonic, wall, interruptions), since = self._now(), self._since
        return monotonic - since[0] > _SURE_FOR or abs(wall - since[1]) > _SURE_FOR or interruptions != since[2]
