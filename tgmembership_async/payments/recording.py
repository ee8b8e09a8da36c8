"""Record what a provider's event means: a payment is taken, a refund abandoned, a question asked."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, assert_never

from tgmembership_async.errors import RefConflict
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants.model import Grant
from tgmembership_async.payments.model import Attention, Ignored, Payment, PaymentEvent, Refund

Ask = Callable[[Attention], Awaitable[object]]

_logger: Final = logging.getLogger("tgmembership_async.payments")


async def record(event: PaymentEvent, fulfillment: Fulfillment, attention: Ask) -> Grant | None:
    """Record an event durably, and return the row of its ref if it has one. Recording an event again is harmless.

    A Payment is taken. A Refund abandons what is not granted yet, as `Fulfillment.refunded` describes. An Attention is
    passed to `attention`, an async function of it; so are a Payment whose ref is recorded for another plan or member,
    and a Refund of a payment that is not recorded and whose plan is not known.

    Raises StorageError if the ledger cannot write, GrantError if a refunded payment is being sent, and what `attention`
    raises: the provider has to repeat the event then.
    """
    match event:
        case Payment():
            return await _take(event, fulfillment, attention)
        case Refund():
            return await _give_back(event, fulfillment, attention)
        case Attention():
            await attention(event)
        case Ignored():
            _logger.debug("%r is ignored", event)
        case _:
            assert_never(event)
    return None


async def _take(payment: Payment, fulfillment: Fulfillment, attention: Ask) -> Grant | None:
    try:
        return await fulfillment.take(
            payment.ref,
            plan_id=payment.plan_id,
            member_id=payment.member_id,
            note=payment.note,
            paid_at=payment.paid_at,
        )
    except RefConflict as error:
        conflict = str(error)
    await attention(Attention(payment.ref, conflict, payment.ref))
    return None


async def _give_back(refund: Refund, fulfillment: Fulfillment, attention: Ask) -> Grant | None:
    known = await fulfillment.granter.ledger.get(refund.ref)
    plan_id = refund.plan_id if known is None else known.plan_id
    if plan_id is None:
        text = f"{refund.reason}, and its payment is not in the ledger: find its grant, and take the access back"
        await attention(Attention(refund.ref, text, refund.ref))
        return None
    return await fulfillment.refunded(
        refund.ref, plan_id=plan_id, member_id=refund.member_id, note=refund.note, reason=refund.reason
    )
