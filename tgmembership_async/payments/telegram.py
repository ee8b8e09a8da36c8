"""Telegram: from a message with a payment, in Stars or by a provider, to a Payment or a Refund.

A payment of this package has the plan's id as the payload of its invoice. Each payment of a subscription has a charge
id of its own, and so a ref of its own. The functions take a Message of aiogram; they read only attributes that the
Message of python-telegram-bot has too.
"""

import re
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

from attrs import frozen

from tgmembership_async.payments.model import Attention, Payment, Refund

if TYPE_CHECKING:
    from aiogram.types import Chat, Message, User

__all__ = ["is_plan_id", "payment_in", "ref_of", "refund_in"]

_PLAN_ID: Final = re.compile(r"[1-9][0-9]{0,17}")
_PRIVATE: Final = "private"


def is_plan_id(payload: str) -> bool:
    """Tell whether the payload of an invoice is the id of a plan."""
    return _PLAN_ID.fullmatch(payload) is not None


def ref_of(charge_id: str) -> str:
    """Return the ref of a payment in Telegram."""
    return f"telegram:{charge_id}"


@frozen
class Customer:
    """The chat to which a link is sent, and its language code. A grant's note contains both: `777 en`."""

    chat_id: int
    language: str | None = None

    @classmethod
    def in_note(cls, note: str) -> "Customer | None":
        """Return the customer in a note, or None if the note has another content."""
        first, _, rest = note.partition(" ")
        return cls(int(first), rest.strip() or None) if first.removeprefix("-").isdecimal() else None

    def __str__(self) -> str:
        return f"{self.chat_id} {self.language}" if self.language else str(self.chat_id)


def payment_in(message: "Message") -> Payment | Attention:
    """Return the payment of a message with `successful_payment`; an Attention if its payload is not a plan's id."""
    payment, user = message.successful_payment, message.from_user
    assert payment is not None  # noqa: S101 - the contract
    ref = ref_of(payment.telegram_payment_charge_id)
    if user is None or not is_plan_id(payment.invoice_payload):
        return _foreign(ref, user, payment.invoice_payload, f"{payment.total_amount} {payment.currency} were paid")
    note = str(_who_paid(user, message.chat))
    return Payment(ref, plan_id=int(payment.invoice_payload), member_id=user.id, note=note, paid_at=message.date)


def refund_in(message: "Message") -> Refund | Attention:
    """Return the refund of a message with `refunded_payment`; an Attention if its payload is not a plan's id.

    The message may come from the bot itself; the chat is the customer's.
    """
    # An aiogram that does not know refunds keeps them as it got them.
    refund: Any = getattr(message, "refunded_payment", None)
    read = itemgetter if isinstance(refund, dict) else attrgetter
    charge_id, payload = read("telegram_payment_charge_id", "invoice_payload")(cast("Any", refund))
    ref = ref_of(charge_id)
    if not is_plan_id(payload):
        return _foreign(ref, None, payload, "a payment was refunded")
    member_id = message.chat.id if message.chat.type == _PRIVATE else None
    return Refund(ref, "refunded in Telegram", int(payload), member_id, str(message.chat.id))


def _who_paid(user: "User", chat: "Chat") -> Customer:
    """Return the private chat: a link must not be sent to a group."""
    return Customer(chat.id if chat.type == _PRIVATE else user.id, user.language_code)


def _foreign(ref: str, user: "User | None", payload: str, what: str) -> Attention:
    payer = "" if user is None else f" by user {user.id}"
    return Attention(ref, f"{what}{payer}, and the payload {payload!r} is not the id of a plan", ref)
