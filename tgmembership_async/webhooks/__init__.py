"""Webhooks in: verified, safe against replays, stored before they are answered, processed once."""

from typing import TYPE_CHECKING

from tgmembership_async.storage.optional import load
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.events import Event, MembershipTerminated, OrderCompleted, UnknownEvent
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Inbox, Receipt, Verdict
from tgmembership_async.webhooks.policy import HandlingPolicy
from tgmembership_async.webhooks.receiver import Receiver
from tgmembership_async.webhooks.replay import MemoryReplay
from tgmembership_async.webhooks.signature import Delivery, HeaderNames, Verifier, sign

if TYPE_CHECKING:
    from tgmembership_async.webhooks.inboxes.postgres import PostgresInbox
    from tgmembership_async.webhooks.inboxes.sqlite import SqliteInbox

__all__ = [
    "Answer",
    "Arrival",
    "Delivery",
    "Entry",
    "EntryStatus",
    "Event",
    "HandlingPolicy",
    "HeaderNames",
    "Inbox",
    "MembershipTerminated",
    "MemoryReplay",
    "OrderCompleted",
    "PostgresInbox",
    "Receipt",
    "Receiver",
    "SqliteInbox",
    "UnknownEvent",
    "Verdict",
    "Verifier",
    "sign",
]


def __getattr__(name: str) -> object:
    if name == "SqliteInbox":
        return load("tgmembership_async.webhooks.inboxes.sqlite", name)
    if name == "PostgresInbox":
        return load("tgmembership_async.webhooks.inboxes.postgres", name, "postgres")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
