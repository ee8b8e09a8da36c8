"""The Receiver: headers and body in, an Answer out; in between, a delivery is verified, stored, handed to handlers."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from tgmembership_async.errors import NotAuthentic, Unreadable, UsageError
from tgmembership_async.lifecycle import Lived
from tgmembership_async.settings import seconds
from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.asgi import ASGIReceiver
from tgmembership_async.webhooks.events import Event, read_event
from tgmembership_async.webhooks.handlers import Handler, Handlers
from tgmembership_async.webhooks.headers import HeadersLike
from tgmembership_async.webhooks.inbox import Arrival, Inbox
from tgmembership_async.webhooks.intake import DirectIntake, StoredIntake
from tgmembership_async.webhooks.policy import HandlingPolicy
from tgmembership_async.webhooks.refusals import RefusalLog
from tgmembership_async.webhooks.replay import MemoryReplay
from tgmembership_async.webhooks.signature import Verifier

if TYPE_CHECKING:
    from aiohttp import web

_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_DEFAULT_POLICY: Final = HandlingPolicy()
_MAX_BODY: Final = 65_536
_BODY_TIMEOUT: Final = 10.0
_DIGITS: Final = 20

E = TypeVar("E", bound=Event)
H = TypeVar("H", bound=Handler[Any])


class Receiver(Lived):
    """Take the service's webhook deliveries: `@receiver.on(...)` for the handlers, `receiver.asgi` for the server.

    With an `inbox` a delivery is stored, then answered 200, then handled, again and again where a handler fails. Enter
    it with `async with`, or call `open()` and `aclose()`, perhaps in different tasks; before that it answers 503. It
    opens and closes the inbox unless that is open already. On asyncio it handles in the background, in a task of its
    own; on trio, or with `background=False`, call `process_pending()`, or let `run()` run.

    Without an inbox it needs no entering: handlers run before the answer, a failing one answers 500 so that the service
    repeats, and `replay` remembers, in this process, what was handled.

    `max_body` bounds a body in bytes, and `body_timeout` the seconds in which all of it must come, or it is answered
    408: who sends a byte now and then would hold a connection for ever. `probes=True` answers 200 to GET and HEAD and
    to an empty body, for the service takes a URL only if it answers 200, and it asks before there is a secret
    (documented). `clock` gives unix seconds.
    """

    def __init__(
        self,
        verifier: Verifier,
        inbox: Inbox | None = None,
        *,
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
        self._handlers = Handlers()
        self._stored: StoredIntake | None = None
        if inbox is None:
            if replay is None:
                replay = MemoryReplay(keep=max(policy.repeat_window, 2 * verifier.tolerance))
            self._intake: DirectIntake | StoredIntake = DirectIntake(self._handlers, policy, replay)
        else:
            self._stored = StoredIntake(inbox, self._handlers, policy, background=background, clock=clock)
            self._intake = self._stored

    def _shown(self) -> str:
        return f"<Receiver with {self.inbox!r}>" if self.inbox is not None else "<Receiver without an inbox>"

    @overload
    def on(self, what: str) -> Callable[[H], H]: ...
    @overload
    def on(self, what: type[E]) -> Callable[[Handler[E]], Handler[E]]: ...
    def on(self, what: str | type[Event]) -> Callable[[Any], Any]:
        """Register an async function for the events of a name, or of a class and its subclasses: `Event` is all.

        It gets the event. It runs again if it fails, or if the process dies while it runs: `event.fingerprint` is a key
        to recognise what was done, `event.attempt` says whether this is the first time.
        """

        def register(handler: Handler[Any]) -> Handler[Any]:
            self._handlers.add(what, handler)
            return handler

        return register

    def on_unknown(self, handler: H) -> H:
        """Register an async function for all events that no other handler takes."""
        self._handlers.add(None, handler)
        return handler

    async def handle(self, headers: HeadersLike, body: bytes) -> Answer:
        """Return what to answer to a POST with these headers and this raw body. Any framework will do.

        401: not authentic. 400: authentic, but not an event (stored all the same). 413: too large. 503: not entered, or
        it cannot be stored. 500: a handler failed (without an inbox). 200: it is stored, or handled, or was before.
        """
        if not self._intake.ready:
            return answers.NOT_READY
        if len(body) > self.max_body:
            return answers.TOO_LARGE
        if self._probes and not body:
            return answers.OK
        try:
            delivery = self.verifier.verify(headers, body)
        except NotAuthentic as error:
            self._refusals.note(str(error))
            return answers.NOT_AUTHENTIC
        received_at = datetime.fromtimestamp(self._clock(), UTC)
        try:
            event = read_event(delivery, received_at)
        except Unreadable as error:
            _logger.warning("%s", error)
            return await self._intake.take(Arrival(delivery, received_at, note=str(error)), None)
        return await self._intake.take(Arrival(delivery, received_at), event)

    def before_body(self, verb: str, length: str | None = None) -> Answer | None:
        """Return what to answer without reading a body, by the verb and the Content-Length, or None: read it first."""
        allowed = answers.ALLOWED[self._probes]
        if verb not in allowed:
            return answers.not_allowed(", ".join(allowed))
        if verb != "POST":
            return answers.OK
        if not self._intake.ready:
            return answers.NOT_READY
        if length is not None and length.isdecimal() and (len(length) > _DIGITS or int(length) > self.max_body):
            return answers.TOO_LARGE
        return None

    async def aiohttp_handler(self, request: "web.Request") -> "web.Response":
        """Answer a request to aiohttp's server: `router.add_route("*", "/tgmembership", receiver.aiohttp_handler)`."""
        from tgmembership_async.webhooks.aiohttp import respond  # noqa: PLC0415 - aiohttp is loaded on use

        return await respond(self, request)

    async def open(self) -> Self:
        """Open the inbox and begin to handle what it holds. Raises what the inbox raises, and UsageError if open."""
        if self._stored is not None:
            await self._stored.open()
        return self

    async def aclose(self) -> None:
        """Answer 503 from now on, let handlers that run end, at most `handler_timeout` seconds, and close the inbox."""
        if self._stored is not None:
            await self._stored.aclose()

    async def process_pending(self) -> int:
        """Handle what the inbox holds until nothing is due any more, and return how many attempts that took.

        For trio, and for tests with `background=False`.
        """
        return 0 if self._stored is None else await self._stored.worker.process_pending()

    async def run(self) -> None:
        """Handle what the inbox holds, as it becomes due, until the Receiver is closed: for a task of your own."""
        if self._stored is not None:
            await self._stored.worker.run()


def _check(verifier: object, inbox: object, policy: object, max_body: object) -> None:
    if not isinstance(verifier, Verifier):
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
