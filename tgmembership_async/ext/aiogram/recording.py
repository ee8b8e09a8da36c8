"""An update is not done before what it tells is in the ledger.

aiogram confirms a polled update when its handler returns, also when it raises. So while the ledger cannot write, the
handler of a payment does not return: polling stops there, and Telegram keeps the update. A webhook's handler has to end
within a minute: it raises, aiohttp answers 500, and Telegram repeats the update. Writing goes on meanwhile, because
Telegram does not repeat what a handler in the background was to record.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tgmembership_async.errors import RefConflict, StorageError, UsageError

_WEBHOOK_WAITS: Final = 25.0  # seconds; Telegram waits for an answer for 60, aiogram for 55
_FIRST_PAUSE: Final = 0.5  # doubled each time
_LONGEST_PAUSE: Final = 15.0
_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")

Write = Callable[[], Awaitable[Any]]


class Recording:
    """Write until it is written, as long as the bot lives; each ref once at a time."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def until_written(self, name: str, write: Write, *, polling: bool) -> Any:
        """Return what `write` returns. For a webhook, raise StorageError after a while, and write on."""
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = asyncio.create_task(_insist(name, write), name=f"recording {name}")
            task.add_done_callback(lambda _: self._tasks.pop(name, None))
        await asyncio.wait({task}, timeout=None if polling else _WEBHOOK_WAITS)
        if not task.done():
            msg = f"{name} could not be recorded yet: Telegram has to repeat the update"
            raise StorageError(msg)
        return task.result()

    async def stop(self) -> None:
        """Give up what could not be written; polling has not confirmed it, and Telegram tells it again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _insist(name: str, write: Write) -> Any:
    pause = _FIRST_PAUSE
    while True:
        try:
            return await write()
        except (UsageError, RefConflict):
            raise  # no repetition mends that
        except Exception as error:  # noqa: BLE001 - the ledger, or Telegram when the owner is told
            _logger.error(  # noqa: TRY400 - its text says it all, and frames may hold a link
                "%s cannot be recorded yet, and is tried again: %s", name, _told(error)
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, StorageError) else type(error).__name__
