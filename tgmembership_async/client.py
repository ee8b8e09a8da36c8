"""The base of the clients of all API generations: lifecycle, views with other options, and the middleware chain."""

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from time import time
from typing import Any, Final, Literal, Self, TypeVar, Unpack
from weakref import WeakSet

from anyio import CancelScope, create_task_group, current_time
from anyio.lowlevel import current_token
from attrs import evolve

from tgmembership_async.admission import Admission
from tgmembership_async.calls import Observer, perform
from tgmembership_async.descriptors import shortage
from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.middleware import Deadline, Exchange, Middleware, Next, Retry, chain
from tgmembership_async.options import CallOptions, check_names
from tgmembership_async.protocol.gate import Gate, SharedGate
from tgmembership_async.protocol.retry import Budget
from tgmembership_async.protocol.service_clock import ServiceClock
from tgmembership_async.protocol.wire import Account, Hold, Params, Progress, Request, Response, Safety, Timeouts, Verb
from tgmembership_async.settings import Options
from tgmembership_async.transport.base import Transport
from tgmembership_async.values.learned_secrets import REDACT
from tgmembership_async.values.models import AccessToken
from tgmembership_async.values.secret import hides_arguments

T = TypeVar("T")
Extra = Mapping[str, str | int] | None
_logger: Final = logging.getLogger("tgmembership_async")


class Client(AsyncResource):
    """A client of one account: pooled connections, retries that never repeat an unsafe call, one deadline per call.

    `Session` and `project.Project` are its kinds. Use one with `async with`, or call `open()` and `aclose()`, which may
    run in different tasks of one event loop.
    """

    _account: Account
    _options: Options
    _shared: "Shared"
    _is_view: bool = False

    def _build(self, budget: Budget, deadline: Deadline) -> None:
        self._budget = budget
        self._deadline = deadline
        retry = Retry(self._options.retry, budget, self._shared.gate, self._shared.shared_gate)
        self._send = self._shared.chain(self._deadline, retry)

    @property
    def is_open(self) -> bool:
        """Tell whether the client is open."""
        return self._shared.state == "open"

    @property
    def deadline(self) -> float:
        """Return the deadline of a whole call, in seconds."""
        return self._options.deadline

    @property
    def grant_timeout(self) -> float:
        """Return the timeout of one exchange that must not be repeated, such as `addMember`, in seconds."""
        return self._options.grant_timeout

    @property
    def retry_tokens(self) -> int:
        """Return the remaining tokens of the retry budget of this client or view."""
        return self._budget.tokens

    async def open(self) -> Self:
        """Open the client on the running event loop, and its `gate` unless that is open already.

        Raises UsageError if it was opened before.
        """
        self._refuse_view("entered")
        await self._shared.open()
        REDACT.add(self._account.scrubber, self._account.learned)
        return self

    async def aclose(self) -> None:
        """Close all connections. Running calls end with UsageError, except an unsafe call, such as `addMember`, during
        its exchange: it has `grant_timeout` seconds to finish.
        """  # noqa: D205 - the exception must not be overlooked
        self._refuse_view("closed")
        await self._shared.close(self._options.grant_timeout)

    @hides_arguments
    def with_options(self, *, own_budget: bool = False, **options: Unpack[CallOptions]) -> Self:
        """Return a view of this client with another `deadline`, `retry`, `connect_timeout`, `read_timeout` or
        `grant_timeout`; it shares connections, retry budget and gate, and is open as long as the client.

        With `own_budget` the view has a retry budget of its own, so that bulk work cannot use up that of other calls,
        and its `end_calls` ends no other calls.
        """  # noqa: D205 - the names are the contract
        check_names("with_options", CallOptions, options)
        changed = evolve(self._options, **options)
        view = copy(self)
        vars(view).update(_options=changed, _is_view=True)
        own = (Budget(changed.retry.budget), Deadline()) if own_budget else (self._budget, self._deadline)
        Client._build(view, *own)
        return view

    @abstractmethod
    def _grant(self, hold: Hold, plan_id: Any, member_id: int | None) -> Awaitable[AccessToken]:
        """Make the call that a Granter makes once for each ref, holding `hold` only during exchanges."""

    async def end_calls(self) -> None:
        """End the running calls of this client or view as `aclose` does, without closing connections."""
        await self._deadline.close(self._options.grant_timeout)

    def _refuse_view(self, what: str) -> None:
        if self._is_view:
            msg = f"a view made by with_options cannot be {what}; use the {self._account.client} it came from"
            raise UsageError(msg)

    def _perform(self, request: Request, convert: Callable[[Any], T]) -> Awaitable[tuple[T, Response]]:
        """Send a request through the chain, and return its structured result and its response."""
        return perform(self._send, request, convert, self._shared.observer)

    def _request(
        self, method: str, verb: Verb, safety: Safety, params: Params, *, timeouts: Timeouts, path: str | None = None
    ) -> Request:
        now = self._shared.check_ready()
        progress = Progress(started=now, deadline=now + self._options.deadline)
        return Request(method, verb, params, safety, self._account, timeouts, progress, path=path)


