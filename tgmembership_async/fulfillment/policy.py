"""The FulfillmentPolicy: timeouts, concurrency and backoff of callbacks."""

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.retry import backoff
from tgmembership_async.settings import positive_int, seconds


@frozen(kw_only=True)
class FulfillmentPolicy:
    """The limits and retries of the callbacks of a Fulfillment. All times are seconds."""

    timeout: float = field(default=60.0)
    """Maximum time of one call of `deliver` or `attention`; after it the call is cancelled, and has failed."""
    concurrency: int = field(default=8)
    """Maximum number of grants in flight, and of calls at a time of each of the two callbacks."""
    backoff_base: float = field(default=2.0)
    """Backoff after the first failure; it doubles with each further one, and jitter shortens it by up to half."""
    backoff_cap: float = field(default=3_600.0)
    """Maximum backoff."""
    overdue: float = field(default=3_600.0)
    """Age at which `attention` is called for a payment that could not be sent to the service."""
    tell_after: int = field(default=5)
    """`attention` is called after each such number of failed deliveries of one link."""

    def __attrs_post_init__(self) -> None:
        for name in ("timeout", "backoff_base", "backoff_cap", "overdue"):
            seconds(name, getattr(self, name))
        positive_int(self.concurrency, "concurrency")
        positive_int(self.tell_after, "tell_after")

    def backoff(self, failures: int, chance: float) -> float:
        """Return the backoff in seconds after `failures` failures; `chance` is a random number from 0 to 1."""
        return backoff(self.backoff_base, self.backoff_cap, failures, 1 - chance / 2)


def check_hours(name: str, value: object) -> float:
    """Return a number of hours above 0 as seconds, or raise UsageError."""
    try:
        return 3_600 * seconds(name, value)
    except UsageError:
        msg = f"{name} must be a number of hours above 0, not {value!r:.80}"
    raise UsageError(msg)
