"""The signing secret of a payment provider's webhook is in no log record, repr, traceback with locals or answer."""

import logging
import traceback

import pytest
from canary import CANARY_SECRET
from stripe_events import event, session, signed

from tgmembership_async import NotAuthentic, Session, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Granter, MemoryLedger
from tgmembership_async.payments import PaymentReceiver
from tgmembership_async.payments.stripe import StripeAdapter
from tgmembership_async.testing import FakeService, FakeTransport

CANARY = f"whsec_{CANARY_SECRET}"
PAID = event("checkout.session.completed", session())


def requests() -> list[tuple[dict[str, str], bytes]]:
    """Return requests that are signed now; a signature is valid for five minutes."""
    return [
        (signed(PAID, CANARY), PAID),
        (signed(b"{}", CANARY), b"{}"),
        (signed(PAID), PAID),
        ({"stripe-signature": "t=1,v1=\xe9"}, PAID),
        ({}, b""),
    ]


async def test_in_nothing_that_a_receiver_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service, shown = FakeService(), list[str]()

    async def fail(about: object) -> None:
        raise LookupError(about)

    session = Session(**service.session_options(), transport=FakeTransport(service))
    async with Fulfillment(Granter(session, MemoryLedger()), deliver=fail, attention=fail) as fulfillment:
        receiver = PaymentReceiver(StripeAdapter(CANARY), fulfillment, attention=fail)
        shown += [repr(receiver), repr(receiver.asgi)]
        answers = [await receiver.handle(headers, body) for headers, body in requests()]
        assert [answer.status for answer in answers] == [200, 503, 400, 400, 400]
        shown += map(repr, answers)
    assert not any(CANARY_SECRET in text for text in (*shown, caplog.text, repr(list(map(vars, caplog.records)))))


def test_in_no_error() -> None:
    adapter, shown = StripeAdapter(CANARY), list[str]()
    for headers, body in requests()[2:]:
        with pytest.raises(NotAuthentic) as refused:
            adapter.read(headers, body)
        shown += traceback.TracebackException.from_exception(refused.value, capture_locals=True).format()
    with pytest.raises(UsageError) as wrong:
        StripeAdapter([CANARY, f" {CANARY}"])
    shown += traceback.TracebackException.from_exception(wrong.value, capture_locals=True).format()
    assert not any(CANARY_SECRET in text for text in shown)
