"""Grant once: a ledger around the one call that must not be repeated blindly."""

from typing import TYPE_CHECKING, Final

from tgmembership_async.grants.follow_ups import FollowUp, FollowUps
from tgmembership_async.grants.ledger import Claim, Ledger
from tgmembership_async.grants.memory import MemoryLedger
from tgmembership_async.grants.model import (
    Attempt,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
)
from tgmembership_async.storage.optional import load

if TYPE_CHECKING:
    from tgmembership_async.grants.granter import Finding, Granter
    from tgmembership_async.grants.postgres.ledger import PostgresLedger
    from tgmembership_async.grants.provisioning import Run, StopReason, Summary
    from tgmembership_async.grants.sqlite.ledger import SqliteLedger
    from tgmembership_async.storage.sqlite.generations import Gap

__all__ = [
    "Attempt",
    "Claim",
    "Decision",
    "DecisionMade",
    "Finding",
    "FollowUp",
    "FollowUps",
    "Gap",
    "Grant",
    "GrantRequest",
    "GrantStatus",
    "Granter",
    "Ledger",
    "MemoryLedger",
    "PostgresLedger",
    "Run",
    "Settlement",
    "SqliteLedger",
    "StopReason",
    "Summary",
]

_ON_USE: Final = {
    "Finding": "tgmembership_async.grants.granter",
    "Gap": "tgmembership_async.storage.sqlite.generations",
    "Granter": "tgmembership_async.grants.granter",
    "PostgresLedger": "tgmembership_async.grants.postgres.ledger",
    "Run": "tgmembership_async.grants.provisioning",
    "SqliteLedger": "tgmembership_async.grants.sqlite.ledger",
    "StopReason": "tgmembership_async.grants.provisioning",
    "Summary": "tgmembership_async.grants.provisioning",
}
_EXTRAS: Final = {"PostgresLedger": "postgres"}


def __getattr__(name: str) -> object:
    if name in _ON_USE:
        return load(_ON_USE[name], name, _EXTRAS.get(name))
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
