"""The exit codes of all commands. They are stable and listed in `tgmembership --help`."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from tgmembership_async import errors


class Exit(IntEnum):
    """The exit code of a command."""

    OK = 0
    FAILED = 1
    WRONG_USE = 2
    REFUSED = 3
    UNKNOWN = 4
    CREDENTIALS = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.OK: "success",
    Exit.FAILED: "failed or unfinished; it is safe to run the command again",
    Exit.WRONG_USE: "wrong usage or an invalid file; nothing was sent",
    Exit.REFUSED: "the service refused, or the ref belongs to another plan or member",
    Exit.UNKNOWN: "the outcome is unknown: decide with `tgmembership grants`",
    Exit.CREDENTIALS: "the credentials were rejected",
    Exit.INTERRUPTED: "interrupted; it is safe to run the command again",
    Exit.PIPE_CLOSED: "the reader of the output closed the pipe, as `| head -1` does",
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
    """Return the exit code of a command that raised `error`."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.FAILED)
