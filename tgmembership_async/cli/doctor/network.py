"""Check proxy, host, TLS and clock, with the standard library instead of the package's own transport."""

import base64
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic
from typing import Any, Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from attrs import field, frozen

from tgmembership_async.cli.output import counted
from tgmembership_async.protocol.service_clock import http_date
from tgmembership_async.protocol.wire import Account
from tgmembership_async.transport.httpx import trusted
from tgmembership_async.transport.proxies import proxy_for

State = Literal["ok", "note", "failed", "skipped"]
_TIMEOUT: Final = 10.0
_PORTS: Final = {"http": 80, "https": 443}
_MAX_SKEW: Final = 60.0
_MIN_DAYS_LEFT: Final = 14


@frozen
class Check:
    """The result of one check; for a method also the fields of its reply, those missing, and those unknown."""

    check: str
    state: State
    told: str
    fields: Mapping[str, str] = field(factory=dict[str, str])
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def check_network(account: Account) -> Iterator[Check]:
    """Yield the checks of proxy, host and TLS."""
    url = proxy_for(account)
    proxy = None if url is None else urlsplit(url)
    if proxy is None:
        yield Check("proxy", "ok", "none")
    else:
        yield Check("proxy", "ok", f"{proxy.scheme}://{_address(proxy.hostname, proxy.port)}, from the environment")
        if proxy.scheme != "http":
            yield Check(
                "host", "skipped", "with this kind of proxy, only the calls below show whether the host is reachable"
            )
            return
    began = monotonic()
    connection = _connection(account, proxy)
    where = _address(account.host, account.port or _PORTS[account.scheme])
    try:
        connection.connect()
        took = 1000 * (monotonic() - began)
        yield Check("host", "ok", f"{where} is reachable, in {took:.0f} ms")
        yield _tls(connection.sock)
    except ssl.SSLError as error:
        yield Check("host", "ok", f"{where} is reachable")
        yield Check("TLS", "failed", _why_untrusted(error))
    except (OSError, HTTPException) as error:
        yield Check("host", "failed", f"{where}: {getattr(error, 'strerror', None) or str(error) or 'no answer'}")
    finally:
        connection.close()


def _address(host: str | None, port: int | None) -> str:
    shown = f"[{host}]" if host and ":" in host else host or ""
    return shown if port is None else f"{shown}:{port}"


def _connection(account: Account, proxy: SplitResult | None) -> HTTPConnection:
    """Return a connection, through the HTTP proxy if there is one; its errors contain no credentials."""
    host, port = account.host, account.port or _PORTS[account.scheme]
    to, at = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or _PORTS["http"])
    if account.scheme == "http":
        return HTTPConnection(to, at, timeout=_TIMEOUT)
    connection = HTTPSConnection(to, at, timeout=_TIMEOUT, context=trusted())
    if proxy is not None:
        connection.set_tunnel(host, port, _authorization(proxy))
    return connection


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _tls(sock: socket.socket) -> Check:
    if not isinstance(sock, ssl.SSLSocket):
        return Check("TLS", "ok", "none: plain HTTP on loopback")
    certificate: Any = sock.getpeercert()
    left = (datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC) - datetime.now(UTC)).days
    names = {name: value for part in certificate["issuer"] for name, value in part}
    by = names.get("organizationName") or names.get("commonName") or "an issuer without a name"
    text = f"{sock.version()}, certificate by {by}, valid for another {counted(left, 'day')}"
    return Check("TLS", "note" if left < _MIN_DAYS_LEFT else "ok", text)


def _why_untrusted(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate is not trusted: {error.verify_message}. Check the clock, and whether a proxy intercepts "
            "TLS; SSL_CERT_FILE names additional CAs"
        )
    return f"no TLS: {error.reason or 'the server closed the connection'}"


def check_clock(date: str | None, seen_at: datetime) -> Check:
    """Compare the Date header of an answer with the local time at which the answer arrived."""
    server_time = http_date(date or "")
    if server_time is None:
        return Check("clock", "skipped", "no answer had a Date header to compare with")
    ahead = (seen_at - server_time).total_seconds()
    if abs(ahead) <= _MAX_SKEW:
        return Check("clock", "ok", f"within {_MAX_SKEW:.0f} s of the service's clock")
    which = "ahead of" if ahead > 0 else "behind"
    advice = "correct it: webhook signatures are valid only for minutes, and certificates have dates too"
    return Check("clock", "failed", f"{abs(ahead):.0f} s {which} the service's clock; {advice}")
