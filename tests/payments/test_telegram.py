"""`payments.telegram`: what a message of Telegram says, with the classes of any library."""

from types import SimpleNamespace
from typing import Any

import pytest
from attrs import asdict, frozen

from tgmembership_async.payments import Refund
from tgmembership_async.payments.telegram import refund_in


@frozen
class RefundedPayment:
    """It has slots, as that of python-telegram-bot."""

    invoice_payload: str = "4"
    telegram_payment_charge_id: str = "c1"


@pytest.mark.parametrize("refund", [RefundedPayment(), asdict(RefundedPayment())], ids=["slots", "dict"])
def test_a_refund_is_read_from_any_object(refund: Any) -> None:
    message: Any = SimpleNamespace(refunded_payment=refund, chat=SimpleNamespace(id=777, type="private"))
    assert refund_in(message) == Refund("telegram:c1", "refunded in Telegram", 4, 777, "777")
