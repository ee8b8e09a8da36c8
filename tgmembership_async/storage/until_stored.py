"""Repeat a write until a ledger or inbox stores it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import sleep

from tgmembership_async.errors import StorageError

T = TypeVar("T")


async def until_stored(
    write: Callable[[], Awaitable[T]],
    failed: Callable[[Exception], object],
    *,
    first: float,
    longest: float,
    retried: type[Exception] = StorageError,
) -> T:
    """Return what `write` returns; call it again while it raises `retried`, without end.

    The waits between the calls are `first` seconds, then twice as long each time, up to `longest`. `failed` is called
    with each exception, to log it; what it raises ends the repetition.
    """
    pause = first
    while True:
        try:
            return await write()
        except retried as error:
            failed(error)
        await sleep(pause)
        pause = min(2 * pause, longest)
