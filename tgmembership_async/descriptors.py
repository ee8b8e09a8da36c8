"""The limit of file descriptors of this process, and the errors that show that it is reached."""

import errno
from typing import Final, cast

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

RESERVED: Final = 32
"""File descriptors for everything but connections to the service: ledger, event loop, name server, logs."""
_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


def shortage(connections: int) -> str | None:
    """Return a warning if this number of connections may exceed the limit of file descriptors, else None."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + RESERVED
    if limit in (resource.RLIM_INFINITY, -1) or limit >= needed:
        return None
    return (
        f"{connections} connections at a time may need {needed} file descriptors, and this process may have {limit}: "
        f"raise the limit (ulimit -n {needed}), or lower the number of connections"
    )


def is_short(error: BaseException | None) -> bool:
    """Tell whether no file descriptor was left, from an error or from those that it was raised from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NONE_LEFT:
            return True
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            return any(is_short(inner) for inner in group.exceptions)
        error = error.__cause__ or error.__context__
    return False
