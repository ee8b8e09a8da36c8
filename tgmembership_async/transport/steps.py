"""Name the step of connecting in which an exception was raised, from the functions on its traceback.

So a connection that succeeds costs nothing, and the connector or client of a user is judged like our own. A name that
a later release of a library changes costs the step in a message, nothing else.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, cast

_LONGEST_CHAIN: Final = 10


class Step(StrEnum):
    """A step before a request can be written, as it is named in errors."""

    POOL = "pool"
    DNS = "DNS"
    TCP = "TCP"
    PROXY = "proxy"
    TLS = "TLS"


STEPS: Final[Mapping[str, Step]] = MappingProxyType(
    {
        # httpcore's pool of a user's client, and aiohttp's connector
        "AsyncPoolRequest.wait_for_connection": Step.POOL,
        "BaseConnector._wait_for_available_connection": Step.POOL,
        # this package, then asyncio, anyio, trio and aiohttp
        "_addresses": Step.DNS,
        "BaseEventLoop.getaddrinfo": Step.DNS,
        "getaddrinfo": Step.DNS,
        "TCPConnector._resolve_host": Step.DNS,
        # httpcore's backends, this package's, and aiohttp
        "AnyIOBackend.connect_tcp": Step.TCP,
        "AsyncioBackend.connect_tcp": Step.TCP,
        "TrioBackend.connect_tcp": Step.TCP,
        "TCPConnector._create_direct_connection": Step.TCP,
        "start_connection": Step.TCP,
        # httpcore: CONNECT and SOCKS, and aiohttp
        "AsyncTunnelHTTPConnection.handle_async_request": Step.PROXY,
        "_init_socks5_connection": Step.PROXY,
        "TCPConnector._create_proxy_connection": Step.PROXY,
        # httpcore's streams, this package's, and aiohttp, whose third function does what is left after TCP
        "AnyIOStream.start_tls": Step.TLS,
        "TrioStream.start_tls": Step.TLS,
        "_Stream.start_tls": Step.TLS,
        "TCPConnector._start_tls_connection": Step.TLS,
        "TCPConnector._wrap_create_connection": Step.TLS,
    }
)
"""The qualified names of the functions in which each step is taken; the innermost one on a traceback counts."""


def step_of(error: BaseException) -> Step | None:
    """Return the step of connecting that an exception, also a cancellation, came from; None if it is not known."""
    steps = [STEPS[name] for one in chain_of(error) for name in _functions(one) if name in STEPS]
    return steps[-1] if steps else None


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: on trio, the outer ones have no details."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        yield error
        inner = cast("Any", error).exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__


def _functions(error: BaseException) -> Iterator[str]:
    """Yield the qualified names of the functions on a traceback, the outermost first."""
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_qualname
        traceback = traceback.tb_next
