"""The command `tgmembership`. What it needs is the extra `cli`, loaded only when it runs."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, Final, NoReturn

_CANNOT_BE_WRITTEN: Final = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 is success, 2 is wrong use or a missing extra; `exit_codes` has the others."""
    out: Any = sys.stdout
    if isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # a character that a pipe cannot take must not end a run
    try:
        from tgmembership_async.cli.root import command  # noqa: PLC0415 - click may be missing, and is told of below

        command.main(args=arguments, prog_name="tgmembership")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("click", "rich", "dotenv"):
            raise
    except OSError as error:
        if error.errno not in _CANNOT_BE_WRITTEN or error.filename is not None:
            raise
        _give_up_output(error)
    sys.stderr.write("the command line needs an extra: pip install 'tgmembership-async[cli]'\n")
    sys.exit(2)


def _give_up_output(error: OSError) -> NoReturn:
    """Say in one sentence that the output cannot be written, as on a full disk, and exit."""
    # What is left in the buffer goes nowhere; Python would complain about it at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with suppress(OSError):
        sys.stderr.write(f"Error: the output cannot be written: {error.strerror or error}\n")
    sys.exit(1)
