"""Compare the ledger with the service's audit log. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from attrs import frozen

from tgmembership_async.grants.model import GrantStatus

Grantee = tuple[int | str, int | None]
"""A plan and a member: the key of a grant in the service's audit log."""


class Recorded(StrEnum):
    """The outcome that the ledger records for one row."""

    GRANTED = "granted"
    REFUSED = "refused"
    NOT_DONE = "not done, safe to repeat"
    UNKNOWN = "unknown"


_RECORDED: Final[Mapping[GrantStatus, Recorded]] = {
    GrantStatus.GRANTED: Recorded.GRANTED,
    GrantStatus.DELIVERED: Recorded.GRANTED,
    GrantStatus.REFUSED: Recorded.REFUSED,
    GrantStatus.ABANDONED: Recorded.REFUSED,
    GrantStatus.PLANNED: Recorded.NOT_DONE,
    GrantStatus.SENDING: Recorded.UNKNOWN,
    GrantStatus.UNKNOWN: Recorded.UNKNOWN,
}


def recorded_of(status: GrantStatus) -> Recorded:
    """Return the outcome that a row with this status records."""
    return _RECORDED[status]


@frozen
class Comparison:
    """The ledger's rows by recorded outcome, and their differences from the audit log.

    `unknown_granted` counts the unknown rows whose grant is in the audit log. The last four must be 0: grants beyond
    one per row, grants of rows recorded as not granted, rows recorded as granted without a grant in the audit log, and
    members without a row.
    """

    granted: int
    refused: int
    not_done: int
    unknown: int
    unknown_granted: int
    granted_twice: int
    granted_unrecorded: int
    granted_missing: int
    lost: int = 0

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self.granted + self.refused + self.not_done + self.unknown

    @property
    def matches(self) -> bool:
        """Return whether the ledger is right about every member."""
        return not (self.granted_twice or self.granted_unrecorded or self.granted_missing or self.lost)


def compare(rows: Iterable[tuple[Grantee, Recorded]], audit: Mapping[Grantee, int], *, lost: int = 0) -> Comparison:
    """Compare the ledger's rows with the number of grants in the audit log; `lost` members have no row."""
    totals: Counter[Recorded] = Counter()
    by_grantee: dict[Grantee, Counter[Recorded]] = {}
    for grantee, recorded in rows:
        totals[recorded] += 1
        by_grantee.setdefault(grantee, Counter())[recorded] += 1
    unknown_granted = twice = unrecorded = missing = 0
    for grantee in by_grantee.keys() | audit.keys():
        counts = by_grantee.get(grantee, Counter())
        surplus = audit.get(grantee, 0) - counts[Recorded.GRANTED]
        missing += max(0, -surplus)
        unknown_granted += min(counts[Recorded.UNKNOWN], max(0, surplus))
        excess = max(0, surplus - counts[Recorded.UNKNOWN])
        of_others = min(excess, counts[Recorded.REFUSED] + counts[Recorded.NOT_DONE])
        unrecorded += of_others
        twice += excess - of_others
    return Comparison(
        granted=totals[Recorded.GRANTED],
        refused=totals[Recorded.REFUSED],
        not_done=totals[Recorded.NOT_DONE],
        unknown=totals[Recorded.UNKNOWN],
        unknown_granted=unknown_granted,
        granted_twice=twice,
        granted_unrecorded=unrecorded,
        granted_missing=missing,
        lost=lost,
    )
