"""The Receiver verifies deliveries, stores them and passes their events to handlers."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self, TypeGuard, TypeVar, overload

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.settings import seconds
from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.asgi import ASGIReceiver
from tgmembership_async.webhooks.encodings import coding_of, decoded
from tgmembership_async.webhooks.events import Event, PaymentRequestCompleted
from tgmembership_async.webhooks.handlers import Handler, Handlers
from tgmembership_async.webhooks.headers import HeadersLike
from tgmembership_async.webhooks.inbox import Inbox
from tgmembership_async.webhooks.intake import DirectIntake, StoredIntake
from tgmembership_async.webhooks.policy import HandlingPolicy
from tgmembership_async.webhooks.project_signature import CannotVerify, ProjectVerifier
from tgmembership_async.webhooks.refusals import RefusalLog
from tgmembership_async.webhooks.replay import MemoryReplay
from tgmembership_async.webhooks.secret_file import NoSecret
from tgmembership_async.webhooks.signature import Delivery, Verifier

if TYPE_CHECKING:
    from aiohttp import web

    from tgmembership_async.project.client import Project
    from tgmembership_async.webhooks.joining import PaymentJoin

_DEFAULT_POLICY: Final = HandlingPolicy()
_MAX_BODY: Final = 65_536
_BODY_TIMEOUT: Final = 10.0

E = TypeVar("E", bound=Event)
H = TypeVar("H", bound=Handler[Any])


class Receiver(AsyncResource):
    """Receives the webhook deliveries of the service: `@receiver.on(...)` for handlers, `receiver.asgi` for the server.

    With an `inbox` a delivery is stored, then answered 200, then handled, in several attempts if a handler fails. Enter
    the Receiver with `async with`, or call `open()` and `aclose()`, also from different tasks; before that the response
    is 503. The Receiver opens and closes the inbox unless it is open already. On asyncio a background task handles the
    events. On trio, or with `background=False`, call `process_pending()`, or start `run()` in a task.

    Without an inbox the Receiver need not be entered. Handlers run before the response. If one fails, the response is
    500, and the service repeats the delivery. `replay` remembers the handled deliveries in this process.

    With a `project`, an inbox and a ProjectVerifier, each PaymentRequestCompleted is looked up: handlers get
    MembershipPaid, BalanceToppedUp or PaymentUnexplained in its place. What the project does not tell yet is asked for
    again, at most `policy.max_waits` times. The Receiver opens and closes the project unless it is open already.

    `max_body` is the maximum size of a body in bytes, compressed or not, `body_timeout` the maximum seconds for reading
    it; after that the response is 408. `probes=True` responds 200 to GET and HEAD and to an empty body: the service
    accepts a webhook URL only if it responds 200, and asks before there is a secret (*documented*). `clock` returns
    unix seconds. Raises UsageError for a wrong argument.
    """

    def __init__(
        self,
        verifier: Verifier | ProjectVerifier,
        inbox: Inbox | None = None,
        *,
        project: "Project | None" = None,
        policy: HandlingPolicy = _DEFAULT_POLICY,
        max_body: int = _MAX_BODY,
        body_timeout: float = _BODY_TIMEOUT,
        probes: bool = False,
        background: bool = True,
        replay: MemoryReplay | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check(verifier, inbox, policy, max_body)
        self.verifier = verifier
        self.inbox = inbox
        self.max_body = max_body
        self.body_timeout: float = seconds("body_timeout", body_timeout)
        self.asgi: ASGIReceiver = ASGIReceiver(self)
        self._probes = probes
        self._clock = clock
        self._refusals = RefusalLog()
        self._unverified = RefusalLog(what="answered 503, because they cannot be verified yet")
        self._handlers = Handlers()
        self._stored: StoredIntake | None = None
        self._join = None if project is None else _join(project, verifier, inbox, policy)
        if inbox is None:
            if replay is None:
                replay = MemoryReplay(keep=max(policy.repeat_window, 2 * verifier.tolerance))
            self._intake: DirectIntake | StoredIntake = DirectIntake(self._handlers, policy, replay)
        else:
            self._stored = StoredIntake(
                inbox, self._handlers, policy, join=self._join, background=background, clock=clock
            )
            self._intake = self._stored

    def _shown(self) -> str:
        return f"<Receiver with {self.inbox!r}>" if self.inbox is not None else "<Receiver without an inbox>"

    @property
    def is_open(self) -> bool:
        """Tell whether it is open. One without an inbox is always open."""
        return self._intake.ready

    @overload
    def on(self, what: str) -> Callable[[H], H]: ...
    @overload
    def on(self, what: type[E]) -> Callable[[Handler[E]], Handler[E]]: ...
    def on(self, what: str | type[Event]) -> Callable[[Any], Any]:
        """Register an async function for events with a name, or of a class and its subclasses (`Event` matches all).

        The function is called with the event. It is called again if it fails, or if the process dies while it runs: use
        `event.fingerprint` to recognise an event, and `event.attempt` to recognise the first attempt. Raises UsageError
        if the function is not async, or for an event that needs a `project`.
        """
        if self._join is None and _needs_project(what):
            msg = f"{what.__name__} is found out by asking the project: pass project=Project(...) to the Receiver"
            raise UsageError(msg)

        def register(handler: Handler[Any]) -> Handler[Any]:
            self._handlers.add(what, handler)
            return handler

        return register

    def on_unknown(self, handler: H) -> H:
        """Register an async function for all events without another handler."""
        self._handlers.add(None, handler)
        return handler

    async def handle(self, headers: HeadersLike, body: bytes) -> Answer:
        """Return the response to a POST with these headers and this raw body, for use with any framework.

        401: not authentic. 400: authentic, but not an event (stored anyway). 413: too large. 503: the Receiver is not
        open, has no secret yet, or cannot store the delivery. 500: a handler failed (without an inbox). 200: the
        delivery is stored or handled, now or before.

        A body in gzip is decoded, up to `max_body` bytes. If your framework has decoded it, omit Content-Encoding. 400:
        another coding, or not gzip.
        """
        if not self._intake.ready:
            return answers.NOT_READY
        if self._probes and not body:
            return answers.OK
        delivery = self._verified(headers, body)
        if isinstance(delivery, Answer):
            return delivery
        return await self._intake.take(delivery, datetime.fromtimestamp(self._clock(), UTC))

    def _verified(self, headers: HeadersLike, body: bytes) -> Delivery | Answer:
        content = decoded(body, coding_of(headers), self.max_body)
        if isinstance(content, Answer):
            return content
        try:
            return self.verifier.verify(headers, content)
        except NotAuthentic as error:
            self._refusals.note(str(error))
            return answers.CANNOT_VERIFY if isinstance(error, CannotVerify) else answers.NOT_AUTHENTIC
        except NoSecret as error:
            self._unverified.note(str(error))
            return answers.NOT_READY  # a 401 would end it: the later generation does not send it again (documented)

    def before_body(self, verb: str, length: str | None = None) -> Answer | None:
        """Return the response that depends only on the verb and the Content-Length, or None to read the body."""
        allowed = answers.ALLOWED[self._probes]
        if verb not in allowed:
            return answers.not_allowed(", ".join(allowed))
        if verb != "POST":
            return answers.OK
        if not self._intake.ready:
            return answers.NOT_READY
        return answers.TOO_LARGE if answers.is_too_large(length, self.max_body) else None

    async def aiohttp_handler(self, request: "web.Request") -> "web.Response":
        """Handle a request of aiohttp's server: `router.add_route("*", "/tgmembership", receiver.aiohttp_handler)`."""
        from tgmembership_async.webhooks.aiohttp import respond  # noqa: PLC0415 - aiohttp is loaded on use

        return await respond(self, request)

    async def open(self) -> Self:
        """Open inbox and project, and begin to handle entries. Raises UsageError if open, and errors of the inbox."""
        if self._stored is not None:
            await self._stored.open()
        return self

    async def aclose(self) -> None:
        """Respond 503 from now on, wait at most `handler_timeout` seconds for handlers, and close the inbox."""
        if self._stored is not None:
            await self._stored.aclose()

    async def process_pending(self) -> int:
        """Handle entries of the inbox until none is due, and return the number of attempts.

        For trio, and for tests with `background=False`. Raises UsageError if the Receiver is not open.
        """
        return 0 if self._stored is None else await self._stored.worker.process_pending()

    async def run(self) -> None:
        """Handle entries of the inbox when they are due, until the Receiver is closed. Start this in your own task."""
        if self._stored is not None:
            await self._stored.worker.run()


