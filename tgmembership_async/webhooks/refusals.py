"""Log refused requests: at once, then at most one line a minute, so that a forger cannot fill the disk."""

import logging
import time
from typing import Final

_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_QUIET_FOR: Final = 60.0


class RefusalLog:
    """Logs requests that were `what`."""

    def __init__(self, what: str = "refused as not authentic") -> None:
        self._what = what
        self._quiet_until = 0.0
        self._unreported = 0

    def note(self, why: str) -> None:
        """Log a request, or count it for the next log line."""
        self._unreported += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            _logger.warning("%d request(s) %s, the last one: %s", self._unreported, self._what, why)
            self._unreported, self._quiet_until = 0, now + _QUIET_FOR
