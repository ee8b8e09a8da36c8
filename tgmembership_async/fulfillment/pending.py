"""Count the rows of a ledger that are not finished."""

from collections import Counter

from attrs import frozen

from tgmembership_async.grants.follow_ups import OPEN
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import GrantStatus


@frozen
class Pending:
    """Numbers of open rows: `planned` (or being sent), `undelivered` links, and `undecided` by the owner."""

    planned: int = 0
    undelivered: int = 0
    undecided: int = 0

    def __int__(self) -> int:
        return self.planned + self.undelivered + self.undecided

    def __bool__(self) -> bool:
        return int(self) > 0


async def count_pending(ledger: Ledger) -> Pending:
    """Count the open rows of a ledger."""
    counts = Counter([grant.status async for grant in ledger.grants([*OPEN, GrantStatus.SENDING])])
    return Pending(
        planned=counts[GrantStatus.PLANNED] + counts[GrantStatus.SENDING],
        undelivered=counts[GrantStatus.GRANTED],
        undecided=counts[GrantStatus.REFUSED] + counts[GrantStatus.UNKNOWN],
    )
