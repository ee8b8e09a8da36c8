"""Free ports for servers that are started later or restarted."""

import random
import socket

_PORTS = range(10_240, 32_768)  # outside of the range that the system gives to clients
_RANDOM = random.SystemRandom()  # two workers with one seed would choose the same


def free_port() -> int:
    """Return a free port of 127.0.0.1 that the system does not give to clients."""
    while True:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", _RANDOM.choice(_PORTS)))
            except OSError:
                continue
            return int(sock.getsockname()[1])
