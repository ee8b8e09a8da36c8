"""The exit codes of every command: stable, and told by `tgmembership --help`."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from tgmembership_async import errors


class Exit(IntEnum):
    """What a command came to."""

    OK = 0
    FAILED = 1
    WRONG_USE = 2
    REFUSED = 3
    UNKNOWN = 4
    CREDENTIALS = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.OK: "all is well",
    Exit.FAILED: "it failed or is unfinished: running it again grants nobody twice",
    Exit.WRONG_USE: "wrong use or a bad file; nothing was sent",
    Exit.REFUSED: "the service refused, or the ref stands for another plan or member",
    Exit.UNKNOWN: "the service may or may not have acted: decide with `tgmembership grants`",
    Exit.CREDENTIALS: "the credentials were rejected",
    Exit.INTERRUPTED: "interrupted: run it again",
    Exit.PIPE_CLOSED: "whoever read the output went away, as `| head -1` does",
}
_BY_ERROR: Final[tuple[tuple[type[errors.TGMembershipError], Exit], ...]] = (
    (errors.UsageError, Exit.WRONG_USE),
    (errors.Unauthorized, Exit.CREDENTIALS),
    (errors.BadRequest, Exit.REFUSED),
    (errors.Forbidden, Exit.REFUSED),
    (errors.NotFound, Exit.REFUSED),
    (errors.Conflict, Exit.REFUSED),
    (errors.RefConflict, Exit.REFUSED),
    (errors.GrantHeld, Exit.UNKNOWN),
    (errors.OutcomeUnknown, Exit.UNKNOWN),
)


def exit_of(error: errors.TGMembershipError) -> Exit:
    """Return the exit code of a command that ends in `error`."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.FAILED)
