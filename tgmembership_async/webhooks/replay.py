"""Replay protection in memory, for a Receiver without an inbox.

A delivery, or an event with another signature, is not processed twice. An inbox provides this durably, also after a
restart.
"""

import time
from collections.abc import Callable, Collection
from typing import Final

from anyio import Event as Signal

from tgmembership_async.errors import UsageError
from tgmembership_async.settings import seconds

KEPT_FOR: Final = 3_600.0
_MOST_KEPT: Final = 100_000


class MemoryReplay:
    """Remembers at most `max_entries` processed keys, oldest dropped first, each for `keep` seconds.

    `clock` returns monotonic seconds. Raises UsageError for values out of range.
    """

    def __init__(
        self, *, max_entries: int = _MOST_KEPT, keep: float = KEPT_FOR, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            msg = f"max_entries must be an int of at least 1, not {max_entries!r:.80}"
            raise UsageError(msg)
        self._max_entries = max_entries
        self._keep = seconds("keep", keep)
        self._clock = clock
        self._reserved: dict[str, Signal] = {}
        self._processed: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._processed)

    async def reserve(self, keys: Collection[str]) -> bool:
        """Reserve keys for processing. Return True if the caller must process them, and then commit or release them.

        Return False if one of the keys was processed. If another task has reserved one of the keys, wait until that
        task commits or releases it.
        """
        while (signal := self._reserved_by_another(keys)) is not None:
            await signal.wait()
        self._forget()
        if any(key in self._processed for key in keys):
            return False
        signal = Signal()
        self._reserved.update(dict.fromkeys(keys, signal))
        return True

    def _reserved_by_another(self, keys: Collection[str]) -> Signal | None:
        return next((self._reserved[key] for key in keys if key in self._reserved), None)

    def commit(self, keys: Collection[str]) -> None:
        """Remember the keys as processed."""
        until = self._clock() + self._keep
        for key in keys:
            self._processed.pop(key, None)
            self._processed[key] = until
        self.release(keys)

    def release(self, keys: Collection[str]) -> None:
        """Drop the reservation, so that the keys can be reserved again."""
        for key in keys:
            signal = self._reserved.pop(key, None)
            if signal is not None:
                signal.set()

    def _forget(self) -> None:
        now = self._clock()
        while self._processed:
            oldest = next(iter(self._processed))
            if self._processed[oldest] > now and len(self._processed) <= self._max_entries:
                return
            del self._processed[oldest]
