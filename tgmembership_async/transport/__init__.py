"""Transports: their protocol, the connection pool, and one module for each HTTP library."""

from typing import TYPE_CHECKING

from tgmembership_async.lazy import lazy_attributes
from tgmembership_async.transport.base import Transport, TransportFailure

if TYPE_CHECKING:
    from tgmembership_async.transport.aiohttp import AiohttpTransport
    from tgmembership_async.transport.httpx import HttpxTransport

__all__ = ["AiohttpTransport", "HttpxTransport", "Transport", "TransportFailure"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {"transport.aiohttp": ["AiohttpTransport"], "transport.httpx": ["HttpxTransport"]},
        {"AiohttpTransport": "aiohttp"},
    )
