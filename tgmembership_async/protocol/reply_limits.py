"""The maximum size of a reply by method, and which replies are too large to parse on the event loop.

The service documents no sizes; these limits are at least ten times what was *seen*.
"""

from collections.abc import Mapping
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

_SMALL: Final = 64 * KIB
REPLY_LIMITS: Final[Mapping[str, int]] = {
    "addMember": _SMALL,
    "countOrders": _SMALL,
    "countUsers": _SMALL,
    "getPlans": 4 * MIB,
    "getRevenue": _SMALL,
    "bot": _SMALL,
    "members/accessToken": _SMALL,
    "getSubscribers": 16 * MIB,
    "mostPopularPaymentMethods": _SMALL,
    "plansPerformance": 4 * MIB,
    "webhook": _SMALL,
}
"""Maximum size of a body in bytes, both compressed and decompressed."""
UNDOCUMENTED_READ: Final = 16 * MIB
UNDOCUMENTED_WRITE: Final = MIB

MOST_CONTAINERS: Final = 200_000
MOST_COMMAS: Final = 1_500_000
"""Maximum numbers of arrays and objects, and of commas: each value costs memory, and garbage collections that stop the
event loop. A row of `getSubscribers` takes about 100 bytes, so 16 MiB hold 160,000 rows."""

_NEVER_LONG: Final = 8 * KIB
_ALWAYS_LONG: Final = 256 * KIB
_FEW_VALUES: Final = 4_000


def reply_limit(method: str, *, safe: bool) -> int:
    """Return the maximum size in bytes of a reply to `method`; for a method not in the table, by its safety."""
    return REPLY_LIMITS.get(method) or (UNDOCUMENTED_READ if safe else UNDOCUMENTED_WRITE)


def takes_long(body: bytes) -> bool:
    """Tell whether parsing and structuring a body may take more than about 50 ms."""
    size = len(body)
    return size > _NEVER_LONG and (size > _ALWAYS_LONG or body.count(b",") + body.count(b"{") > _FEW_VALUES)


def holds_too_much(body: bytes) -> bool:
    """Tell whether a body may have more values than `MOST_CONTAINERS` and `MOST_COMMAS` allow."""
    return body.count(b"{") + body.count(b"[") > MOST_CONTAINERS or body.count(b",") > MOST_COMMAS
