"""All exceptions of the package.

    TGMembershipError
    ├── UsageError(ValueError)            wrong configuration or use; raised before anything is sent
    │   └── InvalidValue                  a ref, id or note that no ledger and no call takes
    ├── CallError                         .method .attempts .elapsed .maybe_applied
    │   ├── NotSent                       nothing reached the service
    │   ├── ReplyLost                     the request was sent, and no complete reply came back
    │   ├── DeadlineExceeded(TimeoutError)
    │   ├── UnexpectedReply               the reply is not the envelope, or its result has no accepted shape; .body
    │   ├── OutcomeUnknown                unsafe calls only: the member may or may not have been granted; .cause
    │   └── APIError                      .code .description .status .request_id .retry_after .error_code
    │       ├── BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · Conflict 409
    │       ├── RateLimited 429           also when a pause exceeds the deadline: nothing sent, .maybe_applied False
    │       └── ServerError 5xx
    ├── GrantError
    │   ├── RefConflict                   this ref was planned with another plan or member
    │   └── GrantHeld                     the outcome for this ref is unknown and awaits a decision; .grant
    ├── StorageError                      the file or database of a ledger or inbox failed; this write was not stored
    └── WebhookError
        ├── NotAuthentic                  answer 401; also for every malformed header
        └── Unreadable                    authentic, but not an event

They hold no objects of third-party libraries and no secrets, and can be pickled without losing fields. Every error
has `.advice`, what to do about it, and `.retryable`; the table of both is `_ADVICE`, at the end of this module.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final


class Advice(StrEnum):
    """The next step after an error."""

    CALL_AGAIN = "call_again"
    """Calling again is safe, and may succeed."""
    WAIT = "wait"
    """Call again later, after `retry_after` seconds if the error has them."""
    DECIDE = "decide"
    """The effect is unknown: find out what happened, and decide; do not call again before."""
    FIX_REQUEST = "fix_request"
    """The ids, the ref or the delivery are wrong: the same call fails again."""
    FIX_CREDENTIALS = "fix_credentials"
    """The API key, the bot's settings at the service, or the webhook secret are wrong."""
    FIX_CODE = "fix_code"
    """The program uses the package in a wrong way; the message says what to write."""
    FREE_STORAGE = "free_storage"
    """The disk or database of a ledger or inbox cannot write: call again once it can."""


class TGMembershipError(Exception):
    """Base class of all exceptions of this package."""

    @property
    def advice(self) -> Advice:
        """Return what to do about the error."""
        found = next(_ADVICE[kind] for kind in type(self).__mro__ if kind in _ADVICE)
        return found if isinstance(found, Advice) else found(self)

    @property
    def retryable(self) -> bool:
        """Tell whether calling again, at once or later, is safe and may help.

        This is about the call that raised it. The `cause` of an OutcomeUnknown was not raised by itself.
        """
        return self.advice in _RETRYABLE

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[TGMembershipError], args: tuple[Any, ...], fields: dict[str, Any]) -> TGMembershipError:
    error = cls.__new__(cls, *args)
    error.args = args  # TimeoutError.__new__ ignores them if a subclass defines __init__
    error.__dict__.update(fields)
    return error


class UsageError(TGMembershipError, ValueError):
    """Wrong configuration or use; nothing was sent."""


class InvalidValue(UsageError):
    """A value of the payment or request is wrong: ref, plan_id, member_id, note, paid_at, or another id."""


class CallError(TGMembershipError):
    """A call ended without a result.

    `attempts` is the number of attempts, `elapsed` is in seconds, and `maybe_applied` says whether the service may have
    changed something because of this call.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        attempts: int = 0,
        elapsed: float = 0.0,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(message)
        self.method = method
        self.attempts = attempts
        self.elapsed = elapsed
        self.maybe_applied = maybe_applied

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.method}: {message}" if self.method else message


class NotSent(CallError):
    """Nothing reached the service; calling again is safe, for every method."""


class ReplyLost(CallError):
    """The request was sent, and no complete reply came back."""


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline of the call passed; with `maybe_applied` False the service did nothing."""


