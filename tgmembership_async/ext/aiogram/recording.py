"""Record the payment or refund of an update before the update is confirmed.

aiogram confirms a polled update when its handler returns or raises. While the ledger cannot write, the handler of a
payment therefore does not return: polling stops there, and Telegram keeps the update. The handler of a webhook must end
within a minute: it raises, aiohttp answers 500, and Telegram repeats the update. Writing continues meanwhile, because
Telegram does not repeat an update that was handled in the background.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from aiogram.dispatcher.event.bases import CancelHandler
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramNotFound

from tgmembership_async.errors import RefConflict, StorageError, UsageError
from tgmembership_async.storage.until_stored import until_stored

FINAL: Final = (TelegramBadRequest, TelegramForbiddenError, TelegramNotFound)
"""What Telegram answers for a chat that cannot be reached, however often it is tried."""
_WEBHOOK_WAITS: Final = 25.0  # seconds; Telegram waits for an answer for 60, aiogram for 55
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")

Write = Callable[[], Awaitable[Any]]


class _NotRecorded(StorageError, CancelHandler):
    """A StorageError that aiogram passes to no error handler, which would confirm the update by its return."""


class Recording:
    """Repeats each write until it succeeds or the bot stops; each name has one write at a time."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def until_written(self, name: str, write: Write, *, polling: bool) -> Any:
        """Return what `write` returns. For a webhook, raise StorageError after 25 s; writing continues."""
        task = self._tasks.get(name)
        if task is None:
            writing = until_stored(write, partial(_failed, name), first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
            task = self._tasks[name] = asyncio.create_task(writing, name=f"recording {name}")
            task.add_done_callback(lambda _: self._tasks.pop(name, None))
        await asyncio.wait({task}, timeout=None if polling else _WEBHOOK_WAITS)
        if not task.done():
            msg = f"{name} could not be recorded yet: Telegram has to repeat the update"
            raise _NotRecorded(msg)
        return task.result()

    async def stop(self) -> None:
        """Cancel the writes that did not succeed; Telegram repeats these updates, which polling has not confirmed."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _failed(name: str, error: Exception) -> None:
    """Log a failure of the ledger or, while the owner is notified, of Telegram; raise an error that would recur."""
    if isinstance(error, UsageError | RefConflict):
        raise error
    shown = str(error) if isinstance(error, StorageError) else type(error).__name__
    _logger.error("%s cannot be recorded yet, and is tried again: %s", name, shown)
