"""The Session, a client for one bot: its lifecycle, and one coroutine per method of the service."""

import logging
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import partial
from typing import Any, Final, Literal, Self, TypeVar, Unpack, overload
from weakref import WeakSet

from anyio import CancelScope, create_task_group, current_time
from anyio.lowlevel import current_token
from attrs import evolve

from tgmembership_async import settings
from tgmembership_async.calls import Observer, perform, read
from tgmembership_async.descriptors import shortage
from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.middleware import Admission, Deadline, Exchange, Middleware, Next, Retry, chain
from tgmembership_async.options import CallOptions, SessionOptions, check_names
from tgmembership_async.protocol import endpoints
from tgmembership_async.protocol.endpoints import Endpoint
from tgmembership_async.protocol.envelope import Envelope
from tgmembership_async.protocol.gate import Gate, RateLimit, SharedGate
from tgmembership_async.protocol.retry import Budget, RetryPolicy
from tgmembership_async.protocol.service_clock import ServiceClock
from tgmembership_async.protocol.structuring import results
from tgmembership_async.protocol.wire import (
    Account,
    BodyFormat,
    Gateway503,
    Hold,
    Params,
    Progress,
    Request,
    Safety,
    Verb,
)
from tgmembership_async.transport.base import Transport
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
from tgmembership_async.values.secret import Secret, hides_arguments

T = TypeVar("T")
Extra = Mapping[str, str | int] | None
_DEFAULT_POLICY: Final = RetryPolicy()
_logger: Final = logging.getLogger("tgmembership_async")
_METHODS_WITH_A_GRANT: Final = frozenset({endpoints.ADD_MEMBER.method})


