"""What the ledger says of each member, held against what the service did. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from attrs import frozen

from tgmembership_async.grants.model import GrantStatus

Grantee = tuple[int, int | None]
"""A plan and a member: what the service's audit knows of a grant."""


class Belief(StrEnum):
    """What the client believes of one member."""

    GRANTED = "granted"
    REFUSED = "refused"
    NOT_DONE = "not done, safe to repeat"
    UNKNOWN = "unknown"


_BELIEFS: Final[Mapping[GrantStatus, Belief]] = {
    GrantStatus.GRANTED: Belief.GRANTED,
    GrantStatus.DELIVERED: Belief.GRANTED,
    GrantStatus.REFUSED: Belief.REFUSED,
    GrantStatus.ABANDONED: Belief.REFUSED,
    GrantStatus.PLANNED: Belief.NOT_DONE,
    GrantStatus.SENDING: Belief.UNKNOWN,
    GrantStatus.UNKNOWN: Belief.UNKNOWN,
}


def belief_of(status: GrantStatus) -> Belief:
    """Return what a row of the ledger says."""
    return _BELIEFS[status]


@frozen
class Comparison:
    """Beliefs beside facts: `granted` and so on count rows; the others count grants in the audit, by what they mean.

    `really_granted` are unknown ones that took effect. The last four must be 0: grants beyond one for each row, grants
    of rows believed not granted, rows believed granted of which the audit knows nothing, and members without a row.
    """

    granted: int
    refused: int
    not_done: int
    unknown: int
    really_granted: int
    granted_twice: int
    granted_unawares: int
    granted_in_vain: int
    lost: int = 0

    @property
    def rows(self) -> int:
        """Return how many rows were begun."""
        return self.granted + self.refused + self.not_done + self.unknown

    @property
    def holds(self) -> bool:
        """Return whether the client was right about every row."""
        return not (self.granted_twice or self.granted_unawares or self.granted_in_vain or self.lost)


def compare(beliefs: Iterable[tuple[Grantee, Belief]], audit: Mapping[Grantee, int], *, lost: int = 0) -> Comparison:
    """Hold what is believed of each row against how often the audit says that it was granted; `lost` have no row."""
    rows: Counter[Belief] = Counter()
    believed: dict[Grantee, Counter[Belief]] = {}
    for grantee, belief in beliefs:
        rows[belief] += 1
        believed.setdefault(grantee, Counter())[belief] += 1
    really = twice = unawares = in_vain = 0
    for grantee in believed.keys() | audit.keys():
        of = believed.get(grantee, Counter())
        surplus = audit.get(grantee, 0) - of[Belief.GRANTED]
        in_vain += max(0, -surplus)
        really += min(of[Belief.UNKNOWN], max(0, surplus))
        beyond = max(0, surplus - of[Belief.UNKNOWN])
        denied = min(beyond, of[Belief.REFUSED] + of[Belief.NOT_DONE])
        unawares += denied
        twice += beyond - denied
    return Comparison(
        granted=rows[Belief.GRANTED],
        refused=rows[Belief.REFUSED],
        not_done=rows[Belief.NOT_DONE],
        unknown=rows[Belief.UNKNOWN],
        really_granted=really,
        granted_twice=twice,
        granted_unawares=unawares,
        granted_in_vain=in_vain,
        lost=lost,
    )
