"""The Session, a client for one bot: its lifecycle, and one coroutine per method of the service."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal, Self, TypeVar, Unpack, overload

from tgmembership_async import settings
from tgmembership_async.calls import Observer, reply
from tgmembership_async.client import Client, Extra, Shared
from tgmembership_async.middleware import Deadline, Middleware
from tgmembership_async.options import SessionOptions, check_names
from tgmembership_async.protocol import endpoints
from tgmembership_async.protocol.endpoints import Endpoint
from tgmembership_async.protocol.gate import Gate, RateLimit, SharedGate
from tgmembership_async.protocol.retry import Budget, RetryPolicy
from tgmembership_async.protocol.structuring import results
from tgmembership_async.protocol.wire import (
    BodyFormat,
    Gateway503,
    Hold,
    Params,
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
_DEFAULT_POLICY: Final = RetryPolicy()


class Session(Client):
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
    `generation` is the generation of the bot's API. "v1" has only `add_member`, `check` and `call`; all of it is
    *documented*, and was never run by us against the live service. Raises UsageError for wrong values, before anything
    is sent.

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
        generation: Literal["legacy", "v1"] = "legacy",
    ) -> None:
        self._account = self._bot = settings.account(bot_id, api_key, base_url, body_format, gateway_503, generation)
        self._api = endpoints.GENERATIONS[generation]
        self._options = settings.Options(
            deadline=deadline,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            grant_timeout=grant_timeout,
            retry=retry,
        )
        self._shared = Shared(
            client=self._account.client,
            transport=settings.transport(transport, proxy, self._account.scheme),
            max_connections=settings.positive_int(max_connections),
            gate=Gate(settings.rate_limit(rate_limit)),
            shared_gate=settings.shared_gate(gate),
            middleware=settings.check_middleware("middleware", middleware),
            attempt_middleware=settings.check_middleware("attempt_middleware", attempt_middleware),
            observer=settings.observer(observer),
            pause_cap=retry.pause_cap,
        )
        self._build(Budget(retry.budget), Deadline())

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
        return f"<Session of bot {self._bot.bot_id} at {self._account.base_url}, {self._shared.state}>"

    @property
    def generation(self) -> str:
        """Return the generation of the API that this Session calls: "legacy" or "v1"."""
        return self._api.name

    async def add_member(self, plan_id: int, member_id: int | None = None, *, extra: Extra = None) -> AccessToken:
        """Create a one-time access token for a plan (*documented*); retried only if the service provably did nothing.

        `member_id` is a Telegram user who has talked to the bot; API v1 requires it. Any reply with `ok: true` gives a
        token, whatever its shape. Raises NotSent, RateLimited or another APIError if nothing was granted, and
        OutcomeUnknown if the member may have been granted: do not call again then. `grants.Granter` adds a ledger to
        this call.
        """
        return await self._ask(self._api.add_member, {"plan_id": plan_id, "member_id": member_id}, extra)

    def _grant(self, hold: Hold, plan_id: Any, member_id: int | None) -> Awaitable[AccessToken]:
        return self._ask(self._api.add_member, {"plan_id": plan_id, "member_id": member_id}, None, hold=hold)

    async def check(self) -> None:
        """Prove the credentials with one cheap call: `getPlans`, in API v1 `GET /bot` (*documented*).

        Raises Unauthorized or another APIError if the service refuses; its `description` says why.
        """
        await self._ask(self._api.check, {}, None)

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
        name, checked_verb, how_safe = endpoints.call_by_name(method, verb, safety, self._api)
        request = self._prepare(name, checked_verb, how_safe, endpoints.extra_params(params or {}))
        result, response = await self._perform(request, lambda raw: results.structure(raw, into))
        return reply(result, response, request)

    async def _ask(
        self,
        endpoint: Endpoint[T],
        given: Mapping[str, object],
        extra: Extra,
        convert_result: Callable[[Any], T] | None = None,
        hold: Hold | None = None,
    ) -> T:
        if self._api is not endpoints.LEGACY_API:
            self._api.check_has(endpoint)
        params = endpoints.arguments(endpoint, given, extra)
        request = self._prepare(endpoint.method, endpoint.verb, endpoint.safety, params)
        request.progress.hold = hold
        result, _ = await self._perform(request, convert_result or endpoint.read)
        return result

    def _prepare(self, method: str, verb: Verb, safety: Safety, params: Params) -> Request:
        timeouts = self._options.for_grants if method in endpoints.GRANTS else self._options.for_others
        return self._request(method, verb, safety, params, timeouts=timeouts)
