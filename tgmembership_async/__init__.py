"""The async Python client for TGmembership that knows whether the service may have acted."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from tgmembership_async.errors import (
    APIError,
    BadRequest,
    CallError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    GrantError,
    GrantHeld,
    NotAuthentic,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    RefConflict,
    ReplyLost,
    ServerError,
    StorageError,
    TGMembershipError,
    Unauthorized,
    UnexpectedReply,
    Unreadable,
    UsageError,
    WebhookError,
)
from tgmembership_async.storage.optional import load
from tgmembership_async.version import __version__

if TYPE_CHECKING:
    from tgmembership_async.calls import CallEnded, Observer
    from tgmembership_async.middleware import Middleware, Next
    from tgmembership_async.protocol.gate import RateLimit, SharedGate
    from tgmembership_async.protocol.outcome import Outcome
    from tgmembership_async.protocol.retry import RetryPolicy
    from tgmembership_async.protocol.wire import Headers, Request, Response, Safety
    from tgmembership_async.session import Session
    from tgmembership_async.storage.postgres.gate import PostgresGate
    from tgmembership_async.transport.aiohttp import AiohttpTransport
    from tgmembership_async.transport.base import Transport, TransportFailure
    from tgmembership_async.transport.httpx import HttpxTransport
    from tgmembership_async.values.duration import Duration
    from tgmembership_async.values.models import (
        AccessToken,
        Count,
        PaymentMethodUsage,
        Plan,
        PlanPerformance,
        Reply,
        Revenue,
        Subscriber,
        Webhook,
    )
    from tgmembership_async.values.money import Money
    from tgmembership_async.values.secret import Secret

__all__ = [
    "APIError",
    "AccessToken",
    "AiohttpTransport",
    "BadRequest",
    "CallEnded",
    "CallError",
    "Conflict",
    "Count",
    "DeadlineExceeded",
    "Duration",
    "Forbidden",
    "GrantError",
    "GrantHeld",
    "Headers",
    "HttpxTransport",
    "Middleware",
    "Money",
    "Next",
    "NotAuthentic",
    "NotFound",
    "NotSent",
    "Observer",
    "Outcome",
    "OutcomeUnknown",
    "PaymentMethodUsage",
    "Plan",
    "PlanPerformance",
    "PostgresGate",
    "RateLimit",
    "RateLimited",
    "RefConflict",
    "Reply",
    "ReplyLost",
    "Request",
    "Response",
    "RetryPolicy",
    "Revenue",
    "Safety",
    "Secret",
    "ServerError",
    "Session",
    "SharedGate",
    "StorageError",
    "Subscriber",
    "TGMembershipError",
    "Transport",
    "TransportFailure",
    "Unauthorized",
    "UnexpectedReply",
    "Unreadable",
    "UsageError",
    "Webhook",
    "WebhookError",
    "__version__",
]

# Loaded when one of their names is first asked for: `tgmembership --help` and a test run that only finds our pytest
# plugin need none of them. Those that load somebody else's library come by name alone.
_HOMES: Final = (
    "session",
    "calls",
    "middleware",
    "protocol.outcome",
    "protocol.wire",
    "transport.base",
    "values.duration",
    "values.money",
)
_LOADING_MORE: Final = {
    "AiohttpTransport": ("transport.aiohttp", "aiohttp"),
    "HttpxTransport": ("transport.httpx", None),
    "PostgresGate": ("storage.postgres.gate", "postgres"),
}


def __getattr__(name: str) -> object:
    if name in _LOADING_MORE:
        home, extra = _LOADING_MORE[name]
        return globals().setdefault(name, load(f"{__name__}.{home}", name, extra))
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
