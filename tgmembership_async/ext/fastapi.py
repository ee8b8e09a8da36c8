"""FastAPI: a lifespan that opens and closes Session, Granter and Fulfillment, and dependencies for endpoints.

    app = FastAPI(lifespan=lifespan(Session.from_env(), granter, receiver))
    app.include_router(receiver_router(receiver, "/tgmembership"))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.post("/payments")
    async def pay(payment: Payment, granter: GranterDep, background: BackgroundTasks) -> None:
        await granter.plan(payment.id, plan_id=1, member_id=payment.user)          # durable from here on
        background.add_task(granter.grant, payment.id, plan_id=1, member_id=payment.user)

If a process dies between `plan` and `grant`, call `granter.run_planned()` after the next start, for example as a
background task: `background.add_task(granter.run_planned)`. Errors of background tasks are logged in one line each.
"""

import logging
import math
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

from tgmembership_async.extras import install, missing

try:
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
    from fastapi.requests import HTTPConnection
    from fastapi.responses import JSONResponse, Response
except ModuleNotFoundError as _error:
    raise missing(__name__, "fastapi", _error) from None
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tgmembership_async import errors
from tgmembership_async.access import Access, AccessCheck
from tgmembership_async.client import Client, account_of
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.fulfillment.integration import (
    ACCESS_NAME,
    FULFILLMENT_NAME,
    GRANTER_NAME,
    PROJECT_NAME,
    SESSION_NAME,
    Parts,
)
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.payments import PaymentReceiver
from tgmembership_async.project import Project
from tgmembership_async.protocol.endpoints import check_plan_id
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.session import Session
from tgmembership_async.settings import service_of
from tgmembership_async.storage.sqlite.database import waiting_for_owners
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks.inbox import BindableInbox, Inbox
from tgmembership_async.webhooks.receiver import Receiver

_T = TypeVar("_T")
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
    errors.InvalidValue: 422,
    TGMembershipError: 500,
}
"""The statuses of `answer_error`, by the first class of an error that is listed. Rejected credentials are a 502.

422 is an InvalidValue: a ref, id or note that no ledger takes.
"""

_logger: Final = logging.getLogger("tgmembership_async.ext.fastapi")


