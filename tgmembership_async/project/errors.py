"""The error that only a project has."""

from decimal import Decimal
from typing import Any

from tgmembership_async.errors import Advice, CallError


class BalanceConflict(CallError):
    """Another client changed the balance: it was `found` instead of `expected`.

    With `maybe_applied` False nothing was written. Otherwise the change was made between our read and our write, which
    has overwritten it: `found` is what it was.
    """

    def __init__(self, message: str, *, expected: Decimal, found: Decimal, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.expected = expected
        self.found = found

    @property
    def advice(self) -> Advice:
        """Return `decide`: the same call cannot succeed."""
        return Advice.DECIDE
