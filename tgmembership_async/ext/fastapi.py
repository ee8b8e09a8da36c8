"""FastAPI: a lifespan that opens and closes the Session and the Granter, and dependencies for endpoints.

    app = FastAPI(lifespan=lifespan(Session.from_env(), granter, receiver))
    app.include_router(receiver_router(receiver, "/tgmembership"))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.post("/payments")
    async def pay(payment: Payment, granter: GranterDep, background: BackgroundTasks) -> None:
        await granter.plan(payment.id, plan_id=1, member_id=payment.user)          # durable from here on
        background.add_task(granter.grant, payment.id, plan_id=1, member_id=payment.user)

If a process dies between `plan` and `grant`, call `granter.run_planned()` after the next start.
"""

import logging
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.routing import Route

from tgmembership_async import errors
from tgmembership_async.access import Access, AccessCheck
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants.granter import Granter
from tgmembership_async.payments import PaymentReceiver
from tgmembership_async.protocol.endpoints import check_id
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.session import Session
from tgmembership_async.storage.sqlite.database import waiting_for_owners
from tgmembership_async.webhooks.receiver import Receiver

SESSION_NAME: Final = "tgm"
GRANTER_NAME: Final = "granter"
FULFILLMENT_NAME: Final = "fulfillment"
ACCESS_NAME: Final = "access"

OwnLifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

STATUSES: Final[Mapping[type[TGMembershipError], int]] = {
    errors.NotSent: 503,
    errors.RateLimited: 503,
    errors.StorageError: 503,
    errors.DeadlineExceeded: 504,
    errors.BadRequest: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.GrantError: 409,
    errors.CallError: 502,
    errors.NotAuthentic: 401,
    errors.Unreadable: 400,
    TGMembershipError: 500,
}
"""The statuses of `answer_error`, by the first class of an error that is listed. Rejected credentials are a 502."""

_logger: Final = logging.getLogger("tgmembership_async.ext.fastapi")


