"""The Project: a client of API v2, with one coroutine or async iterator per method."""

import json
import os
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from functools import partial
from string import Formatter
from typing import Any, Final, Literal, Self, TypeVar, Unpack

from tgmembership_async import settings
from tgmembership_async.calls import Observer, envelope_of, reply
from tgmembership_async.client import Client, Extra, Shared
from tgmembership_async.errors import NotFound, UsageError
from tgmembership_async.middleware import Deadline, Middleware
from tgmembership_async.options import ClientOptions, check_names
from tgmembership_async.project import endpoints, results
from tgmembership_async.project.account import BASE_URL, account, from_environment
from tgmembership_async.project.errors import BalanceConflict
from tgmembership_async.project.ids import check_amount, check_path
from tgmembership_async.project.models import (
    Balance,
    BalanceChange,
    Coupon,
    Membership,
    PaymentRequest,
    ProjectPlan,
    ProjectUser,
)
from tgmembership_async.project.pages import Page, all_rows
from tgmembership_async.project.rate_headers import RateHeaders
from tgmembership_async.protocol.endpoints import Endpoint, arguments, check_uuid, extra_params, safety_of
from tgmembership_async.protocol.envelope import Envelope
from tgmembership_async.protocol.gate import Gate, RateLimit, SharedGate
from tgmembership_async.protocol.retry import Budget, RetryPolicy
from tgmembership_async.protocol.structuring.results import structure
from tgmembership_async.protocol.structuring.scalars import Mismatch, integer
from tgmembership_async.protocol.wire import Gateway503, Hold, Request, Safety, Timeouts, Verb
from tgmembership_async.transport.base import Transport
from tgmembership_async.values.models import AccessToken, Reply, Webhook
from tgmembership_async.values.secret import Secret, hides_arguments

T = TypeVar("T")
UserId = int | str
_DEFAULT_POLICY: Final = RetryPolicy()
_PAGE: Final = 50
_VERBS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_IN_PATH: Final[Mapping[str, frozenset[str]]] = {
    endpoint.method: frozenset(name for _, name, _, _ in Formatter().parse(endpoint.method) if name)
    for endpoint in endpoints.ENDPOINTS
}


