"""FastAPI: the Session and the Granter live as long as the application, and endpoints get them as dependencies.

    app = FastAPI(lifespan=lifespan(Session.from_env(), granter, receiver))
    app.include_router(receiver_router(receiver, "/tgmembership"))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.post("/payments")
    async def pay(payment: Payment, granter: GranterDep, background: BackgroundTasks) -> None:
        await granter.plan(payment.id, plan_id=1, member_id=payment.user)          # from here on nothing can lose it
        background.add_task(granter.grant, payment.id, plan_id=1, member_id=payment.user)

What a dying process had planned and not granted is carried out by `granter.run_planned()` after the next start.
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
"""What `answer_error` answers; the first entry of an error's own classes counts. Rejected credentials are ours: 502."""

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
    """Return what `FastAPI(lifespan=...)` takes: it opens all of them with the application, and closes them after it.

    What you have opened yourself is left alone. `own` is a lifespan of your application: it runs inside, finds the
    Session open, and what it yields joins the state of requests. A Session has one life: make application and Session
    in one function, so that each test, too, has its own.

    `wait` is how many seconds a ledger or inbox in a file waits for the process that has it to end, as in a rolling
    restart, unless it was built with a `wait` of its own.
    """
    granter = fulfillment.granter if granter is None and isinstance(fulfillment, Fulfillment) else granter
    _check(session, granter, receiver, fulfillment)
    access = AccessCheck(session)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with AsyncExitStack() as opened:
            # The outermost first: a Session that a Granter opened it can also end early, when only backoff is left.
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
        msg = "lifespan takes a Session, perhaps a Granter, perhaps a Receiver: lifespan(session, granter, receiver)"
        raise UsageError(msg)
    if not isinstance(fulfillment, Fulfillment | None):
        msg = f"fulfillment must be a Fulfillment or None, not {type(fulfillment).__name__}"
        raise UsageError(msg)
    if fulfillment is not None and fulfillment.granter is not granter:
        msg = "the Fulfillment works with another Granter than the one given: give lifespan the same"
        raise UsageError(msg)


def get_session(connection: HTTPConnection) -> Session:
    """Return the Session of the application; a key for `app.dependency_overrides`."""
    found: Session | None = getattr(connection.state, SESSION_NAME, None)
    if found is None:
        msg = "this application has no Session: FastAPI(lifespan=lifespan(session)), and let the server run it"
        raise UsageError(msg)
    return found


def get_granter(connection: HTTPConnection) -> Granter:
    """Return the Granter of the application; a key for `app.dependency_overrides`."""
    found: Granter | None = getattr(connection.state, GRANTER_NAME, None)
    if found is None:
        msg = "this application has no Granter: FastAPI(lifespan=lifespan(session, granter)), and let the server run it"
        raise UsageError(msg)
    return found


def get_fulfillment(connection: HTTPConnection) -> Fulfillment:
    """Return the Fulfillment of the application; a key for `app.dependency_overrides`."""
    found: Fulfillment | None = getattr(connection.state, FULFILLMENT_NAME, None)
    if found is None:
        msg = "this application has no Fulfillment: FastAPI(lifespan=lifespan(session, fulfillment=fulfillment))"
        raise UsageError(msg)
    return found


def get_access(connection: HTTPConnection) -> AccessCheck:
    """Return the AccessCheck of the application's Session; a key for `app.dependency_overrides`."""
    found: AccessCheck | None = getattr(connection.state, ACCESS_NAME, None)
    if found is None:
        msg = "this application has no Session: FastAPI(lifespan=lifespan(session)), and let the server run it"
        raise UsageError(msg)
    return found


SessionDep = Annotated[Session, Depends(get_session)]
TGMDep = SessionDep
"""The same as SessionDep, for applications where that name is a database's."""
GranterDep = Annotated[Granter, Depends(get_granter)]
FulfillmentDep = Annotated[Fulfillment, Depends(get_fulfillment)]
AccessDep = Annotated[AccessCheck, Depends(get_access)]


def require_access(
    plan_id: int | None = None, *, user_id: Callable[..., Any]
) -> Callable[..., Coroutine[Any, Any, Access]]:
    """Return a dependency that lets a request through if its user has access to a plan, or to any.

    `user_id` is a dependency of yours that returns the Telegram id of the user who is logged in: this package does not
    know who that is, and a number in a request proves nothing. The answer is 403 without access. Where neither the
    service nor an older answer says, the error of the package is raised, for `answer_error`.
    """
    checked = None if plan_id is None else check_id("plan_id", plan_id)

    async def required(access: AccessDep, user: Annotated[int, Depends(user_id)]) -> Access:
        found = await access(user, checked)
        if not found:
            raise HTTPException(403, "no access")
        return found

    return required


def receiver_router(receiver: Receiver, path: str) -> APIRouter:
    """Return a router that hands every request to `path`, whatever its verb, to the Receiver.

    The path counts with and without a slash at its end: a redirect is not the 200 that the service wants.
    """
    router = APIRouter()
    bare = path.rstrip("/")
    for spelled in (bare, f"{bare}/"):
        if spelled:
            router.routes.append(Route(spelled, receiver.asgi, include_in_schema=False))
    return router


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of this package with its status in STATUSES, its name, and whether it may have had an effect.

    The message stays in the log: it is for the owner of the shop, not for its customers.
    """
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
    level = logging.ERROR if status == STATUSES[TGMembershipError] else logging.WARNING
    # What a stranger wrote must not look like a line of ours: a path may hold line ends.
    path, message = printable(str(request.scope.get("path"))), printable(str(error))
    _logger.log(level, "%s: %s", path, message, exc_info=error if level == logging.ERROR else None)
    wait: float | None = getattr(error, "retry_after", None)
    return JSONResponse(
        {"error": type(error).__name__, "maybe_applied": bool(getattr(error, "maybe_applied", False))},
        status,
        headers=None if wait is None else {"retry-after": str(math.ceil(wait))},
    )
