"""Prove by the payment requests of a project that the payment request of a row was created."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from tgmembership_async.project.models import PaymentRequest
from tgmembership_async.project.results import kept
from tgmembership_async.protocol.service_clock import Offset
from tgmembership_async.values.models import AccessToken

WINDOW: Final = timedelta(minutes=5)
"""The longest time between the attempt and the creation of its payment request."""
_RESOLUTION: Final = timedelta(seconds=1)
_ALIVE: Final = frozenset({"pending", "completed"})


def created_by(
    plan_id: int | str,
    began: datetime,
    seen: Iterable[PaymentRequest],
    *,
    others: Collection[str],
    rivals: int,
    offset: Offset | None,
) -> tuple[AccessToken | None, str]:
    """Return the token of the payment request that an attempt created, or None without proof; and why.

    `began` is when the attempt began by our clock, `others` the ids that other rows have, and `rivals` how many rows a
    payment request may belong to, this one included. One that was created before the attempt is no proof, nor one much
    later: the service creates it at once, and a user may ask for another one in the bot.
    """
    free = [
        found
        for found in seen
        if (found.plan_id or "").lower() == plan_id
        and (found.status or "").lower() in _ALIVE
        and found.payment_request_id not in others
    ]
    near: list[PaymentRequest] = []
    if rivals > 1:
        why = "another row of the ledger has the same plan and user, and the payment request may be that one's"
    elif not free:
        why = "the user has no payment request for this plan that belongs to no other row"
    elif offset is None:
        why = (
            "how far the service's clock is from ours is not known: its reply has no Date that could be true, so when "
            "a payment request was created proves nothing"
        )
    elif any(found.created_at is None for found in free):
        why = "the service does not say when it created a payment request of this user for this plan"
    else:
        first, last = began + offset.least - _RESOLUTION, began + offset.most + WINDOW
        near = [found for found in free if found.created_at is not None and first <= found.created_at <= last]
        number = "more than one" if near else "no"
        why = f"{number} payment request of this user for this plan was created during the attempt or soon after it"
    if len(near) != 1:
        return None, why
    return kept(near[0]), f"payment request {near[0].payment_request_id} was created at {near[0].created_at}"
