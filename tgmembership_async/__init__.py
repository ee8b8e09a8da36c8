"""An async Python client for TGmembership whose errors say whether the service may have acted."""

from typing import TYPE_CHECKING

from tgmembership_async.errors import (
    Advice,
    APIError,
    BadRequest,
    CallError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    GrantError,
    GrantHeld,
    InvalidValue,
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
from tgmembership_async.lazy import lazy_attributes
from tgmembership_async.version import __version__

if TYPE_CHECKING:
    from tgmembership_async.calls import CallEnded, Observer
    from tgmembership_async.middleware import Middleware, Next
    from tgmembership_async.options import CallOptions, SessionOptions
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
    "Advice",
    "AiohttpTransport",
    "BadRequest",
    "CallEnded",
    "CallError",
    "CallOptions",
    "Conflict",
    "Count",
    "DeadlineExceeded",
    "Duration",
    "Forbidden",
    "GrantError",
    "GrantHeld",
    "Headers",
    "HttpxTransport",
    "InvalidValue",
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
    "SessionOptions",
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

if not TYPE_CHECKING:  # `tgmembership --help` and a test run that only finds our pytest plugin need none of these
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "calls": ["CallEnded", "Observer"],
            "middleware": ["Middleware", "Next"],
            "options": ["CallOptions", "SessionOptions"],
            "protocol.gate": ["RateLimit", "SharedGate"],
            "protocol.outcome": ["Outcome"],
            "protocol.retry": ["RetryPolicy"],
            "protocol.wire": ["Headers", "Request", "Response", "Safety"],
            "session": ["Session"],
            "storage.postgres.gate": ["PostgresGate"],
            "transport.aiohttp": ["AiohttpTransport"],
            "transport.base": ["Transport", "TransportFailure"],
            "transport.httpx": ["HttpxTransport"],
            "values.duration": ["Duration"],
            "values.models": [
                *("AccessToken", "Count", "PaymentMethodUsage", "Plan", "PlanPerformance", "Reply", "Revenue"),
                *("Subscriber", "Webhook"),
            ],
            "values.money": ["Money"],
            "values.secret": ["Secret"],
        },
        {"AiohttpTransport": "aiohttp", "PostgresGate": "postgres"},
    )