class UnexpectedReply(CallError):
    """The reply is not the envelope, or its result has no accepted shape. `body` holds at most its first 64 KiB."""

    def __init__(self, message: str, *, body: bytes = b"", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.body = body


class OutcomeUnknown(CallError):
    """The service may or may not have acted on an unsafe call; `cause` is the CallError behind it."""

    def __init__(self, message: str, *, cause: CallError | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.cause = cause


class APIError(CallError):
    """The service answered with an error. `retry_after` is in seconds, or None if the service gave none.

    `error_code` is the name of the error in API v2, such as `VALIDATION_ERROR` (documented), otherwise None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        description: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        error_code: str | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.code = code
        self.error_code = error_code
        self.description = description
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after

    @classmethod
    def for_code(cls, code: int, message: str, **fields: Any) -> "APIError":
        """Return an instance of the class for `code`."""
        kind = _BY_CODE.get(code, ServerError if code // 100 == 5 else APIError)  # noqa: PLR2004
        return kind(message, code=code, **fields)


class BadRequest(APIError):
    """400: the service rejects these parameters."""


class Unauthorized(APIError):
    """401: wrong credentials or, in API v1 (*documented*), another reason that `description` gives."""


class Forbidden(APIError):
    """403: not allowed with these credentials."""


class NotFound(APIError):
    """404: no such plan, member or method."""


class Conflict(APIError):
    """409: the request conflicts with the state of the service."""


class RateLimited(APIError):
    """429, or the deadline ends before a pause that an earlier 429 asked for. The service did nothing for this call."""


class ServerError(APIError):
    """5xx: the service failed, perhaps after it acted."""


_BY_CODE: Final = MappingProxyType(
    {
        400: BadRequest,
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        429: RateLimited,
    }
)


class GrantError(TGMembershipError):
    """The ledger does not allow this grant."""


class RefConflict(GrantError):
    """This ref was planned with another plan or another member."""


class GrantHeld(GrantError):
    """The outcome of this grant is unknown and needs a decision, with `Granter.reconcile` or `Granter.resolve`."""

    def __init__(self, message: str, *, grant: Any = None) -> None:
        super().__init__(message)
        self.grant = grant


class StorageError(TGMembershipError):
    """The file or database of a ledger or inbox failed. This write was not stored; earlier writes are kept."""


class WebhookError(TGMembershipError):
    """A webhook delivery cannot be accepted."""


class NotAuthentic(WebhookError):
    """The signature does not prove that the service sent this delivery; answer 401."""


class Unreadable(WebhookError):
    """The delivery is authentic, but its body is not an event; answer 400."""


def _advice_of_a_reply(error: UnexpectedReply) -> Advice:
    """`decide` if the service may have acted, otherwise `call_again`."""
    # An unsafe call that may have been applied raises OutcomeUnknown, unless it was applied: then its result is lost.
    return Advice.DECIDE if error.maybe_applied else Advice.CALL_AGAIN


def _advice_of_an_answer(error: APIError) -> Advice:
    """`fix_request` for 4xx but 421 and 425, otherwise `call_again`, or `wait` for 503 and with a `retry_after`."""
    if error.code in _NOTHING_WAS_DONE or error.code not in range(400, 500):
        return Advice.CALL_AGAIN if error.retry_after is None and error.code != _UNAVAILABLE else Advice.WAIT
    return Advice.FIX_REQUEST


def _advice_of_a_held_grant(error: GrantHeld) -> Advice:
    """`decide`, but `wait` while it is being sent, and `free_storage` if its outcome could not be stored."""
    match getattr(error.grant, "status", "unknown"):
        case "unknown":
            return Advice.DECIDE
        case "sending":
            return Advice.WAIT  # another worker sends it
        case _:
            return Advice.FREE_STORAGE  # it has its outcome, which the ledger could not record


_NOTHING_WAS_DONE: Final = frozenset({421, 425})
_UNAVAILABLE: Final = 503
_RETRYABLE: Final = frozenset({Advice.CALL_AGAIN, Advice.WAIT, Advice.FREE_STORAGE})
_ADVICE: Final[Mapping[type[TGMembershipError], Advice | Callable[[Any], Advice]]] = MappingProxyType(
    {
        TGMembershipError: Advice.FIX_CODE,
        InvalidValue: Advice.FIX_REQUEST,
        CallError: Advice.CALL_AGAIN,
        UnexpectedReply: _advice_of_a_reply,
        OutcomeUnknown: Advice.DECIDE,
        APIError: _advice_of_an_answer,
        BadRequest: Advice.FIX_REQUEST,
        NotFound: Advice.FIX_REQUEST,
        Conflict: Advice.FIX_REQUEST,
        Unauthorized: Advice.FIX_CREDENTIALS,
        Forbidden: Advice.FIX_CREDENTIALS,
        RateLimited: Advice.WAIT,
        GrantError: Advice.FIX_REQUEST,
        GrantHeld: _advice_of_a_held_grant,
        StorageError: Advice.FREE_STORAGE,
        WebhookError: Advice.FIX_REQUEST,
        NotAuthentic: Advice.FIX_CREDENTIALS,
    }
)
"""The advice of each class, or of its nearest base class that is listed."""