class Project(Client):
    """Call API v2 for one project: `project_id` is a UUID, `token` the bearer token of its API.

    The other arguments are those of `Session`; `grant_timeout` bounds one exchange of `create_payment_request`. The
    documented rate limit is `RateLimit(100, 60)`; what replies announce is obeyed without it. The token is in no log,
    repr, error, or header that middleware sees. A user id is a Telegram id, as int or as digits; all other ids are
    UUIDs in text form, and money is Decimal. Raises UsageError for wrong values, before anything is sent.

    All of API v2 is *documented*, and was never run by us against the live service.
    """

    @hides_arguments
    def __init__(
        self,
        project_id: str,
        token: str | Secret,
        *,
        base_url: str = BASE_URL,
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
        proxy: str | None = "env",
        transport: Literal["httpx", "aiohttp"] | Transport = "httpx",
        observer: Observer | None = None,
        gateway_503: Gateway503 = "unknown",
    ) -> None:
        self._account = self._project = account(project_id, token, base_url, gateway_503)
        self._options = settings.Options(
            deadline=deadline,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            grant_timeout=grant_timeout,
            retry=retry,
        )
        own_gate = Gate(settings.rate_limit(rate_limit))
        attempts = settings.check_middleware("attempt_middleware", attempt_middleware)
        self._shared = Shared(
            client=self._account.client,
            transport=settings.transport(transport, proxy, self._account.scheme),
            max_connections=settings.positive_int(max_connections),
            gate=own_gate,
            shared_gate=settings.shared_gate(gate),
            middleware=settings.check_middleware("middleware", middleware),
            attempt_middleware=(*attempts, RateHeaders(own_gate, retry.pause_cap)),
            observer=settings.observer(observer),
            pause_cap=retry.pause_cap,
        )
        self._build(Budget(retry.budget), Deadline())

    @classmethod
    @hides_arguments
    def from_env(cls, prefix: str = "TGMEMBERSHIP_", **options: Unpack[ClientOptions]) -> Self:
        """Build a Project from PROJECT_ID, PROJECT_TOKEN or PROJECT_TOKEN_FILE, and PROJECT_BASE_URL, after `prefix`.

        `options` are further arguments of Project. Raises UsageError that names the missing variable, or an option that
        there is not.
        """
        check_names("Project.from_env", ClientOptions, options)
        found: dict[str, Any] = {**from_environment(prefix, os.environ), **options}
        return cls(**found)

    def _shown(self) -> str:
        return f"<Project {self.project_id} at {self._account.base_url}, {self._shared.state}>"

    @property
    def project_id(self) -> str:
        """Return the project's id."""
        return self._project.project_id

    async def check(self) -> None:
        """Prove the credentials with one cheap call, `GET /plans`.

        Raises Unauthorized or another APIError if the service refuses; its `description` says why.
        """
        await self._ask(endpoints.PLANS, {})

    async def plans(self) -> list[ProjectPlan]:
        """Return all plans."""
        return [plan async for plan in self._all(endpoints.PLANS, {}, lambda plan: plan.plan_id)]

    def users(self) -> AsyncGenerator[ProjectUser]:
        """Iterate over all users, page by page; each is yielded once."""
        return self._all(endpoints.USERS, {}, _user_id, _PAGE)

    async def user(self, user_id: UserId) -> ProjectUser:
        """Return a user. Raises NotFound if there is none."""
        return await self._ask(endpoints.USER, {"user_id": user_id})

    async def search_users(self, search: str) -> list[ProjectUser]:
        """Return the users that match a text of at least three characters."""
        return [user async for user in self._all(endpoints.SEARCH_USERS, {"search": search}, _user_id)]

    async def memberships(
        self, user_id: UserId | None = None, plan_id: str | None = None
    ) -> AsyncGenerator[Membership]:
        """Iterate over the memberships, active and past, of one user or of all, page by page.

        Each membership is yielded once. A list that shrinks while it is read is read again, and if rows are missing
        even then, a WARNING is logged. `plan_id` is compared here: the service has no such filter.
        """
        wanted = None if plan_id is None else check_uuid("plan_id", plan_id)
        rows = self._all(endpoints.MEMBERSHIPS, {"user_id": user_id}, lambda row: row.membership_id, _PAGE)
        async with aclosing(rows):  # the caller may stop early
            async for membership in rows:
                if wanted is None or (membership.plan_id or "").lower() == wanted:
                    yield membership

    async def extend_member(self, user_id: UserId, until: datetime) -> None:
        """Set the end of all memberships of a user to `until`, an aware time in the future.

        The end is absolute, so repeating the call changes nothing, and a lost reply is retried.
        """
        await self._ask(endpoints.EXTEND_MEMBER, {"user_id": user_id, "extend": until})

    async def extend_everybody(self, until: datetime, *, confirm: str) -> None:
        """Set the end of **all memberships of the project** to `until`. `confirm` must be the project's id."""
        if confirm != self.project_id:
            msg = f"extend_everybody changes all memberships of the project: pass confirm={self.project_id!r}"
            raise UsageError(msg)
        await self._ask(endpoints.EXTEND_EVERYBODY, {"extend": until})

    async def remove_membership(self, membership_id: str) -> bool:
        """End a membership now, and return True; False if there was no such membership, for example the second time."""
        try:
            await self._ask(endpoints.REMOVE_MEMBERSHIP, {"membership_id": membership_id})
        except NotFound as error:
            return error.maybe_applied  # an attempt without a reply may have removed it
        return True

    async def ban(self, user_id: UserId) -> None:
        """Ban a user."""
        await self._ask(endpoints.BAN, {"user_id": user_id})

    async def unban(self, user_id: UserId) -> bool:
        """Lift a ban, and return True; False if the user was not banned (a 404, *assumed*)."""
        try:
            await self._ask(endpoints.UNBAN, {"user_id": user_id})
        except NotFound as error:
            return error.maybe_applied
        return True

    def banned(self) -> AsyncGenerator[ProjectUser]:
        """Iterate over the banned users; each is yielded once."""
        return self._all(endpoints.BANNED, {}, _user_id)

    async def balance(self, user_id: UserId) -> Balance:
        """Return the balance of a user."""
        return await self._ask(endpoints.BALANCE, {"user_id": user_id})

    async def set_balance(
        self, user_id: UserId, amount: Decimal | int | str, *, expecting: Decimal | int | str, reason: str | None = None
    ) -> BalanceChange:
        """Set the balance of a user to `amount`, if it is `expecting` now.

        The service only knows "set", so a change by another client between our read and our write would be lost: it is
        detected afterwards. Raises BalanceConflict, whose `maybe_applied` says whether our amount was written.
        """
        new, expected = check_amount("amount", amount), check_amount("expecting", expecting)
        found = (await self.balance(user_id)).amount.amount
        if found != expected:
            msg = f"the balance is {found}, not {expected}: nothing was written; read it again and decide"
            raise BalanceConflict(msg, expected=expected, found=found, method=endpoints.ADJUST_BALANCE.method)
        given = {"user_id": user_id, "new_balance": new, "reason": reason}
        request = self._prepare(endpoints.ADJUST_BALANCE, given)
        change, _ = await self._perform(request, endpoints.ADJUST_BALANCE.read)
        # After a lost reply the balance before may be ours already.
        harmless = {expected, new} if request.progress.repeats else {expected}
        if change.previous_balance in harmless and change.new_balance == new:
            return change
        msg = (
            f"somebody else changed the balance from {expected} to {change.previous_balance} meanwhile, and it is "
            f"{change.new_balance} now: correct it by what they changed"
        )
        facts = {"method": request.method, "attempts": request.progress.attempts, "maybe_applied": True}
        raise BalanceConflict(msg, expected=expected, found=change.previous_balance, **facts)

    async def payment_request(self, payment_request_id: str) -> PaymentRequest:
        """Return a payment request. Raises NotFound if there is none."""
        return await self._ask(endpoints.PAYMENT_REQUEST, {"payment_request_id": payment_request_id})

    def payment_requests(self) -> AsyncGenerator[PaymentRequest]:
        """Iterate over all payment requests, page by page; each is yielded once."""
        return self._all(endpoints.PAYMENT_REQUESTS, {}, lambda row: row.payment_request_id, _PAGE)

    async def create_payment_request(self, user_id: UserId, plan_id: str, *, extra: Extra = None) -> PaymentRequest:
        """Create a payment request, which is pending until the user pays; retried only if nothing was done provably.

        Raises OutcomeUnknown if it may have been created: look through `payment_requests()` before you call again.
        `grants.Granter(project, ledger)` adds a ledger to this call, and creates one for each ref.
        """
        return await self._ask(endpoints.CREATE_PAYMENT_REQUEST, {"user_id": user_id, "plan_id": plan_id}, extra)

    async def _grant(self, hold: Hold, plan_id: Any, member_id: int | None) -> AccessToken:
        request = self._prepare(endpoints.CREATE_PAYMENT_REQUEST, {"user_id": member_id, "plan_id": plan_id})
        request.progress.hold = hold
        created, _ = await self._perform(request, results.payment_link)
        return created

    async def validate_coupon(
        self, code: str, *, user_id: UserId | None = None, plan_id: str | None = None, extra: Extra = None
    ) -> Coupon:
        """Ask whether a coupon is valid; nothing is changed. The parameters are *assumed*, add others with `extra`."""
        given = {"code": code, "user_id": user_id, "plan_id": plan_id}
        return await self._ask(endpoints.VALIDATE_COUPON, given, extra)

    async def set_webhook(self, url: str) -> Webhook:
        """Add a webhook with an https URL; `.secret` signs its deliveries. Keep it: the service shows it once.

        Raises OutcomeUnknown if the webhook may have been added; whether a second one replaces it is not known.
        """
        local = self._account.scheme == "http"
        endpoint = endpoints.SET_WEBHOOK_LOCALLY if local else endpoints.SET_WEBHOOK
        request = self._prepare(endpoint, {"url": url})
        webhook, _ = await self._perform(request, partial(results.webhook, url=url))
        return webhook

    async def request(
        self,
        verb: Verb,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        safety: Safety | str | None = None,
        into: Any = Any,
    ) -> Reply[Any]:
        """Call any method by its path below the project, such as `plans`, and structure its `data` `into` a type.

        GET and DELETE send `params` as a query, the other verbs as a JSON object. GET counts as safe and every other
        verb as unsafe, unless `safety` is given. Raises the same errors as the other coroutines.
        """
        if verb not in _VERBS:
            msg = f"verb must be one of {', '.join(_VERBS)}, not {verb!r:.80}"
            raise UsageError(msg)
        name, safe = check_path(path), safety_of(verb, safety)
        body = extra_params(params or {}) if verb in ("GET", "DELETE") else _json_object(params or {})
        request = self._request(name, verb, safe, body, timeouts=self._timeouts(safe))
        result, response = await self._perform(request, lambda raw: structure(raw, into))
        return reply(result, response, request)

    async def _ask(self, endpoint: Endpoint[T], given: Mapping[str, object], extra: Extra = None) -> T:
        result, _ = await self._perform(self._prepare(endpoint, given, extra), endpoint.read)
        return result

    def _prepare(self, endpoint: Endpoint[Any], given: Mapping[str, object], extra: Extra = None) -> Request:
        params = arguments(endpoint, given, extra)
        in_path = {name: params.pop(name) for name in _IN_PATH[endpoint.method]}
        path = endpoint.method.format_map(in_path)
        timeouts = self._timeouts(endpoint.safety)
        return self._request(endpoint.method, endpoint.verb, endpoint.safety, params, timeouts=timeouts, path=path)

    def _timeouts(self, safety: Safety) -> Timeouts:
        return self._options.for_grants if safety is Safety.UNSAFE else self._options.for_others

    def _all(
        self,
        endpoint: Endpoint[list[T]],
        given: Mapping[str, object],
        identity: Callable[[T], Hashable],
        size: int | None = None,
    ) -> AsyncGenerator[T]:
        arguments(endpoint, given, None)  # wrong arguments raise at the call, not later

        async def fetch(offset: int) -> Page[T]:
            place: dict[str, int | str] = {} if size is None else {"limit": size}
            if size is not None or offset:
                place["offset"] = offset
            rows, response = await self._perform(self._prepare(endpoint, given, place), endpoint.read)
            return Page(rows, _total(envelope_of(response)))

        return all_rows(endpoint.method, fetch, identity)


def _user_id(user: ProjectUser) -> int:
    return user.user_id


def _total(envelope: Envelope) -> int | None:
    try:
        return integer(envelope.extra.get("total"))
    except Mismatch:
        return None


def _json_object(params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(params), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        msg = "params must be a mapping of names to JSON values; write money as a string"
        raise UsageError(msg) from None
    return copied
