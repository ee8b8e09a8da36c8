"""Abandon the grant of a payment that was refunded, unless it is too late."""

from contextlib import suppress
from typing import Final

from anyio import current_time, sleep

from tgmembership_async.errors import GrantError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import DECIDED_FROM, Grant, GrantRequest, GrantStatus
from tgmembership_async.grants.transitions import known

_PAUSE: Final = 0.1
_STILL_REFUNDABLE: Final = DECIDED_FROM["abandon"] | {GrantStatus.SENDING}


async def abandon(granter: Granter, request: GrantRequest, *, reason: str, deadline: float) -> Grant:
    """Return the row of a refunded payment, abandoned if it was not granted yet; a new ref is planned and abandoned.

    Raises GrantError if it is still being sent after `deadline` seconds.
    """
    ref, end = request.ref, current_time() + deadline
    grant = await granter.get(ref) or await granter.plan(
        ref, plan_id=request.plan_id, member_id=request.member_id, note=request.note
    )
    while grant.status in _STILL_REFUNDABLE and current_time() < end:
        with suppress(GrantError):  # it is being sent: wait for the outcome
            return await granter.resolve(ref, "abandon", reason=reason)
        await sleep(_PAUSE)
        grant = known(ref, await granter.get(ref))
    if grant.status in _STILL_REFUNDABLE:
        msg = f"{ref} was {reason} and is {grant.status}: it may still be granted, so record the refund again"
        raise GrantError(msg)
    return grant
