"""The command `tgmembership`. It needs the extra `cli`, which is imported only when the command runs."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, Final, NoReturn

from tgmembership_async.extras import install

_CANNOT_BE_WRITTEN: Final = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. 0 is success, 2 wrong usage or a missing extra; `exit_codes` has the others."""
    out: Any = sys.stdout
    if isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # a character that the output's encoding lacks must not end a run
    try:
        from tgmembership_async.cli.root import command  # noqa: PLC0415 - click may be missing: handled below

        command.main(args=arguments, prog_name="tgmembership")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("click", "platformdirs", "rich", "dotenv", "tomlkit"):
            raise
    except KeyboardInterrupt:  # before click handles it
        sys.stderr.write("Interrupted.\n")
        from tgmembership_async.cli.exit_codes import Exit  # noqa: PLC0415 - not loaded for `--help`

        sys.exit(Exit.INTERRUPTED)
    except OSError as error:
        if error.errno not in _CANNOT_BE_WRITTEN or error.filename is not None:
            raise
        _exit_without_output(error)
    sys.stderr.write(f"The command line needs an extra: {install('cli')}\n")
    sys.exit(2)


def _exit_without_output(error: OSError) -> NoReturn:
    """Print in one sentence that the output cannot be written, for example because the disk is full, and exit."""
    # Discard the rest of the buffer: otherwise Python prints a second error at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with suppress(OSError):
        sys.stderr.write(f"Error: the output cannot be written: {error.strerror or error}\n")
    sys.exit(1)
