"""How much of a reply is read, by method, and which replies take so long to read that the event loop must not wait.

The service documents no sizes; these leave room for ten times what was *seen* and more.
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
    "getSubscribers": 16 * MIB,
    "mostPopularPaymentMethods": _SMALL,
    "plansPerformance": 4 * MIB,
    "webhook": _SMALL,
}
"""Bytes of a body, compressed and not, that are read at most."""
UNDOCUMENTED_READ: Final = 16 * MIB
UNDOCUMENTED_WRITE: Final = MIB

MOST_CONTAINERS: Final = 200_000
MOST_COMMAS: Final = 1_500_000
"""More arrays and objects, or commas, are too many: each costs memory, and time in which the garbage collector stops
the event loop. A row of `getSubscribers` takes some 100 bytes, so that 16 MiB hold 160,000 of them."""

_NEVER_LONG: Final = 8 * KIB
_ALWAYS_LONG: Final = 256 * KIB
_FEW_VALUES: Final = 4_000


def reply_limit(method: str, *, safe: bool) -> int:
    """Return how many bytes of the reply to `method` are read: as the table says, or else by its safety."""
    return REPLY_LIMITS.get(method) or (UNDOCUMENTED_READ if safe else UNDOCUMENTED_WRITE)


def takes_long(body: bytes) -> bool:
    """Tell whether reading and structuring a body may take more than some 50 ms."""
    size = len(body)
    return size > _NEVER_LONG and (size > _ALWAYS_LONG or body.count(b",") + body.count(b"{") > _FEW_VALUES)


def holds_too_much(body: bytes) -> bool:
    """Tell whether a body may hold more values than `MOST_CONTAINERS` and `MOST_COMMAS` allow."""
    return body.count(b"{") + body.count(b"[") > MOST_CONTAINERS or body.count(b",") > MOST_COMMAS
