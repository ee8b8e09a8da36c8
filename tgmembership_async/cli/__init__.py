"""The command `tgmembership`. What it needs is the extra `cli`, loaded only when it runs."""

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any


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
    sys.stderr.write("the command line needs an extra: pip install 'tgmembership-async[cli]'\n")
    sys.exit(2)
