"""Ports for servers that start later, or again."""

import random
import socket

_PORTS = range(10_240, 32_768)  # the system gives others to clients, which could be there first
_RANDOM = random.SystemRandom()  # two workers with one seed would choose the same


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, and which nobody is given by chance."""
    while True:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", _RANDOM.choice(_PORTS)))
            except OSError:
                continue
            return int(sock.getsockname()[1])