class Session(AsyncResource):
    """Call the service as one bot: pooled connections, retries that never grant twice, typed results.

    `bot_id` and `api_key` are the bot's credentials; `base_url` is https, or http to a loopback host. `deadline` is
    the seconds for a whole call: queue, gate, backoff and I/O. `connect_timeout` bounds one connection attempt,
    `read_timeout` the gap between two reads, `grant_timeout` one `addMember` exchange, all in seconds. At most
    `max_connections` requests are in flight. `retry` is the retry policy, `rate_limit` the maximum request rate. With a
    `gate`, such as PostgresGate, that rate and each pause that the service asks for apply to all workers of a bot.
    `middleware` wraps whole calls and `attempt_middleware` each attempt: `async (request, call_next) -> Response`.
    `body_format` is "json" or "form" (the service documents neither; JSON is *assumed*). `proxy` is a URL, None, or
    "env" for the environment variables; with an http `base_url` no proxy is used, because it would read the API key.
    `transport` is "httpx", "aiohttp" (an extra, asyncio only, faster) or a Transport of your own. `observer` is called
    with a CallEnded at the end of each call. `gateway_503` is the outcome of a 503 without the service's envelope:
    "unknown", because the service may have acted (*seen* with Varnish), or "turned away", for a gateway that is known
    to refuse before it forwards, such as nginx `limit_req`. Where "turned away" is wrong, members are granted twice.
    Raises UsageError for wrong values, before anything is sent.

    Use it with `async with`, or call `open()` and `aclose()`, which may run in different tasks of one event loop.
    """

    @hides_arguments
    def __init__(
        self,
        bot_id: int,
        api_key: str | Secret,
        *,
        base_url: str = settings.BASE_URL,
        deadline: float = 60.0,
        connect_timeout: float = 5.0,
        read_timeout: float = 10.0,
        grant_timeout: float = 30.0,
        max_connections: int = 8,
        retry: RetryPolicy = _DEFAULT_POLICY,
        rate_limit: RateLimit | None = None,
        gate: SharedGate | None = None,
        middleware: Iterable[Middleware] = (),
        attempt_middleware: Iterable[Middleware] = (),
        body_format: BodyFormat = "json",
        proxy: str | None = "env",
        transport: Literal["httpx", "aiohttp"] | Transport = "httpx",
        observer: Observer | None = None,
        gateway_503: Gateway503 = "unknown",
    ) -> None:
        self._account = settings.account(bot_id, api_key, base_url, body_format, gateway_503)
        self._options = settings.Options(
            deadline=deadline,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            grant_timeout=grant_timeout,
            retry=retry,
        )
        self._shared = _Shared(
            transport=settings.transport(transport, proxy, self._account.scheme),
            max_connections=settings.positive_int(max_connections),
            gate=Gate(settings.rate_limit(rate_limit)),
            shared_gate=settings.shared_gate(gate),
            middleware=settings.check_middleware("middleware", middleware),
            attempt_middleware=settings.check_middleware("attempt_middleware", attempt_middleware),
            observer=settings.observer(observer),
            pause_cap=retry.pause_cap,
        )
        self._is_view = False
        self._build(Budget(retry.budget), Deadline())

    def _build(self, budget: Budget, deadline: Deadline) -> None:
        self._budget = budget
        self._deadline = deadline
        retry = Retry(self._options.retry, budget, self._shared.gate, self._shared.shared_gate)
        self._send = self._shared.chain(self._deadline, retry)

    @classmethod
    @hides_arguments
    def from_env(cls, prefix: str = "TGMEMBERSHIP_", **options: Unpack[SessionOptions]) -> Self:
        """Build a Session from BOT_ID, API_KEY or API_KEY_FILE (a path), and BASE_URL, each after `prefix`.

        `options` are further arguments of Session. Raises UsageError that names the missing variable, or an option that
        there is not.
        """
        check_names("Session.from_env", SessionOptions, options)
        arguments: dict[str, Any] = {**settings.from_environment(prefix), **options}
        return cls(**arguments)

    def _shown(self) -> str:
        return f"<Session of bot {self._account.bot_id} at {self._account.base_url}, {self._shared.state}>"

    @property
    def is_open(self) -> bool:
        """Tell whether the Session is open."""
        return self._shared.state == "open"

    @property
    def deadline(self) -> float:
        """Return the deadline of a whole call, in seconds."""
        return self._options.deadline

    @property
    def grant_timeout(self) -> float:
        """Return the timeout of one `addMember` exchange, in seconds."""
        return self._options.grant_timeout

    @property
    def retry_tokens(self) -> int:
        """Return the remaining tokens of the retry budget of this Session or view."""
        return self._budget.tokens

    async def open(self) -> Self:
        """Open the Session on the running event loop, and its `gate` unless that is open already.

        Raises UsageError if the Session was opened before.
        """
        self._refuse_view("entered")
        await self._shared.open()
        return self

    async def aclose(self) -> None:
        """Close all connections. Running calls end with UsageError, except an `addMember` during its exchange: it has
        `grant_timeout` seconds to finish.
        """  # noqa: D205 - the exception must not be overlooked
        self._refuse_view("closed")
        await self._shared.close(self._options.grant_timeout)

    @hides_arguments
    def with_options(self, *, own_budget: bool = False, **options: Unpack[CallOptions]) -> Self:
        """Return a view of this Session with another `deadline`, `retry`, `connect_timeout`, `read_timeout` or
        `grant_timeout`; it shares connections, retry budget and gate, and is open as long as the Session.

        With `own_budget` the view has a retry budget of its own, so that bulk work cannot use up that of other calls,
        and its `end_calls` ends no other calls.
        """  # noqa: D205 - the names are the contract
        check_names("with_options", CallOptions, options)
        changed = evolve(self._options, **options)
        view = copy(self)
        vars(view).update(_options=changed, _is_view=True)
        own = (Budget(changed.retry.budget), Deadline()) if own_budget else (self._budget, self._deadline)
        Session._build(view, *own)
        return view

    async def end_calls(self) -> None:
        """End the running calls of this Session or view as `aclose` does, without closing connections."""
        await self._deadline.close(self._options.grant_timeout)

    def _refuse_view(self, what: str) -> None:
        if self._is_view:
            msg = f"a view made by with_options cannot be {what}; use the Session it came from"
            raise UsageError(msg)

    async def add_member(self, plan_id: int, member_id: int | None = None, *, extra: Extra = None) -> AccessToken:
        """Create a one-time access token for a plan (*documented*); retried only if the service provably did nothing.

        `member_id` is a Telegram user who has talked to the bot. Any reply with `ok: true` gives a token, whatever its
        shape. Raises NotSent, RateLimited or another APIError if nothing was granted, and OutcomeUnknown if the member
        may have been granted: do not call again then. `grants.Granter` adds a ledger to this call.
        """
        return await self._ask(endpoints.ADD_MEMBER, {"plan_id": plan_id, "member_id": member_id}, extra)

    async def get_plans(self, plan_id: int | None = None, *, extra: Extra = None) -> list[Plan]:
        """Return the bot's plans, or a list of the one with `plan_id` (*documented*)."""
        return await self._ask(endpoints.GET_PLANS, {"plan_id": plan_id}, extra)

    async def get_subscribers(self, user_id: int | None = None, *, extra: Extra = None) -> list[Subscriber]:
        """Return all subscriptions, or those of one Telegram user; an empty list if there are none (shape *seen*)."""
        return await self._ask(endpoints.GET_SUBSCRIBERS, {"user_id": user_id}, extra)

    async def count_orders(self, *, extra: Extra = None) -> Count:
        """Return the number of orders (shape *assumed*); `int(count)` works."""
        return await self._ask(endpoints.COUNT_ORDERS, {}, extra)

    async def count_users(self, *, extra: Extra = None) -> Count:
        """Return the number of users (shape *assumed*); `int(count)` works."""
        return await self._ask(endpoints.COUNT_USERS, {}, extra)

    async def get_revenue(self, *, extra: Extra = None) -> Revenue:
        """Return the revenue, one Money per currency (shape *assumed*)."""
        return await self._ask(endpoints.GET_REVENUE, {}, extra)

    async def most_popular_payment_methods(self, *, extra: Extra = None) -> list[PaymentMethodUsage]:
        """Return how often each payment method was used (shape *assumed*)."""
        return await self._ask(endpoints.MOST_POPULAR_PAYMENT_METHODS, {}, extra)

    async def plans_performance(self, *, extra: Extra = None) -> list[PlanPerformance]:
        """Return orders and revenue for each plan (shape *assumed*)."""
        return await self._ask(endpoints.PLANS_PERFORMANCE, {}, extra)

    async def set_webhook(self, url: str, *, extra: Extra = None) -> Webhook:
        """Set the https URL that the service calls on events (it must answer 200); one per bot (*documented*).

        `.secret` is the signing secret if the reply contains one (*assumed*). A Session with a local service, such as
        the fake one, also accepts an http URL of a loopback host.
        """
        local = self._account.scheme == "http"
        endpoint = endpoints.SET_WEBHOOK_LOCALLY if local else endpoints.SET_WEBHOOK
        return await self._ask(endpoint, {"url": url}, extra, partial(results.webhook, url=url))

    async def delete_webhook(self, *, extra: Extra = None) -> None:
        """Remove the bot's webhook (*documented*)."""
        await self._ask(endpoints.DELETE_WEBHOOK, {}, extra)

    @overload
    async def call(
        self, method: str, *, verb: Verb = ..., params: Extra = ..., safety: Safety | str | None = ...
    ) -> Reply[Any]: ...
    @overload
    async def call(
        self, method: str, *, verb: Verb = ..., params: Extra = ..., into: type[T], safety: Safety | str | None = ...
    ) -> Reply[T]: ...
    async def call(
        self,
        method: str,
        *,
        verb: Verb = "GET",
        params: Extra = None,
        into: Any = Any,
        safety: Safety | str | None = None,
    ) -> Reply[Any]:
        """Call any method by name and structure its result `into` a type.

        A documented method keeps its own safety; otherwise GET counts as safe and every other verb as unsafe, unless
        `safety` is given as "safe", "idempotent" or "unsafe". Raises the same errors as the other coroutines.
        """
        name, checked_verb, how_safe = endpoints.call_by_name(method, verb, safety)
        request = self._request(name, checked_verb, how_safe, endpoints.extra_params(params or {}))
        response = await perform(self._send, request, self._shared.observer)
        result = await read(lambda raw: results.structure(raw, into), response, request)
        envelope = response.envelope
        assert isinstance(envelope, Envelope)  # noqa: S101 - a successful response has one
        elapsed = current_time() - request.progress.started
        return Reply(
            result, envelope.code, envelope.description, envelope.request_id, request.progress.attempts, elapsed
        )

    async def _ask(
        self,
        endpoint: Endpoint[T],
        given: Mapping[str, object],
        extra: Extra,
        convert_result: Callable[[Any], T] | None = None,
        hold: Hold | None = None,
    ) -> T:
        params = endpoints.arguments(endpoint, given, extra)
        request = self._request(endpoint.method, endpoint.verb, endpoint.safety, params)
        request.progress.hold = hold
        response = await perform(self._send, request, self._shared.observer)
        return await read(convert_result or endpoint.read, response, request)

    def _request(self, method: str, verb: Verb, safety: Safety, params: Params) -> Request:
        now = self._shared.check_ready()
        timeouts = self._options.for_grants if method in _METHODS_WITH_A_GRANT else self._options.for_others
        progress = Progress(started=now, deadline=now + self._options.deadline)
        return Request(method, verb, params, safety, self._account, timeouts, progress)


