"""The default transport, on httpx."""

import logging
import ssl
from functools import cached_property
from typing import Final, TypeGuard, cast

import httpcore
import httpx
from anyio import get_cancelled_exc_class

from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.extras import install
from tgmembership_async.protocol.wire import Account, Request, Response, Safety
from tgmembership_async.transport import trust
from tgmembership_async.transport.httpcore import POOL, AsyncioBackend, OneConnection, TrioBackend
from tgmembership_async.transport.httpx_client import check_client, check_client_proxy, refuse_ipv6, through_client
from tgmembership_async.transport.httpx_exchange import HttpxLane, SendTrace, judged, wire_request
from tgmembership_async.transport.lanes import KEEP_ALIVE, SHARED, Lanes
from tgmembership_async.transport.proxies import HTTP_SCHEMES, SOCKS_SCHEMES, check_proxy, masks_of, proxy_url, route
from tgmembership_async.values.learned_secrets import REDACT
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, hides_arguments

_NO_SECRETS: Final = Scrubber({})
_SCHEMES: Final = HTTP_SCHEMES + SOCKS_SCHEMES
_ONE_CONNECTION: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE)


def trusted() -> ssl.SSLContext:
    """Return the default TLS context: certifi's CAs, or those of SSL_CERT_FILE.

    Raises UsageError if an environment variable for TLS is not usable.
    """
    return trust.trusted(httpx.create_ssl_context)


class HttpxTransport:
    """Send through httpx, on connections of its own or through your `client`, which you close.

    Give each Session a transport of its own: its connections lead to one service. `proxy` is a URL, None, or "env" for
    the environment variables; `ssl_context` is for a CA of your own, for example. A `client` must use plain
    `httpx.AsyncHTTPTransport`s without retries and HTTP/2, and no event hooks for responses, or UsageError is raised:
    others may repeat requests, not call httpcore's `trace` extension, or consume a reply. It keeps its proxy, its TLS
    settings and its pool. An unsafe request gets a new connection with the same settings, which is closed afterwards,
    so that a duplicate reply on a pooled connection is never read as the reply to a grant. APM agents and mocks that
    wrap httpx or httpcore see a path without the API key.
    """

    @hides_arguments
    def __init__(
        self,
        *,
        client: httpx.AsyncClient | None = None,
        proxy: str | None = "env",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if client is not None:
            check_client(client)
        elif proxy not in (None, "env"):
            _check_proxy(proxy)
        self._client = client
        self._proxy = None if proxy is None else Secret(proxy)
        self._ssl_context = ssl_context
        self._lanes: Lanes[HttpxLane] | None = None
        self._account: Account | None = None
        self._scrubber = _NO_SECRETS

    async def send(self, request: Request) -> Response:
        """Send one request once. Raise TransportFailure if there is no complete response."""
        request.progress.begun = False
        if request.account is not self._account:  # adding it each time takes a thirtieth of a call
            if self._lanes is not None and request.account != self._account:
                raise UsageError(SHARED)
            self._account = request.account
            self._scrubber = request.account.scrubber_with(masks_of(proxy_url(request.account, self._proxy)))
            REDACT.add(self._scrubber)
        trace = SendTrace(request.progress, request.account.scheme, request.reply_limit)
        if self._client is None and self._lanes is None:
            self._lanes = self._make_lanes(request.account)
        ended: BaseException
        try:
            wire = wire_request(request, trace)
            unsafe = request.safety is Safety.UNSAFE
            if self._lanes is not None:
                return await self._lanes.run(lambda lane: lane.exchange(wire, trace), unsafe=unsafe)
            client = cast("httpx.AsyncClient", self._client)
            check_client_proxy(client, wire)
            return await through_client(client, wire, trace, unsafe=unsafe)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - judged by what was sent
            ended = judged(error, trace, request, self._scrubber)
        except BaseExceptionGroup as group:
            ended = cancellation_in(group)
        # Outside of `except`, so that its traceback has no frames of httpx, httpcore or h11.
        raise ended

    async def aclose(self) -> None:
        """Close the transport's own connections; your client stays open."""
        if self._lanes is not None:
            await self._lanes.aclose()

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        return self._ssl_context or trusted()

    @hides_arguments
    def _make_lanes(self, account: Account) -> Lanes[HttpxLane]:
        url = _check_proxy(route(account, self._proxy, _SCHEMES))
        if url is not None and url.startswith(HTTP_SCHEMES):
            refuse_ipv6(account.host)
        encrypted_proxy = url is not None and url.startswith("https://")
        encrypted = account.scheme == "https" or encrypted_proxy
        # Loading the CAs takes 20 ms: once for all lanes, and never without TLS, where this context trusts nobody.
        verify = self._verify if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        backend = AsyncioBackend() if asyncio_loop() is not None else TrioBackend()
        proxy = None if url is None else httpx.Proxy(url, ssl_context=self._verify if encrypted_proxy else None)

        def lane() -> HttpxLane:
            transport = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, proxy=proxy, limits=_ONE_CONNECTION)
            connection = OneConnection(getattr(transport, POOL), backend)
            setattr(transport, POOL, connection)
            return HttpxLane(transport, connection)

        return Lanes(lane)


def _check_proxy(url: str | None) -> str | None:
    if url is not None and check_proxy(url, _SCHEMES).startswith(SOCKS_SCHEMES):
        try:
            import socksio  # type: ignore[import-untyped,unused-ignore] # noqa: F401, PLC0415 - an extra
        except ImportError:
            msg = f"a SOCKS proxy requires an extra: {install('socks')}"
            raise UsageError(msg) from None
    return url


def cancellation_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the cancellation that trio wraps in a group while connecting, or the group if it holds more."""
    cancelled, more = group.split(get_cancelled_exc_class())
    found: BaseException = group if cancelled is None or more is not None else cancelled
    while found is not group and _is_group(found):
        found = found.exceptions[0]
    return found


def _is_group(error: BaseException) -> TypeGuard[BaseExceptionGroup[BaseException]]:
    return isinstance(error, BaseExceptionGroup)


# httpcore's DEBUG logs may show a redirect that echoes our path.
for _name in ("connection", "http11", "http2", "proxy", "socks"):
    logging.getLogger(f"{httpcore.__name__}.{_name}").addFilter(REDACT)
