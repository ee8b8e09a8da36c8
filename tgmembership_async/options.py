"""The options of a Session as types, for functions that pass them on as `**options: Unpack[SessionOptions]`."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Literal, TypedDict

from tgmembership_async.calls import Observer
from tgmembership_async.errors import UsageError
from tgmembership_async.middleware import Middleware
from tgmembership_async.protocol.gate import RateLimit, SharedGate
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.protocol.wire import BodyFormat, Gateway503
from tgmembership_async.transport.base import Transport


class CallOptions(TypedDict, total=False):
    """The arguments of `Session.with_options`: limits of time in seconds, and the retries of calls."""

    deadline: float
    connect_timeout: float
    read_timeout: float
    grant_timeout: float
    retry: RetryPolicy


class ClientOptions(CallOptions, total=False):
    """The arguments of a `Project` besides `project_id` and `token`, and of `Project.from_env` besides `prefix`."""

    base_url: str
    max_connections: int
    rate_limit: RateLimit | None
    gate: SharedGate | None
    middleware: Iterable[Middleware]
    attempt_middleware: Iterable[Middleware]
    proxy: str | None
    transport: Literal["httpx", "aiohttp"] | Transport
    observer: Observer | None
    gateway_503: Gateway503


class SessionOptions(ClientOptions, total=False):
    """The arguments of a `Session` besides `bot_id` and `api_key`, and of `Session.from_env` besides `prefix`."""

    body_format: BodyFormat
    generation: Literal["legacy", "v1"]


def check_names(taker: str, known: type[CallOptions], given: Collection[str]) -> None:
    """Raise UsageError, with the option that was perhaps meant, unless all names are options of `known`."""
    options = list(known.__annotations__)
    for name in given:
        if name not in options:
            close = get_close_matches(name, options, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(options)}"
            msg = f"{taker} takes no option {name!r:.80}: {hint}"
            raise UsageError(msg)
