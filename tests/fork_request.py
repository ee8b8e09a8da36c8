"""Request a fork of a preloaded process; as a script, act as that fork.

A shell that starts a command by its name starts this script in its place. It imports little, so it costs little.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Final

ADDRESS: Final = "TGM_FORKS"  # the environment variable with the address of the fork server of commands


def ask(
    arguments: Sequence[str],
    given: Sequence[int],
    *,
    server: str = ADDRESS,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
    leads: bool = False,
) -> socket.socket:
    """Request a fork, and return the socket that yields its process id, and then its wait status.

    `server` is the environment variable with the address of a fork server. As for `subprocess.Popen`, folder and
    environment are by default the present ones.
    """
    job = {
        "arguments": arguments,
        "folder": folder or os.getcwd(),  # noqa: PTH109 - pathlib takes longer to import than the rest
        "environment": dict(os.environ if environment is None else environment),
        "leads": leads,
    }
    told = socket.socket(socket.AF_UNIX)
    told.connect(os.environ[server])
    socket.send_fds(told, [b"."], given)
    told.sendall(json.dumps(job).encode() + b"\n")
    return told


def main(arguments: Sequence[str]) -> int:
    """Run Python with these arguments in a fork, forward signals, and return its exit code."""
    with ask(arguments, (0, 1, 2)).makefile() as told:
        pid = int(told.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        return os.waitstatus_to_exitcode(int(told.readline()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
