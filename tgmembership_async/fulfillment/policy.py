"""How long and how often a Fulfillment tries: one value, checked when it is built."""

from typing import Final

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.settings import places, seconds

_LONGEST_DOUBLING: Final = 40  # any base, doubled so often, is beyond the cap


@frozen(kw_only=True)
class FulfillmentPolicy:
    """What a Fulfillment does with callbacks that fail or take long. All times are seconds."""

    timeout: float = field(default=60.0)
    """One call of `deliver` or `attention` may take so long; then it is cancelled, and counts as failed."""
    concurrency: int = field(default=8)
    """So many callbacks run at a time, and so many grants are in flight."""
    backoff_base: float = field(default=2.0)
    """The wait after a first failure, doubled after each further one, less up to half of it by chance."""
    backoff_cap: float = field(default=3_600.0)
    """No wait is longer than this."""
    overdue: float = field(default=3_600.0)
    """A payment that could not be sent to the service for so long is told to `attention`."""
    tell_after: int = field(default=5)
    """After so many failed deliveries of one link, and each further so many, `attention` is told."""

    def __attrs_post_init__(self) -> None:
        for name in ("timeout", "backoff_base", "backoff_cap", "overdue"):
            seconds(name, getattr(self, name))
        places(self.concurrency, "concurrency")
        places(self.tell_after, "tell_after")

    def backoff(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after so many failures; `chance` is drawn from 0 to 1."""
        longest = min(self.backoff_cap, self.backoff_base * 2.0 ** min(failures - 1, _LONGEST_DOUBLING))
        return longest * (1 - chance / 2)


def check_hours(name: str, value: object) -> float:
    """Return a number of hours above 0 as seconds, or raise UsageError."""
    try:
        return 3_600 * seconds(name, value)
    except UsageError:
        msg = f"{name} must be a number of hours above 0, not {value!r:.80}"
    raise UsageError(msg)
