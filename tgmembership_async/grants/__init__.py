"""Grants that are sent once: a ledger records each `add_member` call before and after it is made."""

from typing import TYPE_CHECKING

from tgmembership_async.errors import GrantError, GrantHeld, RefConflict
from tgmembership_async.grants.follow_ups import FollowUp, FollowUps
from tgmembership_async.grants.ledger import Claim, Ledger
from tgmembership_async.grants.memory import MemoryLedger
from tgmembership_async.grants.model import (
    Attempt,
    DayCount,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
)
from tgmembership_async.lazy import lazy_attributes
from tgmembership_async.storage.binding import Binding

if TYPE_CHECKING:
    from tgmembership_async.grants.granter import Granter
    from tgmembership_async.grants.importing.members import InvalidRow, MemberRow, Members, SkippedRow, read_members
    from tgmembership_async.grants.postgres.ledger import PostgresLedger
    from tgmembership_async.grants.provisioning import Run, StopReason, Summary
    from tgmembership_async.grants.reconciling import Finding
    from tgmembership_async.grants.sqlite.ledger import SqliteLedger
    from tgmembership_async.storage.sqlite.generations import Gap

__all__ = [
    "Attempt",
    "Binding",
    "Claim",
    "DayCount",
    "Decision",
    "DecisionMade",
    "Finding",
    "FollowUp",
    "FollowUps",
    "Gap",
    "Grant",
    "GrantError",
    "GrantHeld",
    "GrantRequest",
    "GrantStatus",
    "Granter",
    "InvalidRow",
    "Ledger",
    "MemberRow",
    "Members",
    "MemoryLedger",
    "PostgresLedger",
    "RefConflict",
    "Run",
    "Settlement",
    "SkippedRow",
    "SqliteLedger",
    "StopReason",
    "Summary",
    "read_members",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "grants.granter": ["Granter"],
            "grants.importing.members": ["InvalidRow", "MemberRow", "Members", "SkippedRow", "read_members"],
            "grants.postgres.ledger": ["PostgresLedger"],
            "grants.provisioning": ["Run", "StopReason", "Summary"],
            "grants.reconciling": ["Finding"],
            "grants.sqlite.ledger": ["SqliteLedger"],
            "storage.sqlite.generations": ["Gap"],
        },
        {"PostgresLedger": "postgres"},
    )
