"""Answers of the service that the ledger has not stored: kept in memory, and offered again until they are stored.

An answer is the only proof of what a request did, so it is kept as long as the process runs.
"""

import logging
from typing import Final

from anyio import CancelScope, Event, move_on_after, sleep
from attrs import evolve, field, mutable

from tgmembership_async.errors import GrantError, GrantHeld, StorageError
from tgmembership_async.event_loop import in_background
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import Grant, Settlement
from tgmembership_async.values.models import AccessToken

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_CALLERS_WAIT: Final = 2.0
"""Seconds that a caller waits for an answer to be stored, after the ledger failed to do so."""
_SHOWN: Final = 100
_logger: Final = logging.getLogger("tgmembership_async.grants")


async def record(ledger: Ledger, claimed: Grant, settlement: Settlement) -> Grant:
    """Record how an exchange ended, and return the row; a row that was decided meanwhile does not change.

    Raises the errors of the ledger.
    """
    try:
        grant = await ledger.settle(claimed.ref, settlement)
    except GrantError:
        found = await ledger.get(claimed.ref)
        if found is None:
            raise
        grant = found
    if (grant.status, _shown(grant.token)) != (settlement.status, _shown(settlement.token)):
        _logger.warning(
            "%s: the answer to attempt %d came too late (%s); the row is %s by now and does not change",
            *(claimed.ref, claimed.attempts, settlement.status, grant.status),
        )
    return grant


def _shown(token: AccessToken | None) -> object:
    return token and (token.token, token.link)  # other fields may be read back from a database as other types


@mutable(eq=False)
class UnrecordedAnswer:
    """One answer that is not stored yet; `claimed` is the row as it was sent."""

    claimed: Grant
    settlement: Settlement
    reason: str
    grant: Grant | None = None
    _ended: Event = field(factory=Event, init=False)

    def end(self, grant: Grant | None) -> None:
        """Report that the answer is stored, or given up."""
        self.grant = grant
        self._ended.set()

    async def wait(self) -> None:
        """Wait until the answer is stored, or given up."""
        await self._ended.wait()

    async def stored(self) -> Grant:
        """Return the row once the answer is stored; raise GrantHeld with the answer if that takes too long."""
        with move_on_after(_CALLERS_WAIT):
            await self.wait()
        if self.grant is not None:
            return self.grant
        answer = self.settlement
        held = evolve(self.claimed, status=answer.status, token=answer.token, error=answer.error)
        msg = (
            f"{held.ref} is {held.status}, but the ledger could not record it ({self.reason}): this error's .grant has "
            "the result. Writing is retried until it succeeds; if this process ends before, the grant becomes 'unknown'"
        )
        raise GrantHeld(msg, grant=held)


class UnrecordedAnswers:
    """The answers that one ledger has not stored yet, in the order of their arrival."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._answers: dict[str, UnrecordedAnswer] = {}
        self._scope: CancelScope | None = None
        self._is_over = False

    def open(self) -> None:
        """Start without any answer."""
        self._answers.clear()
        self._is_over = False

    def get(self, ref: str) -> UnrecordedAnswer | None:
        """Return the answer that waits for a ref, or None."""
        return self._answers.get(ref)

    def keep(self, claimed: Grant, settlement: Settlement, failure: Exception) -> UnrecordedAnswer:
        """Keep an answer that the ledger did not store, and offer it again in the background."""
        answer = UnrecordedAnswer(claimed, settlement, _reason(failure))
        self._answers[claimed.ref] = answer
        _logger.warning(
            "%s: the answer (%s) is not stored yet and is kept in memory: %s",
            *(claimed.ref, settlement.status, answer.reason),
        )
        if self._is_over:
            self._give_up()
        elif self._scope is None:
            self._scope = CancelScope()
            in_background(self._record_all)
        return answer

    async def aclose(self, seconds: float) -> None:
        """Wait up to `seconds` until all answers are stored; then log those that are not, and give them up."""
        with move_on_after(seconds):
            while self._answers:
                await next(iter(self._answers.values())).wait()
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()
        self._give_up()

    def _give_up(self) -> None:
        if not self._answers:
            return
        refs = list(self._answers)
        more = f" and {len(refs) - _SHOWN:,} more" if len(refs) > _SHOWN else ""
        _logger.error(
            "%d answers of the service could not be stored, and their rows will read 'unknown': %s%s",
            *(len(refs), ", ".join(refs[:_SHOWN]), more),
        )
        while self._answers:
            self._answers.pop(next(iter(self._answers))).end(None)

    async def _record_all(self) -> None:
        pause = _FIRST_PAUSE
        assert self._scope is not None  # noqa: S101 - made by `keep`
        try:
            with self._scope:
                while self._answers:
                    pause = _FIRST_PAUSE if await self._record_one() else min(2 * pause, _LONGEST_PAUSE)
                    await sleep(0 if pause == _FIRST_PAUSE else pause)
        finally:
            self._scope = None

    async def _record_one(self) -> bool:
        """Offer the oldest answer, and return whether the ledger stored it."""
        ref, answer = next(iter(self._answers.items()))
        try:
            grant = await record(self.ledger, answer.claimed, answer.settlement)
        except Exception as failure:  # noqa: BLE001 - disk full, no descriptor left, a lost server: it may pass
            answer.reason = _reason(failure)
            if not isinstance(failure, StorageError | OSError):
                self._answers[ref] = self._answers.pop(ref)  # an error of one answer does not delay the others
            return False
        self._answers.pop(ref, None)
        answer.end(grant)
        _logger.info("%s: the answer (%s) is stored now", ref, answer.settlement.status)
        return True


def _reason(failure: Exception) -> str:
    return str(failure) if isinstance(failure, StorageError | GrantError) else f"{type(failure).__name__}: {failure}"