def lifespan(
    session: Session,
    granter: Granter | None = None,
    receiver: Receiver | None = None,
    *,
    fulfillment: Fulfillment | None = None,
    own: OwnLifespan | None = None,
    wait: float = 30.0,
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan for `FastAPI(lifespan=...)`, which opens these objects with the application and closes them.

    Objects that are open already are neither opened nor closed. `own` is the lifespan of your application: it runs
    inside, with the Session open, and the mapping that it yields is added to the state of requests. A Session can be
    opened once: create application and Session in one function, so that each test has its own.

    `wait` is the maximum number of seconds to wait until another process closes a ledger or inbox in a file, for a
    rolling restart. A ledger or inbox that was created with `wait` uses its own value. Raises UsageError for a wrong
    argument.
    """
    granter = fulfillment.granter if granter is None and isinstance(fulfillment, Fulfillment) else granter
    _check(session, granter, receiver, fulfillment)
    access = AccessCheck(session)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with AsyncExitStack() as opened:
            # A Granter that has opened its Session can also close it early, when only backoff is left.
            with waiting_for_owners(wait):
                for part in (fulfillment, granter, session):
                    if part is not None and not part.is_open:
                        await opened.enter_async_context(part)
                if receiver is not None:
                    await opened.enter_async_context(receiver)
            state = None if own is None else await opened.enter_async_context(own(app))
            ours = {SESSION_NAME: session, GRANTER_NAME: granter, FULFILLMENT_NAME: fulfillment, ACCESS_NAME: access}
            yield {**(state or {}), **ours}

    return live


def _check(session: object, granter: object, receiver: object, fulfillment: object) -> None:
    if not (
        isinstance(session, Session) and isinstance(granter, Granter | None) and isinstance(receiver, Receiver | None)
    ):
        msg = "lifespan takes a Session, and optionally a Granter and a Receiver: lifespan(session, granter, receiver)"
        raise UsageError(msg)
    if not isinstance(fulfillment, Fulfillment | None):
        msg = f"fulfillment must be a Fulfillment or None, not {type(fulfillment).__name__}"
        raise UsageError(msg)
    if fulfillment is not None and fulfillment.granter is not granter:
        msg = "the Fulfillment works with another Granter than the one given: give lifespan the same"
        raise UsageError(msg)


def get_session(connection: HTTPConnection) -> Session:
    """Return the Session of the application. Raises UsageError without one. A key for `app.dependency_overrides`."""
    found: Session | None = getattr(connection.state, SESSION_NAME, None)
    if found is None:
        msg = "this application has no Session: FastAPI(lifespan=lifespan(session)), and let the server run it"
        raise UsageError(msg)
    return found


def get_granter(connection: HTTPConnection) -> Granter:
    """Return the Granter of the application. Raises UsageError without one. A key for `app.dependency_overrides`."""
    found: Granter | None = getattr(connection.state, GRANTER_NAME, None)
    if found is None:
        msg = "this application has no Granter: FastAPI(lifespan=lifespan(session, granter)), and let the server run it"
        raise UsageError(msg)
    return found


def get_fulfillment(connection: HTTPConnection) -> Fulfillment:
    """Return the Fulfillment of the application. Raises UsageError without one. A key for overrides."""
    found: Fulfillment | None = getattr(connection.state, FULFILLMENT_NAME, None)
    if found is None:
        msg = "this application has no Fulfillment: FastAPI(lifespan=lifespan(session, fulfillment=fulfillment))"
        raise UsageError(msg)
    return found


def get_access(connection: HTTPConnection) -> AccessCheck:
    """Return the AccessCheck of the application's Session. Raises UsageError without one. A key for overrides."""
    found: AccessCheck | None = getattr(connection.state, ACCESS_NAME, None)
    if found is None:
        msg = "this application has no Session: FastAPI(lifespan=lifespan(session)), and let the server run it"
        raise UsageError(msg)
    return found


SessionDep = Annotated[Session, Depends(get_session)]
TGMDep = SessionDep
"""The same as SessionDep, for applications that use this name for a database session."""
GranterDep = Annotated[Granter, Depends(get_granter)]
FulfillmentDep = Annotated[Fulfillment, Depends(get_fulfillment)]
AccessDep = Annotated[AccessCheck, Depends(get_access)]


def require_access(
    plan_id: int | None = None, *, user_id: Callable[..., Any]
) -> Callable[..., Coroutine[Any, Any, Access]]:
    """Return a dependency that requires access of the user to a plan, or to any plan if `plan_id` is None.

    `user_id` is your dependency that returns the Telegram id of the authenticated user. Do not take this id from the
    request without authentication. The response is 403 without access. If the service does not answer and no earlier
    answer is known, the dependency raises the error of the package, which `answer_error` handles. Raises UsageError for
    an invalid `plan_id`.
    """
    checked = None if plan_id is None else check_id("plan_id", plan_id)

    async def required(access: AccessDep, user: Annotated[int, Depends(user_id)]) -> Access:
        found = await access(user, checked)
        if not found:
            raise HTTPException(403, "no access")
        return found

    return required


def receiver_router(receiver: Receiver | PaymentReceiver, path: str) -> APIRouter:
    """Return a router that passes every request to `path`, with any verb, to a Receiver or a PaymentReceiver.

    The path matches with and without a trailing slash, because the service requires a 200 and not a redirect.
    """
    router = APIRouter()
    bare = path.rstrip("/")
    for spelled in (bare, f"{bare}/"):
        if spelled:
            router.routes.append(Route(spelled, receiver.asgi, include_in_schema=False))
    return router


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Return a response with the error's status in STATUSES, its class name, and whether it may have had an effect.

    The message of the error is logged and not part of the response.
    """
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
    level = logging.ERROR if status == STATUSES[TGMembershipError] else logging.WARNING
    # A path may contain line ends, which must not start a forged log line.
    path, message = printable(str(request.scope.get("path"))), printable(str(error))
    _logger.log(level, "%s: %s", path, message, exc_info=error if level == logging.ERROR else None)
    wait: float | None = getattr(error, "retry_after", None)
    return JSONResponse(
        {"error": type(error).__name__, "maybe_applied": bool(getattr(error, "maybe_applied", False))},
        status,
        headers=None if wait is None else {"retry-after": str(math.ceil(wait))},
    )