def _needs_project(what: object) -> TypeGuard[type]:
    return isinstance(what, type) and issubclass(what, PaymentRequestCompleted) and what is not PaymentRequestCompleted


def _join(project: object, verifier: object, inbox: object, policy: HandlingPolicy) -> "PaymentJoin":
    from tgmembership_async.project.client import Project  # noqa: PLC0415 - loaded on use
    from tgmembership_async.webhooks.joining import PaymentJoin  # noqa: PLC0415

    if not isinstance(project, Project):
        msg = f"project must be a Project, not {type(project).__name__}"
        raise UsageError(msg)
    if inbox is None or not isinstance(verifier, ProjectVerifier):
        msg = "a Receiver with a project needs an inbox, where payments wait, and a ProjectVerifier"
        raise UsageError(msg)
    if verifier.project_id is not None and verifier.project_id.lower() != project.project_id:
        msg = "the ProjectVerifier and the Project are of different projects"
        raise UsageError(msg)
    return PaymentJoin(project, timeout=policy.handler_timeout)


def _check(verifier: object, inbox: object, policy: object, max_body: object) -> None:
    if not isinstance(verifier, Verifier | ProjectVerifier):
        msg = f"a Receiver needs a Verifier(secret), not {type(verifier).__name__}"
        raise UsageError(msg)
    if inbox is not None and not isinstance(inbox, Inbox):
        msg = f"inbox must be an Inbox, such as SqliteInbox(path), or None, not {type(inbox).__name__}"
        raise UsageError(msg)
    if not isinstance(policy, HandlingPolicy):
        msg = f"policy must be a HandlingPolicy, not {type(policy).__name__}"
        raise UsageError(msg)
    if isinstance(max_body, bool) or not isinstance(max_body, int) or max_body < 1:
        msg = f"max_body must be a number of bytes above 0, not {max_body!r:.80}"
        raise UsageError(msg)