async def add_member_holding(session: Session, hold: Hold, plan_id: int, member_id: int | None) -> AccessToken:
    """Call `addMember` as `Session.add_member` does, holding `hold` only during exchanges."""
    given = {"plan_id": plan_id, "member_id": member_id}
    return await session._ask(endpoints.ADD_MEMBER, given, None, hold=hold)  # noqa: SLF001 - the rest of add_member


def admission_of(session: Session) -> Admission:
    """Return the admission control of a Session and its views."""
    return session._shared.admission  # noqa: SLF001 - for callers that claim a row first


def clock_of(session: Session) -> ServiceClock:
    """Return what a Session has learned about the service's clock."""
    return session._shared.clock  # noqa: SLF001 - for whoever compares its times with ours


def account_of(session: Session) -> Account:
    """Return the bot that a Session calls for, and at which service."""
    return session._account  # noqa: SLF001 - for whoever records whose rows are


def _running_loop() -> tuple[object, Callable[[], float]]:
    """Return an identity of the running event loop, and its clock; anyio takes five times as long for both."""
    loop = asyncio_loop()
    return (current_token(), current_time) if loop is None else (loop, loop.time)


class _Shared:
    """State that a Session shares with its views: transport, admission control, gate and lifecycle."""

    def __init__(
        self,
        *,
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
        self.observer = observer
        self._transport = transport
        self.gate = gate
        self.shared_gate = shared_gate
        self._opened_gate = False
        self._middleware = middleware
        self._attempt_middleware = attempt_middleware
        self._deadlines: WeakSet[Deadline] = WeakSet()
        self.admission = Admission(gate, max_connections, shared_gate, pause_cap=pause_cap)
        self.clock = ServiceClock()
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
        """Open the Session, which is possible once."""
        if self.state != "not entered":
            msg = f"this Session is {'already open' if self.state == 'open' else 'closed'}; make a new one"
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
        """Return the time on the loop's clock; raise UsageError unless the Session is open on this event loop."""
        loop, clock = _running_loop()
        if self.state == "open" and loop == self._loop:
            return clock()
        if self.state == "not entered":
            msg = "the Session is not open: use `async with Session(...) as tg:`, or await tg.open() first"
        elif self.state == "closed":
            msg = "the Session is closed: make a new one, or close it after the last call"
        else:
            msg = "the Session was opened on another event loop: open one Session in each loop"
        raise UsageError(msg)

    async def close(self, grace: float) -> None:
        """Close the Session; closing it again does nothing."""
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
