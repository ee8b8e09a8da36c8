"""Send through a user's own httpx client, on connections with its settings."""

from copy import copy
from functools import partial
from typing import Any, Final, cast

import httpcore
import httpx

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.wire import Response
from tgmembership_async.transport.httpcore import POOL, POOL_STATE, close_idle_with_data, drop_unconnected, pool_of_one
from tgmembership_async.transport.httpx_exchange import HttpxLane, SendTrace, connecting_in_time, read
from tgmembership_async.transport.lanes import discard
from tgmembership_async.transport.proxies import check_no_proxy

_SEND_OPTIONS: Final[dict[str, Any]] = {"stream": True, "auth": None, "follow_redirects": False}


def check_client(client: object) -> None:
    """Raise UsageError unless all transports of `client` are plain, without retries and HTTP/2."""
    if not isinstance(client, httpx.AsyncClient) or client.is_closed:
        msg = "HttpxTransport(client=...) takes an open httpx.AsyncClient"
        raise UsageError(msg)
    if client.event_hooks["response"]:
        msg = (
            "the client has event hooks for responses, which see requests without their real path and may consume "
            "or raise before the outcome of a grant is known: use an observer or attempt_middleware instead"
        )
        raise UsageError(msg)
    mounted: list[object] = [client._transport, *client._mounts.values()]  # noqa: SLF001 - httpx has no public way
    for transport in mounted:
        if transport is None:
            continue
        pool = getattr(transport, POOL, None)
        if type(transport) is not httpx.AsyncHTTPTransport or getattr(pool, "_retries", None):
            msg = (
                f"the client's {type(transport).__name__} is not a plain httpx.AsyncHTTPTransport without retries: "
                "another layer that repeats or redirects a request could grant a member twice"
            )
            raise UsageError(msg)
        if getattr(pool, "_http2", False):
            msg = "the client has http2=True, with which the library hpack logs the API key: turn HTTP/2 off"
            raise UsageError(msg)
        if not all(hasattr(pool, name) for name in POOL_STATE):
            msg = f"httpcore {httpcore.__version__} lacks an API used here: use another version, or no client"
            raise UsageError(msg)


def check_client_proxy(client: httpx.AsyncClient, wire: httpx.Request) -> None:
    """Raise UsageError if the user's client is closed, or would send through a proxy what must not go there."""
    if client.is_closed:
        msg = "the httpx client of this transport was closed: close it after the Session"
        raise UsageError(msg)
    pool = getattr(client._transport_for_url(wire.url), POOL, None)  # noqa: SLF001 - httpx has no public way
    if wire.url.scheme == "http":
        check_no_proxy("http", isinstance(pool, httpcore.AsyncHTTPProxy | httpcore.AsyncSOCKSProxy) or None)
    if isinstance(pool, httpcore.AsyncHTTPProxy):
        refuse_ipv6(wire.url.host)


def refuse_ipv6(host: str) -> None:
    """Raise UsageError for an IPv6 address, which httpcore sends to an HTTP proxy without brackets."""
    if ":" in host:
        msg = (
            f"httpx cannot connect to the IPv6 address {host} through an HTTP proxy: "
            "use a host name in base_url, no proxy, or transport='aiohttp'"
        )
        raise UsageError(msg)


async def through_client(client: httpx.AsyncClient, wire: httpx.Request, trace: SendTrace, *, unsafe: bool) -> Response:
    """Send through the user's client; an unsafe request gets a new connection instead of one of the pool."""
    transport = client._transport_for_url(wire.url)  # noqa: SLF001 - httpx has no public way
    if unsafe:
        return await _through_new_connection(client, transport, wire, trace)
    pool = getattr(transport, POOL)
    await close_idle_with_data(pool)
    try:
        answer = await connecting_in_time(client.send(wire, **_SEND_OPTIONS), wire, trace)
    except BaseException:
        if trace.stream is not None:  # httpcore leaves it open if a handshake is cancelled
            await discard(trace.stream)
        drop_unconnected(pool)
        raise
    try:
        return await read(answer, trace.reply_limit)
    finally:
        await answer.aclose()


async def _through_new_connection(
    client: httpx.AsyncClient, transport: httpx.AsyncBaseTransport, wire: httpx.Request, trace: SendTrace
) -> Response:
    own_client, own_transport = copy(client), cast("httpx.AsyncHTTPTransport", copy(transport))
    pool = pool_of_one(getattr(transport, POOL))
    setattr(own_transport, POOL, pool)
    vars(own_client).update(_transport=own_transport, _mounts={})
    lane = HttpxLane(own_transport, pool, partial(own_client.send, **_SEND_OPTIONS))
    try:
        response, _ = await lane.exchange(wire, trace)
    finally:
        await discard(lane)
    return response