def lifespan(
    session: Session | Project,
    granter: Granter | None = None,
    receiver: Receiver | None = None,
    *,
    fulfillment: Fulfillment | None = None,
    own: OwnLifespan | None = None,
    wait: float = 30.0,
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan for `FastAPI(lifespan=...)`, which opens these objects with the application and closes them.

    `session` is a Session or a Project, which endpoints get by `SessionDep` or `ProjectDep`.

    Objects that are open already are neither opened nor closed. `own` is the lifespan of your application: it runs
    inside, with the Session open, and the mapping that it yields is added to the state of requests. Handlers of the
    receiver and callbacks of the Fulfillment end before it ends, because they may use what it has opened. A Session or
    Project can be opened once: create it and the application in one function, so that each test has its own.

    `wait` is the maximum number of seconds to wait until another process closes a ledger or inbox in a file, for a
    rolling restart. A ledger or inbox that was created with `wait` uses its own value. An inbox is bound to the bot of
    the Session, or to the Project, as a ledger is: that of another one is refused. Raises UsageError for a wrong
    argument.

    An error of this package that a background task raises is logged in one line: the response is sent already, so no
    exception handler can answer it.
    """
    parts = Parts.checked("lifespan(session, granter, receiver)", session, granter, fulfillment)
    if not isinstance(receiver, Receiver | None):
        msg = (
            f"receiver must be a Receiver or None, not {type(receiver).__name__}: lifespan(session, granter, receiver)"
        )
        raise UsageError(msg)
    ours = parts.by_name()

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        _end_background_errors(app)
        async with AsyncExitStack() as opened:
            ends = [] if fulfillment is None or fulfillment.is_open else [fulfillment.stop]
            await parts.open(opened, wait)
            if receiver is not None:
                with waiting_for_owners(wait):
                    await _bind(receiver.inbox, session, opened)
                    if not receiver.is_open:
                        await opened.enter_async_context(receiver)
                        ends.append(receiver.aclose)
            state = None if own is None else await opened.enter_async_context(own(app))
            for end in ends:
                opened.push_async_callback(end)
            yield {**(state or {}), **ours}

    return live


async def _bind(inbox: Inbox | None, client: Client, opened: AsyncExitStack) -> None:
    """Open the inbox of a Receiver, and bind it to the bot or project, before the first entry is handled."""
    if isinstance(inbox, BindableInbox):
        if not inbox.is_open:
            await inbox.open()
            opened.push_async_callback(inbox.aclose)
        account = account_of(client)
        await inbox.bind(service_of(account), account.number)


def _end_background_errors(app: FastAPI) -> None:
    """Put a `_BackgroundErrors` around all middleware of the application, below Starlette's own for server errors."""
    stack = app.middleware_stack = app.middleware_stack or app.build_middleware_stack()
    if isinstance(stack, ServerErrorMiddleware) and not isinstance(stack.app, _BackgroundErrors):
        stack.app = _BackgroundErrors(stack.app)


class _BackgroundErrors:
    """Logs the errors of this package that are raised after the response, and lets all other exceptions through.

    With an exception handler for them, Starlette would raise RuntimeError, "response already started", instead.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, is_sent = 0, False

        async def watched(message: Message) -> None:
            nonlocal status, is_sent
            await send(message)
            status = message.get("status", status)
            is_sent = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, watched)
        except (TGMembershipError, RuntimeError) as raised:
            error = raised.__cause__ if type(raised) is RuntimeError and "already started" in str(raised) else raised
            # A 500 may be the answer of a mounted application to this very error, which it raises again.
            if not is_sent or status >= STATUSES[TGMembershipError] or not isinstance(error, TGMembershipError):
                raise
            _log(scope, error, "a background task failed: ")


def _part(connection: HTTPConnection, name: str, kind: type[_T], argument: str) -> _T:
    found: _T | None = getattr(connection.state, name, None)
    if found is None:
        msg = f"this application has no {kind.__name__}: FastAPI(lifespan=lifespan({argument})), run by the server"
        raise UsageError(msg)
    return found


def get_session(connection: HTTPConnection) -> Session:
    """Return the Session of the application. Raises UsageError without one. A key for `app.dependency_overrides`."""
    return _part(connection, SESSION_NAME, Session, "session")


def get_project(connection: HTTPConnection) -> Project:
    """Return the Project of the application. Raises UsageError without one. A key for `app.dependency_overrides`."""
    return _part(connection, PROJECT_NAME, Project, "project")


def get_granter(connection: HTTPConnection) -> Granter:
    """Return the Granter of the application. Raises UsageError without one. A key for `app.dependency_overrides`."""
    return _part(connection, GRANTER_NAME, Granter, "session, granter")


def get_fulfillment(connection: HTTPConnection) -> Fulfillment:
    """Return the Fulfillment of the application. Raises UsageError without one. A key for overrides."""
    return _part(connection, FULFILLMENT_NAME, Fulfillment, "session, fulfillment=fulfillment")


def get_access(connection: HTTPConnection) -> AccessCheck:
    """Return the AccessCheck of the application's client. Raises UsageError without one. A key for overrides."""
    return _part(connection, ACCESS_NAME, AccessCheck, "session")


SessionDep = Annotated[Session, Depends(get_session)]
TGMDep = SessionDep
"""The same as SessionDep, for applications that use this name for a database session."""
ProjectDep = Annotated[Project, Depends(get_project)]
GranterDep = Annotated[Granter, Depends(get_granter)]
FulfillmentDep = Annotated[Fulfillment, Depends(get_fulfillment)]
AccessDep = Annotated[AccessCheck, Depends(get_access)]


def require_access(
    plan_id: int | str | None = None, *, user_id: Callable[..., Any]
) -> Callable[..., Coroutine[Any, Any, Access]]:
    """Return a dependency that requires access of the user to a plan, or to any plan if `plan_id` is None.

    `user_id` is your dependency that returns the Telegram id of the authenticated user. Do not take this id from the
    request without authentication. The response is 403 without access. If the service does not answer and no earlier
    answer is known, the dependency raises the error of the package, which `answer_error` handles. Raises UsageError for
    an invalid `plan_id`.
    """
    checked = None if plan_id is None else check_plan_id(plan_id)

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


def desk_router(
    ledger: Ledger,
    inbox: Inbox | None = None,
    *,
    allow: Callable[..., Any],
    secret: Secret | None = None,
) -> APIRouter:
    """Return a router with the desk of a ledger and an inbox: `app.include_router(router, prefix="/desk")`.

    `allow` is your dependency that authenticates the request: it returns the owner, or True. It refuses with an
    exception, or with any false result, which is answered with 403. There is no default, because who opens the desk
    decides about money. Ledger and inbox are opened by your lifespan. Several processes that serve one desk need the
    same `secret`, of at least 32 characters. Raises UsageError for a wrong argument.
    """
    try:
        from tgmembership_async.desk import Guard, desk_app  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        msg = f"desk_router needs an extra: {install('desk')}"
        raise UsageError(msg) from None
    if not callable(allow):
        msg = "allow must be your dependency that authenticates the owner: desk_router(ledger, allow=owner_only)"
        raise UsageError(msg)
    desk = desk_app(ledger, inbox, guard=Guard(secret=secret))

    async def answer(request: Request, path: str, allowed: Annotated[Any, Depends(allow)]) -> Response:
        if not allowed:
            raise HTTPException(403, "not allowed")
        return _Passed(desk, request.scope["path"].removesuffix(path).rstrip("/"))

    router = APIRouter(include_in_schema=False)
    router.add_api_route("/{path:path}", answer, methods=["GET", "POST"])
    return router


class _Passed(Response):
    """The response of another application, for which `root` is the path that it is mounted at."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        super().__init__()
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "root_path": self._root}, receive, send)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Return a response with the error's status in STATUSES, its class name, and whether it may have had an effect.

    The message of the error is logged, with control characters escaped, and not part of the response.
    """
    _log(request.scope, error)
    wait: float | None = getattr(error, "retry_after", None)
    return JSONResponse(
        {"error": type(error).__name__, "maybe_applied": bool(getattr(error, "maybe_applied", False))},
        _status(error),
        headers=None if wait is None else {"retry-after": str(math.ceil(wait))},
    )


def _status(error: Exception) -> int:
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def _log(scope: Scope, error: Exception, what: str = "") -> None:
    """Log an error in one line; one of the program with the frames that raised it, without its unescaped message."""
    # Path and message may hold line ends of the request, which must not start a forged log line.
    path, message = printable(str(scope.get("path"))), printable(str(error))
    is_ours = _status(error) == STATUSES[TGMembershipError]
    frames = "".join(["\n", *traceback.format_tb(error.__traceback__)]).rstrip() if is_ours else ""
    _logger.log(logging.ERROR if is_ours else logging.WARNING, "%s: %s%s%s", path, what, message, frames)
