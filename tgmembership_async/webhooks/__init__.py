"""Receiving webhooks: verify deliveries, store them before the response, and pass each event to its handlers once."""

from typing import TYPE_CHECKING

from tgmembership_async.errors import NotAuthentic, Unreadable, WebhookError
from tgmembership_async.lazy import lazy_attributes
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.events import (
    Event,
    MembershipTerminated,
    OrderCompleted,
    PaymentRequestCompleted,
    UnknownEvent,
)
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Inbox, Receipt, Verdict
from tgmembership_async.webhooks.policy import HandlingPolicy
from tgmembership_async.webhooks.project_signature import CannotVerify, ProjectVerifier
from tgmembership_async.webhooks.receiver import Receiver
from tgmembership_async.webhooks.replay import MemoryReplay
from tgmembership_async.webhooks.signature import Delivery, HeaderNames, Verifier, sign

if TYPE_CHECKING:
    from tgmembership_async.webhooks.inboxes.postgres import PostgresInbox
    from tgmembership_async.webhooks.inboxes.sqlite import SqliteInbox
    from tgmembership_async.webhooks.joining import BalanceToppedUp, MembershipPaid, PaymentUnexplained

__all__ = [
    "Answer",
    "Arrival",
    "BalanceToppedUp",
    "CannotVerify",
    "Delivery",
    "Entry",
    "EntryStatus",
    "Event",
    "HandlingPolicy",
    "HeaderNames",
    "Inbox",
    "MembershipPaid",
    "MembershipTerminated",
    "MemoryReplay",
    "NotAuthentic",
    "OrderCompleted",
    "PaymentRequestCompleted",
    "PaymentUnexplained",
    "PostgresInbox",
    "ProjectVerifier",
    "Receipt",
    "Receiver",
    "SqliteInbox",
    "UnknownEvent",
    "Unreadable",
    "Verdict",
    "Verifier",
    "WebhookError",
    "sign",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "webhooks.inboxes.postgres": ["PostgresInbox"],
            "webhooks.inboxes.sqlite": ["SqliteInbox"],
            "webhooks.joining": ["BalanceToppedUp", "MembershipPaid", "PaymentUnexplained"],
        },
        {"PostgresInbox": "postgres"},
    )
