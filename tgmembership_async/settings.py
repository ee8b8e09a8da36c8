"""Check the arguments of a Session, and read its settings from the environment."""

import codecs
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Final, cast, get_args

from attrs import field, frozen

from tgmembership_async.calls import Observer
from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install
from tgmembership_async.middleware import Middleware
from tgmembership_async.protocol.endpoints import GENERATIONS, check_id, is_loopback, split_url
from tgmembership_async.protocol.gate import RateLimit, SharedGate
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.protocol.wire import Account, BodyFormat, BotAccount, Gateway503, Timeouts
from tgmembership_async.transport.base import Transport
from tgmembership_async.transport.proxies import check_no_proxy
from tgmembership_async.transport.trust import check_environment
from tgmembership_async.values.secret import Secret, hides_arguments

BASE_URL: Final = "https://api.tgmembership.com"
_FORBIDDEN_IN_A_KEY: Final = re.compile(r"[/?#%\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def seconds(name: str, value: object) -> float:
    """Return a finite number of seconds above 0, or raise UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
        msg = f"{name} must be a number of seconds above 0, not {value!r:.80}"
        raise UsageError(msg)
    return float(value)


@frozen(kw_only=True)
class Options:
    """The options that views of one Session may override. All are seconds, except `retry`."""

    deadline: float = field()
    connect_timeout: float = field()
    read_timeout: float = field()
    grant_timeout: float = field()
    retry: RetryPolicy = field()

    def __attrs_post_init__(self) -> None:
        for name in ("deadline", "connect_timeout", "read_timeout", "grant_timeout"):
            seconds(name, getattr(self, name))
        if not isinstance(self.retry, RetryPolicy):
            msg = f"retry must be a RetryPolicy, not {type(self.retry).__name__}"
            raise UsageError(msg)

    @cached_property
    def for_grants(self) -> Timeouts:
        """Return the timeouts of one attempt to grant, with a bound for the whole exchange."""
        return Timeouts(self.connect_timeout, self.grant_timeout, self.grant_timeout)

    @cached_property
    def for_others(self) -> Timeouts:
        """Return the timeouts of one attempt of any other method."""
        return Timeouts(self.connect_timeout, self.read_timeout)


@hides_arguments
def account(  # noqa: PLR0917 - the order of a Session's
    bot_id: object,
    api_key: object,
    base_url: object = BASE_URL,
    body_format: object = "json",
    gateway_503: object = "unknown",
    generation: object = "legacy",
) -> BotAccount:
    """Return the account. Raises UsageError, without the API key in the message."""
    if body_format not in get_args(BodyFormat):
        msg = f"body_format must be 'json' or 'form', not {body_format!r:.80}"
        raise UsageError(msg)
    if generation not in GENERATIONS:
        msg = f"generation must be 'legacy' or 'v1', not {generation!r:.80}; v2 is a client of its own, project.Project"
        raise UsageError(msg)
    if isinstance(bot_id, str):  # it may be the API key: do not show it
        msg = "bot_id must be an int, not a str; was api_key passed as the first argument?"
        raise UsageError(msg)
    scheme, host, port, prefix = origin(base_url)
    api = GENERATIONS[str(generation)]
    return BotAccount(
        scheme,
        host,
        port,
        prefix + api.dialect.path,
        check_id("bot_id", bot_id),
        _key(api_key),
        body_format=cast("BodyFormat", body_format),
        gateway_503=checked_gateway_503(gateway_503),
        dialect=api.dialect,
    )


def checked_gateway_503(value: object) -> Gateway503:
    """Return the outcome of a gateway's 503, or raise UsageError."""
    if value not in get_args(Gateway503):
        msg = f"gateway_503 must be 'unknown' or 'turned away', not {value!r:.80}"
        raise UsageError(msg)
    return cast("Gateway503", value)


def _key(value: object) -> Secret:
    key = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(key, str):
        msg = f"api_key must be a str or a Secret, not {type(key).__name__}"
        raise UsageError(msg)
    if not key:
        msg = "api_key is empty: copy it from the bot's settings on TGmembership"
        raise UsageError(msg)
    if _FORBIDDEN_IN_A_KEY.search(key):
        msg = "api_key has white space, a control character or one of '/?#%': remove line breaks or quotes around it"
        raise UsageError(msg)
    return Secret(key)


def service_of(account: Account) -> str:
    """Return an identifier of an account's service: its origin and the path of its API generation.

    A loopback origin has no port, because fake services use a new port each time. Each generation is a service of its
    own: none can be queried about grants of another.
    """
    where = f"{account.scheme}://{account.host}" if is_loopback(account.host) else account.origin
    return where + account.dialect.path


def origin(base_url: object) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path of a base URL, or raise UsageError."""
    wrong = "base_url must have a scheme and a host, optionally a port and a path, such as https://api.tgmembership.com"
    parts = split_url(base_url)
    if (
        parts is None
        or not str(base_url).isascii()
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.port == 0
    ):
        raise UsageError(wrong)
    if parts.username is not None or parts.query or parts.fragment or "%" in parts.path:
        msg = "base_url must not contain a user name, a query, a fragment or '%'"
        raise UsageError(msg)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        msg = "base_url must be https://, because each request contains the credentials; http:// is for loopback hosts"
        raise UsageError(msg)
    return parts.scheme, parts.hostname, parts.port, parts.path.rstrip("/")


@hides_arguments
def from_environment(prefix: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return arguments from the variables BOT_ID, API_KEY or API_KEY_FILE, BASE_URL and GENERATION after `prefix`."""
    bot_id = environ.get(f"{prefix}BOT_ID", "").strip()
    if not bot_id and not any(environ.get(f"{prefix}{name}") for name in ("API_KEY", "API_KEY_FILE")):
        msg = f"set {prefix}BOT_ID to the id of your bot, and {prefix}API_KEY or {prefix}API_KEY_FILE to its key"
        raise UsageError(msg)
    if not (bot_id.isascii() and bot_id.isdigit() and len(bot_id) < 20):  # noqa: PLR2004 - 64 bits
        msg = f"set {prefix}BOT_ID to the id of your bot" + (": its value is not a number" if bot_id else "")
        raise UsageError(msg)
    found: dict[str, Any] = {"bot_id": int(bot_id), "api_key": secret_from(f"{prefix}API_KEY", environ)}
    for name in ("base_url", "generation"):
        if environ.get(f"{prefix}{name.upper()}"):
            found[name] = environ[f"{prefix}{name.upper()}"].strip()
    return found


@hides_arguments
def secret_from(name: str, environ: Mapping[str, str]) -> Secret:
    """Return the secret in the variable `name`, or in the file whose path is in the variable `name` + "_FILE"."""
    key, path = environ.get(name), environ.get(f"{name}_FILE")
    if bool(key) == bool(path):
        msg = f"set either {name} or {name}_FILE{', not both' if key else ''}"
        raise UsageError(msg)
    if key:
        return Secret(_bare(key))
    return secret_in(Path(str(path)), f"{name}_FILE")


def secret_in(file: Path, name: str) -> Secret:
    """Return the text of a file, without surrounding white space and byte order mark; UsageError names `name`."""
    try:
        return Secret(_bare(_text(file.read_bytes())))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    msg = f"{name} cannot be read: {reason}"
    raise UsageError(msg)


def _text(content: bytes) -> str:
    # `>` in Windows PowerShell 5.1 writes UTF-16; Notepad writes a byte order mark before UTF-8.
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8")


def _bare(text: str) -> str:
    return text.strip().removeprefix("\ufeff").strip()


def transport(value: object, proxy: object, scheme: str) -> Transport:
    """Return the transport for the `transport` argument of a Session; import its library now."""
    if proxy is not None and not isinstance(proxy, str):
        msg = f"proxy must be a URL, None or 'env', not {type(proxy).__name__}"
        raise UsageError(msg)
    if isinstance(value, str):
        check_no_proxy(scheme, proxy)
    if value == "httpx":
        from tgmembership_async.transport.httpx import HttpxTransport  # noqa: PLC0415 - loaded on use

        return HttpxTransport(proxy=proxy)
    if value == "aiohttp":
        try:
            from tgmembership_async.transport.aiohttp import AiohttpTransport  # noqa: PLC0415 - loaded on use
        except ImportError:
            msg = f"transport='aiohttp' requires an extra: {install('aiohttp')}"
            raise UsageError(msg) from None
        except OSError:
            check_environment()  # importing aiohttp creates its TLS settings
            raise
        return AiohttpTransport(proxy=proxy)
    if isinstance(value, str | type) or not isinstance(value, Transport):
        msg = f"transport must be 'httpx', 'aiohttp' or an object with send() and aclose(), not {value!r:.80}"
        raise UsageError(msg)
    return value


def positive_int(value: object, name: str = "max_connections") -> int:
    """Return an int of at least 1, or raise UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name} must be an int of at least 1, not {value!r:.80}"
        raise UsageError(msg)
    return value


def rate_limit(value: object) -> RateLimit | None:
    """Return the rate limit, or raise UsageError."""
    if value is not None and not isinstance(value, RateLimit):
        msg = f"rate_limit must be a RateLimit(calls, per_seconds) or None, not {type(value).__name__}"
        raise UsageError(msg)
    return value


def shared_gate(value: SharedGate | None) -> SharedGate | None:
    """Return the shared gate, or raise UsageError."""
    if value is not None and (isinstance(value, type) or not isinstance(value, SharedGate)):
        msg = f"gate must be a SharedGate, such as PostgresGate(conninfo), or None, not {value!r:.80}"
        raise UsageError(msg)
    return value


def check_middleware(name: str, middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """Return the middleware as a tuple, or raise UsageError."""
    given: object = middleware
    found = tuple(middleware) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if found is None or not all(callable(layer) for layer in found):
        msg = f"{name} must be an iterable of `async (request, call_next) -> Response`"
        raise UsageError(msg)
    return found


def observer(value: Observer | None) -> Observer | None:
    """Return the observer, or raise UsageError."""
    if value is not None and not callable(value):
        msg = f"observer must be callable, not {type(value).__name__}"
        raise UsageError(msg)
    return value
