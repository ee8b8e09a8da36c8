"""The errors of the package, all of them.

    TGMembershipError
    ├── UsageError(ValueError)            wrong configuration or use; raised before anything is sent
    ├── CallError                         .method .attempts .elapsed .maybe_applied
    │   ├── NotSent                       nothing reached the service
    │   ├── ReplyLost                     it was sent, and no whole reply came back
    │   ├── DeadlineExceeded(TimeoutError)
    │   ├── UnexpectedReply               an answer that is not the envelope, or a result of no accepted shape; .body
    │   ├── OutcomeUnknown                unsafe calls only: the member may or may not have been granted; .cause
    │   └── APIError                      .code .description .status .request_id .retry_after
    │       ├── BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · Conflict 409
    │       ├── RateLimited 429           also when a pause outlasts the deadline: nothing sent, .maybe_applied False
    │       └── ServerError 5xx
    ├── GrantError
    │   ├── RefConflict                   this ref was planned with another plan or member
    │   └── GrantHeld                     the outcome for this ref is unknown and awaits a decision; .grant
    ├── StorageError                      the file or database that keeps the state failed; this write was not kept
    └── WebhookError
        ├── NotAuthentic                  answer 401; every malformed header ends here too
        └── Unreadable                    authentic, but not an event

They hold no object of any library and no secret, and come out of a pickle with equal fields.
"""

from types import MappingProxyType
from typing import Any, Final


class TGMembershipError(Exception):
    """The base of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[TGMembershipError], args: tuple[Any, ...], fields: dict[str, Any]) -> TGMembershipError:
    error = cls.__new__(cls, *args)
    error.args = args  # a TimeoutError is made without its arguments where a subclass has an __init__ of its own
    error.__dict__.update(fields)
    return error


class UsageError(TGMembershipError, ValueError):
    """Wrong configuration or use; nothing was sent."""


class CallError(TGMembershipError):
    """A call that ended without a result.

    `attempts` counts requests that were tried, `elapsed` is in seconds, and `maybe_applied` says whether the service
    may have changed something on account of this call.
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
    """Nothing reached the service: trying again later is safe, for every method."""


class ReplyLost(CallError):
    """The request was sent, and no whole reply came back."""


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline of the whole call passed; with `maybe_applied` False nothing of an effect was on the wire."""


class UnexpectedReply(CallError):
    """The answer is not the envelope, or its result has no accepted shape. `body` holds its first 64 KiB at most."""

    def __init__(self, message: str, *, body: bytes = b"", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.body = body


class OutcomeUnknown(CallError):
    """The service may or may not have acted on an unsafe call; `cause` is the CallError that says why."""

    def __init__(self, message: str, *, cause: CallError | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.cause = cause


class APIError(CallError):
    """The service said no. `retry_after` is in seconds, or None where the service told no time."""

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        description: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.code = code
        self.description = description
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after

    @classmethod
    def for_code(cls, code: int, message: str, **fields: Any) -> "APIError":
        """Return the error whose class belongs to `code`."""
        kind = _BY_CODE.get(code, ServerError if code // 100 == 5 else APIError)  # noqa: PLR2004
        return kind(message, code=code, **fields)


class BadRequest(APIError):
    """400: the service does not accept these parameters."""


class Unauthorized(APIError):
    """401: wrong credentials or, in a later generation of the service, another reason that `description` gives."""


class Forbidden(APIError):
    """403: not allowed with these credentials."""


class NotFound(APIError):
    """404: no such plan, member or method."""


class Conflict(APIError):
    """409: contradicts what the service already has."""


class RateLimited(APIError):
    """429, or the pause that one told this Session outlasts the deadline: nothing was done for this call."""


class ServerError(APIError):
    """5xx: the service failed, and proves nothing about whether it acted before."""


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
    """A grant that the ledger does not allow as asked."""


class RefConflict(GrantError):
    """This ref was planned with another plan or member."""


class GrantHeld(GrantError):
    """The outcome for this ref is unknown and awaits a decision: see `Granter.resolve` and `Granter.reconcile`."""

    def __init__(self, message: str, *, grant: Any = None) -> None:
        super().__init__(message)
        self.grant = grant


class StorageError(TGMembershipError):
    """The file or database behind a ledger or inbox failed: what was to be written was not kept, what was before is."""


class WebhookError(TGMembershipError):
    """A delivery that is not what it should be."""


class NotAuthentic(WebhookError):
    """The signature does not prove that the service sent this; answer 401."""


class Unreadable(WebhookError):
    """Authentic, but not an event; answer 400."""
