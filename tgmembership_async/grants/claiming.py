"""A claim on a row: taken right before each request, and released before each wait.

So `sending` means that a request of this worker may be in flight. A process that ends while it waits leaves the row
`planned`.
"""

import time
from collections.abc import Callable
from typing import Final

from anyio import CancelScope, current_time, sleep
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import field, mutable

from tgmembership_async.client import Client, admission_of
from tgmembership_async.errors import CallError, GrantError, StorageError, TGMembershipError
from tgmembership_async.grants.ledger import Claim, Ledger
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus, Settlement
from tgmembership_async.grants.unrecorded import UnrecordedAnswer, UnrecordedAnswers

_SURE_FOR: Final = 2.0
"""Seconds after which a claim is checked before it is used: the process may have been suspended and lost the claim."""
_FIRST_LOOK: Final = 0.02  # seconds until the next look at a row that another worker is sending; doubled each time
_LONGEST_PAUSE: Final = 0.5


class ClaimLost(GrantError):
    """The row is no longer this caller's to send: another worker sends or has sent it, or a decision was made."""


@mutable(eq=False)
class Claiming:
    """The `Hold` of one call on the row of `request`; `row` is the row as last read."""

    ledger: Ledger
    request: GrantRequest
    unrecorded: UnrecordedAnswers
    row: Grant | None = None
    held: bool = field(default=False, init=False)
    sent: bool = field(default=False, init=False)
    """Whether a request may have been sent since the row was last released."""
    _unstored_release: UnrecordedAnswer | None = field(default=None, init=False)
    _since: tuple[float, float, int] = field(default=(0.0, 0.0, 0), init=False)

    async def begin(self, client: Client, may_wait: Callable[[], bool], *, again: bool) -> bool:
        """Claim the row, or only plan it if the call has to wait; return whether it is this caller's to send.

        While another worker sends the row, wait for the deadline of a call at most, as long as `may_wait()`. `again`:
        the row was just lost to another worker.
        """
        admission = admission_of(client)
        if not (again or admission.is_free):
            self.row = await self.ledger.plan(self.request)
            if self.row.status is not GrantStatus.SENDING:
                return self.row.status is GrantStatus.PLANNED
        admission.reserved += 1
        try:
            claim = await self._claim()
        finally:
            admission.reserved -= 1
        if claim.elsewhere:
            end, pause = current_time() + client.deadline, _FIRST_LOOK
            while claim.elsewhere and may_wait() and current_time() < end:
                await sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                claim = await self._claim()
        return claim.mine

    async def take(self) -> None:
        """Ensure that the row is this caller's and `sending`; raise ClaimLost if another worker has it."""
        if self.held and self._in_doubt():
            await self.release("nothing was sent: this process, or its connection to the ledger, was interrupted")
        if self.held:
            self.sent = True
            return
        if self._unstored_release is not None:
            await self._unstored_release.stored()
            self._unstored_release = None
        # A cancelled claim may still be committed, and then no caller would know of it.
        with CancelScope(shield=True):
            await self._claim_again()
        await checkpoint_if_cancelled()
        self.sent = True

    async def release(self, why: str, error: CallError | None = None) -> None:
        """Return the row to `planned`, with the reason, if it is held."""
        if not self.held or self.row is None:
            return
        self.held = self.sent = False
        settlement = Settlement(GrantStatus.PLANNED, error=error, evidence=why)
        with CancelScope(shield=True):
            try:
                self.row = await self.ledger.settle(self.request.ref, settlement)
            except GrantError:
                return  # another worker has the row; the next `take` finds that out
            except Exception as failure:  # noqa: BLE001 - a ledger may raise any error
                self._unstored_release = self.unrecorded.keep(self.row, settlement, failure)

    async def _claim_again(self) -> None:
        try:
            claim = await self._claim()
        except TGMembershipError:
            raise
        except Exception as error:
            # An unexpected exception in the middle of a call would be treated as an unknown outcome.
            msg = f"{self.request.ref} could not be claimed, and was not sent: {type(error).__name__}: {error}"
            raise StorageError(msg) from error
        if not claim.mine:
            msg = f"{self.request.ref} is {claim.grant.status} by now, and not this caller's to send"
            raise ClaimLost(msg)

    async def _claim(self) -> Claim:
        claim = await self.ledger.claim(self.request)
        self.row, self.held = claim.grant, claim.mine
        self._since = self._now()
        return claim

    def _now(self) -> tuple[float, float, int]:
        # The wall clock runs on while the machine sleeps, and the monotonic clock cannot be set.
        return time.monotonic(), time.time(), getattr(self.ledger, "interruptions", 0)

    def _in_doubt(self) -> bool:
        (monotonic, wall, interruptions), since = self._now(), self._since
        return monotonic - since[0] > _SURE_FOR or abs(wall - since[1]) > _SURE_FOR or interruptions != since[2]
