"""The description of a library's exception uses known fields, never its message."""

import errno
import os
import socket
import ssl
import traceback
from typing import Any

import httpcore
import httpx
import pytest
from aiohttp import ClientHttpProxyError
from canary import CANARY_KEY, CANARY_SECRET

from tgmembership_async import CallError, NotSent
from tgmembership_async.protocol.wire import Request
from tgmembership_async.transport.reasons import SafeMessage, reason_of
from tgmembership_async.values.scrubber import Scrubber

SCRUBBER = Scrubber({CANARY_KEY: "***"})
SAID = f"Authorization: Basic {CANARY_SECRET}"


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def status_error() -> ClientHttpProxyError:
    info: Any = None
    return ClientHttpProxyError(info, (), status=407, message=SAID)


ERRORS: dict[str, tuple[BaseException, str]] = {
    "its words": (RuntimeError(SAID), "RuntimeError"),
    "a class with a meaning": (httpx.ReadTimeout(SAID), "ReadTimeout: no data in time"),
    "errno": (
        caused(httpx.ConnectError(SAID), OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))),
        f"ConnectError: [Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}",
    ),
    "no name": (
        caused(httpx.ConnectError(SAID), socket.gaierror(-2, "Name or service not known")),
        "ConnectError: [Errno -2] Name or service not known",
    ),
    "a group": (
        caused(httpcore.ConnectError(SAID), ExceptionGroup("", [OSError(errno.EPERM, "no")])),
        f"ConnectError: [Errno {errno.EPERM}] no",
    ),
    "a proxy's status": (httpx.ProxyError(f"407 {SAID}"), "ProxyError: the proxy answered 407"),
    "a proxy without a status": (httpx.ProxyError(SAID), "ProxyError"),
    "aiohttp's field": (status_error(), "ClientHttpProxyError: the proxy answered 407"),
    "our own": (
        caused(httpx.ReadError(SAID), TimeoutError(SafeMessage(f"nothing for {CANARY_KEY}"))),
        "ReadError: nothing for ***",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_known_fields_are_shown(name: str) -> None:
    error, told = ERRORS[name]
    assert reason_of(error, SCRUBBER) == told


@pytest.mark.parametrize("status", [407, 403])
def test_a_proxys_password_is_in_no_error(
    status: int, serve: Any, run: Any, client_tls: ssl.SSLContext, session: Any, way: Any
) -> None:
    """A proxy may echo the request in its status line, which libraries quote."""

    def echo(connection: Any) -> None:
        connection.request()
        basic = b"dXNlcjp" + CANARY_SECRET.encode()
        words = f"user:{CANARY_SECRET} {CANARY_KEY}".encode()
        connection.send(b"HTTP/1.1 %d %b %b\r\ncontent-length: 0\r\n\r\n" % (status, words, basic))

    proxy = serve(echo)

    async def scenario() -> None:
        transport = way(proxy=f"http://user:{CANARY_SECRET}@127.0.0.1:{proxy.port}", ssl_context=client_tls)
        async with session("https://127.0.0.1:9", transport=transport) as tg:
            with pytest.raises(NotSent, match=f"the proxy answered {status}") as caught:
                await tg.add_member(1, 42)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert CANARY_SECRET not in "".join(shown.format()) + repr(caught.value)

    run(scenario)


def test_an_error_of_a_transport_of_your_own_is_not_quoted(run: Any, session: Any) -> None:
    class Broken:
        async def send(self, request: Request) -> Any:
            raise OSError(errno.EPIPE, "gone") from ValueError(f"{CANARY_SECRET} {request.url}")

        async def aclose(self) -> None:
            return

    async def scenario() -> None:
        async with session("https://127.0.0.1:9", transport=Broken()) as tg:
            with pytest.raises(CallError, match="gone") as caught:
                await tg.get_plans()
        assert CANARY_SECRET not in str(caught.value)

    run(scenario)