def _running_loop() -> tuple[object, Callable[[], float]]:
    """Return an identity of the running event loop, and its clock; anyio takes five times as long for both."""
    loop = asyncio_loop()
    return (current_token(), current_time) if loop is None else (loop, loop.time)


class Shared:
    """State that a client shares with its views: transport, admission control, gate and lifecycle."""

    def __init__(
        self,
        *,
        client: str,
        transport: Transport,
        max_connections: int,
        gate: Gate,
        shared_gate: SharedGate | None,
        middleware: tuple[Middleware, ...],
        attempt_middleware: tuple[Middleware, ...],
        observer: Observer | None,
        pause_cap: float,
    ) -> None:
        self.state: Literal["not entered", "open", "closed"] = "not entered"
        self._client = client
        self.observer = observer
        self._transport = transport
        self.gate = gate
        self.shared_gate = shared_gate
        self._opened_gate = False
        self._middleware = middleware
        self._attempt_middleware = attempt_middleware
        self._deadlines: WeakSet[Deadline] = WeakSet()
        self.admission: Admission = Admission(gate, max_connections, shared_gate, pause_cap=pause_cap)
        self.clock: ServiceClock = ServiceClock(time)
        self._connections = max_connections
        self._loop: object = None

    def chain(self, deadline: Deadline, retry: Retry) -> Next:
        """Return the middleware chain that ends at the transport."""
        self._deadlines.add(deadline)
        layers: tuple[Middleware, ...] = (
            deadline,
            *self._middleware,
            retry,
            self.admission,
            *self._attempt_middleware,
        )
        return chain(layers, Exchange(self._transport, self.clock))

    async def open(self) -> None:
        """Open the client, which is possible once."""
        if self.state != "not entered":
            msg = f"this {self._client} is {'already open' if self.state == 'open' else 'closed'}; make a new one"
            raise UsageError(msg)
        if self.shared_gate is not None and not self.shared_gate.is_open:
            await self.shared_gate.open()
            self._opened_gate = True
        short = shortage(self._connections)
        if short is not None:
            _logger.warning("%s", short)
        self._loop, _ = _running_loop()
        self.state = "open"

    def check_ready(self) -> float:
        """Return the time on the loop's clock; raise UsageError unless the client is open on this event loop."""
        loop, clock = _running_loop()
        if self.state == "open" and loop == self._loop:
            return clock()
        if self.state == "not entered":
            name = "tg" if self._client == "Session" else self._client.lower()
            use = f"`async with {self._client}(...) as {name}:`, or await {name}.open() first"
            msg = f"the {self._client} is not open: use {use}"
        elif self.state == "closed":
            msg = f"the {self._client} is closed: make a new one, or close it after the last call"
        else:
            msg = f"the {self._client} was opened on another event loop: open one {self._client} in each loop"
        raise UsageError(msg)

    async def close(self, grace: float) -> None:
        """Close the client; closing it again does nothing."""
        if self.state != "open":
            self.state = "closed"
            return
        self.check_ready()
        self.state = "closed"
        try:
            async with create_task_group() as group:
                for deadline in tuple(self._deadlines):
                    group.start_soon(deadline.close, grace)
        finally:
            with CancelScope(shield=True):
                await self._transport.aclose()
                if self._opened_gate and self.shared_gate is not None:
                    await self.shared_gate.aclose()


def grant_holding(client: Client, hold: Hold, plan_id: int | str, member_id: int | None) -> Awaitable[AccessToken]:
    """Create what a ref stands for: a Session an access token, a Project a payment request.

    `hold` is held only during exchanges.
    """
    return client._grant(hold, plan_id, member_id)  # noqa: SLF001 - for callers that claim a row first


def admission_of(client: Client) -> Admission:
    """Return the admission control of a client and its views."""
    return client._shared.admission  # noqa: SLF001 - for callers that claim a row first


def clock_of(client: Client) -> ServiceClock:
    """Return what a client has learned about the service's clock."""
    return client._shared.clock  # noqa: SLF001 - to compare its times with ours


def account_of(client: Client) -> Account:
    """Return the account that a client calls for, and at which service."""
    return client._account  # noqa: SLF001 - to bind a ledger to it
