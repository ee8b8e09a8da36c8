"""Repeat a write until a ledger or inbox stores it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import sleep

from tgmembership_async.errors import StorageError, TGMembershipError

T = TypeVar("T")


def recurs(error: Exception) -> bool:
    """Tell whether a write would fail with this error again; failed storage and foreign exceptions may recover."""
    return isinstance(error, TGMembershipError) and not isinstance(error, StorageError)


async def until_stored(
    write: Callable[[], Awaitable[T]],
    failed: Callable[[Exception], object],
    *,
    first: float,
    longest: float,
) -> T:
    """Return what `write` returns; call it again while it raises an exception, without end.

    The waits between the calls are `first` seconds, then twice as long each time, up to `longest`. `failed` is called
    with each exception, to log it, or to raise one that would recur: that ends the repetition.
    """
    pause = first
    while True:
        try:
            return await write()
        except Exception as error:  # noqa: BLE001 - a user's own ledger may raise any error
            failed(error)
        await sleep(pause)
        pause = min(2 * pause, longest)
