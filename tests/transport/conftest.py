"""Run each test of this folder with each transport on each of its backends."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from canary import CANARY_KEY

import tgmembership_async
from tgmembership_async import RetryPolicy, Session

QUICK = RetryPolicy(transient_base=0.001, throttled_base=0.001)


@pytest.fixture
def backend(crossing: tuple[str, str]) -> str:
    return crossing[1]


@pytest.fixture
def way(library: str) -> Any:
    """Return the transport class, for tests that pass their own arguments."""
    return getattr(tgmembership_async, f"{library.capitalize()}Transport")


@pytest.fixture
def session(library: str) -> Callable[..., Session]:
    """Return a function that makes Sessions without backoff and without a proxy."""

    def session(url: str, **options: Any) -> Session:
        usual = {"proxy": None, "retry": QUICK, "transport": library}
        return Session(8047883872, CANARY_KEY, base_url=url, **{**usual, **options})

    return session


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port of 127.0.0.3 whose backlog is full, so that connecting hangs."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.3", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
