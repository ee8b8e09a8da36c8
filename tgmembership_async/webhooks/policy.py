"""How long and how often a receiver tries: one value, checked when it is built."""

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.settings import seconds

_DAY = 86_400.0


@frozen(kw_only=True)
class HandlingPolicy:
    """What a Receiver does with what it has received. All times are seconds.

    Without an inbox only `repeat_window` and `handler_timeout` count: handlers run once, before the answer, and the
    service repeats what failed.
    """

    max_attempts: int = field(default=10)
    """So often an event is handed to its handlers; then it is dead, and waits for `inbox.retry`. A crash counts too."""
    backoff_base: float = field(default=1.0)
    """The wait before the second attempt, doubled before each further one, less up to half of it by chance."""
    backoff_cap: float = field(default=600.0)
    """No wait is longer than this."""
    handler_timeout: float = field(default=60.0)
    """So long one handler may take with one event; then it is cancelled, and counts as failed."""
    concurrency: int = field(default=16)
    """So many events of the inbox are handled at a time."""
    repeat_window: float = 3_600.0
    """An event that comes again within this time, signed anew, is a repeat and not handled; 0: every one is handled."""
    keep: float = field(default=30 * _DAY)
    """What is done leaves the inbox after this time."""

    def __attrs_post_init__(self) -> None:
        for name in ("backoff_base", "backoff_cap", "handler_timeout", "keep"):
            seconds(name, getattr(self, name))
        if self.repeat_window != 0:
            seconds("repeat_window", self.repeat_window)
        for name in ("max_attempts", "concurrency"):
            number: object = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                msg = f"{name} must be an int of at least 1, not {number!r:.80}"
                raise UsageError(msg)

    def backoff(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait after a failed attempt; `chance` is drawn from 0 to 1."""
        # 2 ** 40 of any base is beyond the cap, and 2 ** 5000 is no float.
        longest = min(self.backoff_cap, self.backoff_base * 2.0 ** min(attempt - 1, 40))
        return longest * (1 - chance / 2)
