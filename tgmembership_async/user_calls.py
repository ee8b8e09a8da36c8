"""Call an async function of the user's: whatever it raises is a failure of this call, and ends no background work."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import fail_after, get_cancelled_exc_class

from tgmembership_async.event_loop import is_stray_cancellation

T = TypeVar("T")


async def failure_of(function: Callable[[T], Awaitable[object]], argument: T, timeout: float) -> BaseException | None:  # noqa: ASYNC109 - fail_after is in here
    """Call a function for at most `timeout` seconds, and return what it raised, or None.

    A cancellation is raised, unless nobody requested it (the function awaited a task that somebody had cancelled). So
    are KeyboardInterrupt, and GeneratorExit, which ends the coroutine of the caller.
    """
    try:
        with fail_after(timeout):
            await function(argument)
    except get_cancelled_exc_class() as error:
        if not is_stray_cancellation():
            raise
        return error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a callback must not stop the program either
        return error
    return None
