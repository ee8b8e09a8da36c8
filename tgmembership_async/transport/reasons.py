"""Describe a transport error in one short line, from fields that are known to be safe.

The message of a library's exception is never used: it may contain a URL, a header or a password. Used are the class,
the errno, the reason of TLS, the status of a proxy, the address, and messages of this package (`SafeMessage`).
"""

import os
import re
import ssl
from collections.abc import Mapping
from typing import Final

from tgmembership_async.protocol.envelope import printable
from tgmembership_async.transport.steps import Step, chain_of
from tgmembership_async.values.scrubber import Scrubber

_SHOWN: Final = 200
_STATUS: Final = re.compile(r"[1-5]\d\d(?!\d)")
_MEANS: Final[Mapping[str, str]] = {
    "ConnectTimeout": "no connection in time",
    "ConnectionTimeoutError": "no connection in time",
    "PoolTimeout": "no connection became free in time",
    "ReadTimeout": "no data in time",
    "SocketTimeoutError": "no data in time",
    "WriteTimeout": "the request could not be written in time",
    "ReadError": "the connection broke off",
    "WriteError": "the connection broke off",
    "CloseError": "the connection broke off",
    "ClientPayloadError": "the reply broke off",
    "RemoteProtocolError": "the reply broke off, or is not HTTP",
    "ServerDisconnectedError": "the peer closed the connection before a complete reply",
    "BadHttpMessage": "the reply is not HTTP",
    "BadHttpMethod": "the reply is not HTTP",
    "BadStatusLine": "the reply is not HTTP",
    "InvalidHeader": "the reply is not HTTP",
    "LineTooLong": "a line of the reply is too long",
    "LocalProtocolError": "the request is not valid HTTP",
    "TimeoutError": "it took too long",
}


class SafeMessage(str):
    """A message written by this package, safe to show even as the argument of a library's exception."""

    __slots__ = ()


NOTHING_SENT: Final = SafeMessage("the other side has closed the connection, or sent data before the request")


def reason_of(error: BaseException, scrubber: Scrubber, step: Step | None = None) -> str:
    """Return the step that failed, if any, the class name of an error and its cause, scrubbed by `scrubber`."""
    name, chain = type(error).__name__, list(chain_of(error))
    name = name if step is None else f"{step}: {name}"
    known = (field(one) for field in (_safe_message, _tls, _os, _status, _meaning) for one in chain)
    described = ", ".join(filter(None, (_where(error), next(filter(None, known), None))))
    return f"{name}: {printable(scrubber.scrub_text(described), _SHOWN)}" if described else name


def os_reason(error: OSError) -> str:
    """Return the errno of an OSError with its meaning."""
    return _os(error) or type(error).__name__


def _safe_message(error: BaseException) -> str | None:
    return str(error.args[0]) if error.args and isinstance(error.args[0], SafeMessage) else None


def _tls(error: BaseException) -> str | None:
    # Other libraries raise some without these fields.
    if not isinstance(error, ssl.SSLError | ssl.CertificateError):
        return None
    why, reason = getattr(error, "verify_message", None), getattr(error, "reason", None)
    return f"certificate verify failed: {why}" if why else f"TLS: {reason}" if reason else None


def _os(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or not isinstance(error.errno, int):
        return None
    return f"[Errno {error.errno}] {error.strerror or os.strerror(error.errno)}"


def _status(error: BaseException) -> str | None:
    """Return a proxy's HTTP status: a field in aiohttp, the first word of the message in httpx."""
    name = type(error).__name__
    if name == "ClientHttpProxyError":
        return f"the proxy answered {getattr(error, 'status', 0):d}"
    found = _STATUS.match(str(error)) if name == "ProxyError" else None
    return None if found is None else f"the proxy answered {found[0]}"


def _meaning(error: BaseException) -> str | None:
    return _MEANS.get(type(error).__name__)


def _where(error: BaseException) -> str | None:
    """Return the host and port that could not be reached, if the error has such fields."""
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    return f"{host}:{port}" if isinstance(host, str) and isinstance(port, int) else None
