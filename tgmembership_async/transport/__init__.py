"""The way out: what a transport must do, the lanes of connections, and one module for each HTTP library."""

from typing import TYPE_CHECKING

from tgmembership_async.transport.base import Transport, TransportFailure

if TYPE_CHECKING:
    from tgmembership_async.transport.aiohttp import AiohttpTransport
    from tgmembership_async.transport.httpx import HttpxTransport

__all__ = ["AiohttpTransport", "HttpxTransport", "Transport", "TransportFailure"]


def __getattr__(name: str) -> object:
    if name == "HttpxTransport":
        from tgmembership_async.transport.httpx import HttpxTransport  # noqa: PLC0415 - httpx is loaded on use

        return HttpxTransport
    if name == "AiohttpTransport":
        from tgmembership_async.transport.aiohttp import AiohttpTransport  # noqa: PLC0415 - an extra, loaded on use

        return AiohttpTransport
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
