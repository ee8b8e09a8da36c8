"""Payments from a provider: verified events as Payments, Refunds and questions, and an endpoint that records them."""

from tgmembership_async.payments.adapter import PaymentAdapter, signature_in
from tgmembership_async.payments.model import Attention, Ignored, Payment, PaymentEvent, Refund
from tgmembership_async.payments.receiver import PaymentReceiver
from tgmembership_async.payments.recording import record
from tgmembership_async.webhooks.headers import HeadersLike

__all__ = [
    "Attention",
    "HeadersLike",
    "Ignored",
    "Payment",
    "PaymentAdapter",
    "PaymentEvent",
    "PaymentReceiver",
    "Refund",
    "record",
    "signature_in",
]
