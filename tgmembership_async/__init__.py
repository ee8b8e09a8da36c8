"""The async Python client for TGmembership that knows whether the service may have acted."""

from typing import TYPE_CHECKING

from tgmembership_async.calls import CallEnded, Observer
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
from tgmembership_async.middleware import Middleware, Next
from tgmembership_async.protocol.gate import RateLimit
from tgmembership_async.protocol.outcome import Outcome
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.protocol.wire import Headers, Request, Response, Safety
from tgmembership_async.session import Session
from tgmembership_async.transport.base import Transport, TransportFailure
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
from tgmembership_async.version import __version__

if TYPE_CHECKING:
    from tgmembership_async.transport.aiohttp import AiohttpTransport
    from tgmembership_async.transport.httpx import HttpxTransport

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


def __getattr__(name: str) -> object:
    if name == "HttpxTransport":
        from tgmembership_async.transport.httpx import HttpxTransport  # noqa: PLC0415 - httpx is loaded on use

        return HttpxTransport
    if name == "AiohttpTransport":
        from tgmembership_async.transport.aiohttp import AiohttpTransport  # noqa: PLC0415 - an extra, loaded on use

        return AiohttpTransport
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
