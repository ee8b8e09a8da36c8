"""The settings for handling events."""

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.retry import backoff
from tgmembership_async.settings import seconds

_DAY = 86_400.0


@frozen(kw_only=True)
class HandlingPolicy:
    """Attempts, backoff, timeouts and retention of a Receiver. All times are in seconds.

    Without an inbox only `repeat_window` and `handler_timeout` are used: handlers run once, before the response, and
    the service repeats a delivery that failed. Raises UsageError for values out of range.
    """

    max_attempts: int = field(default=10)
    """Maximum number of attempts per event. After that the event is dead until `inbox.retry`. A crash counts too."""
    backoff_base: float = field(default=1.0)
    """The wait before the second attempt, doubled for each further attempt, minus a random part of up to half."""
    backoff_cap: float = field(default=600.0)
    """Maximum wait between attempts."""
    handler_timeout: float = field(default=60.0)
    """Maximum duration of one handler for one event. After that the handler is cancelled, and has failed."""
    max_waits: int = field(default=20)
    """Maximum number of times that a payment waits for information from its project. The waits grow as the
    backoff does, to about one to two hours with the defaults. After that it is handled as `PaymentUnexplained`."""
    concurrency: int = field(default=16)
    """Maximum number of events of the inbox that are handled concurrently."""
    repeat_window: float = 3_600.0
    """The same event with another signature within this time is a repeat and not handled; 0 handles every event."""
    keep: float = field(default=30 * _DAY)
    """Entries that are done are deleted from the inbox after this time."""

    def __attrs_post_init__(self) -> None:
        for name in ("backoff_base", "backoff_cap", "handler_timeout", "keep"):
            seconds(name, getattr(self, name))
        if self.repeat_window != 0:
            seconds("repeat_window", self.repeat_window)
        for name, least in (("max_attempts", 1), ("concurrency", 1), ("max_waits", 0)):
            number: object = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                msg = f"{name} must be an int of at least {least}, not {number!r:.80}"
                raise UsageError(msg)

    def backoff(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait after failed attempt `attempt`. `chance` is a random number from 0 to 1."""
        return backoff(self.backoff_base, self.backoff_cap, attempt, 1 - chance / 2)
