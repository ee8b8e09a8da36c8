"""Serve an application on a port of this machine with uvicorn, until Ctrl-C."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tgmembership_async.errors import UsageError

_TICK: Final = 0.01


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UsageError if the port is not available."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        msg = f"cannot listen on port {port} of {host}: {error.strerror}; use another port, or 0 for any free one"
    raise UsageError(msg)


async def serve(app: Any, listening: socket.socket, started: Callable[[], Awaitable[object]]) -> None:
    """Serve, and call `started` once requests are answered. Raises KeyboardInterrupt after Ctrl-C."""
    import uvicorn  # noqa: PLC0415 - an extra, which the caller has checked

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(_TICK)
    try:
        await started()
        await serving
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
