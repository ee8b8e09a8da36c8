"""The methods of the old platform, by generation of its API: tables of their parameters, results and safety.

The ten methods of the legacy API are *documented* by name; those of v1 are *documented*, and were never run by us
against the live service.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from attrs import evolve, field, frozen

from tgmembership_async.errors import InvalidValue, UsageError
from tgmembership_async.protocol.envelope import LEGACY, V1, Dialect
from tgmembership_async.protocol.structuring import results
from tgmembership_async.protocol.wire import Safety, Verb
from tgmembership_async.values.models import (
    AccessToken,
    Count,
    PaymentMethodUsage,
    Plan,
    PlanPerformance,
    Revenue,
    Subscriber,
)

T = TypeVar("T")
Param = str | int
_ID_LIMIT: Final = 2**63
_METHOD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_PATH: Final = re.compile(r"(?=.{1,200}$)[A-Za-z][A-Za-z0-9_-]*(?:/[A-Za-z0-9_-]+)*", re.ASCII)


def check_id(name: str, value: object) -> int:
    """Return a positive id of up to 64 bits, or raise InvalidValue."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _ID_LIMIT:
        msg = f"{name} must be a positive int of up to 64 bits, not {value!r:.80}"
        raise InvalidValue(msg)
    return int(value)  # a member of an Enum would be sent by its name


def check_uuid(name: str, value: object) -> str:
    """Return a UUID in text form, the id of API v2 (documented), in lower case. Raises InvalidValue."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        msg = f"{name} must be a UUID such as 6f1c1f6e-9d4b-4c53-9a57-2b8b0d3c7a10, not {value!r:.80}"
        raise InvalidValue(msg)
    return value.lower()


def check_plan_id(value: int | str) -> int | str:
    """Return the id of a bot's plan, an int, or of a project's plan, a UUID. Raises InvalidValue."""
    return check_uuid("a plan_id that is not an int", value) if isinstance(value, str) else check_id("plan_id", value)


def check_url(name: str, value: object) -> str:
    """Return an https URL with a host, or raise UsageError."""
    parts = split_url(value)
    if parts is None or parts.scheme != "https" or not parts.hostname:
        msg = f"{name} must be an https:// URL with a host; the service requires it (documented)"
        raise UsageError(msg)
    return str(value)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is a loopback one."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_local_url(name: str, value: object) -> str:
    """Return an https URL, or an http URL of a loopback host: for the fake service, which runs on loopback."""
    parts = split_url(value)
    if parts is not None and parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return str(value)
    return check_url(name, value)


def split_url(value: object) -> SplitResult | None:
    """Return the parts of a URL, or None if it is not valid."""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


@frozen
class Endpoint(Generic[T]):
    """One method: its verb, safety, result reader and parameters, and whether its result may be a secret.

    `if_unknown` is set for a method that grants: what to do first when its outcome is unknown.
    """

    method: str
    verb: Verb
    safety: Safety
    read: Callable[[Any], T] = field(repr=False)
    params: Mapping[str, Callable[[str, object], Param]] = field(factory=dict[str, Any], repr=False)
    required: frozenset[str] = frozenset()
    secret: bool = False
    if_unknown: str | None = None


def _nothing(_: object) -> None:
    return None


def _raw(result: object) -> object:
    return result


ADD_MEMBER: Final[Endpoint[AccessToken]] = Endpoint(
    "addMember",
    "POST",
    Safety.UNSAFE,
    results.access_token,
    {"plan_id": check_id, "member_id": check_id},
    frozenset({"plan_id"}),
    secret=True,
    if_unknown="check getSubscribers first",
)
COUNT_ORDERS: Final[Endpoint[Count]] = Endpoint("countOrders", "GET", Safety.SAFE, results.count)
COUNT_USERS: Final[Endpoint[Count]] = Endpoint("countUsers", "GET", Safety.SAFE, results.count)
GET_PLANS: Final[Endpoint[list[Plan]]] = Endpoint("getPlans", "GET", Safety.SAFE, results.plans, {"plan_id": check_id})
GET_REVENUE: Final[Endpoint[Revenue]] = Endpoint("getRevenue", "GET", Safety.SAFE, results.revenue)
GET_SUBSCRIBERS: Final[Endpoint[list[Subscriber]]] = Endpoint(
    "getSubscribers", "GET", Safety.SAFE, results.subscribers, {"user_id": check_id}
)
MOST_POPULAR_PAYMENT_METHODS: Final[Endpoint[list[PaymentMethodUsage]]] = Endpoint(
    "mostPopularPaymentMethods", "GET", Safety.SAFE, results.payment_methods
)
PLANS_PERFORMANCE: Final[Endpoint[list[PlanPerformance]]] = Endpoint(
    "plansPerformance", "GET", Safety.SAFE, results.performance
)
SET_WEBHOOK: Final[Endpoint[Any]] = Endpoint(
    "webhook", "POST", Safety.IDEMPOTENT, _raw, {"url": check_url}, frozenset({"url"}), secret=True
)
SET_WEBHOOK_LOCALLY: Final = evolve(SET_WEBHOOK, params={"url": check_local_url})
DELETE_WEBHOOK: Final[Endpoint[None]] = Endpoint("webhook", "DELETE", Safety.IDEMPOTENT, _nothing)

ENDPOINTS: Final[tuple[Endpoint[Any], ...]] = (
    ADD_MEMBER,
    COUNT_ORDERS,
    COUNT_USERS,
    GET_PLANS,
    GET_REVENUE,
    GET_SUBSCRIBERS,
    MOST_POPULAR_PAYMENT_METHODS,
    PLANS_PERFORMANCE,
    SET_WEBHOOK,
    DELETE_WEBHOOK,
)
"""The ten methods of the legacy API."""


def _member(name: str, value: object) -> str:
    return str(check_id(name, value))


V1_ADD_MEMBER: Final[Endpoint[AccessToken]] = Endpoint(
    "members/accessToken",
    "POST",
    Safety.UNSAFE,
    results.access_token,
    {"plan_id": check_id, "member_id": _member},
    frozenset({"plan_id", "member_id"}),
    secret=True,
    if_unknown="API v1 cannot tell which, ask the member",
)
V1_BOT: Final[Endpoint[None]] = Endpoint("bot", "GET", Safety.SAFE, _nothing, secret=True)
"""The reply contains the API key (documented)."""


@frozen
class Generation:
    """One generation of the old platform's API: its dialect and its methods.

    `method` is the pattern of what `call` accepts, `verbs` the verbs.
    """

    name: str
    dialect: Dialect = field(repr=False)
    add_member: Endpoint[AccessToken] = field(repr=False)
    check: Endpoint[Any] = field(repr=False)
    endpoints: tuple[Endpoint[Any], ...] = field(repr=False)
    method: re.Pattern[str] = field(repr=False)
    verbs: tuple[str, ...] = field(repr=False)

    def check_has(self, endpoint: Endpoint[Any]) -> None:
        """Raise UsageError unless the API has a method."""
        if endpoint not in self.endpoints:
            msg = f"API {self.name} has no {endpoint.method}: use a Session with generation='legacy' for it"
            raise UsageError(msg)


LEGACY_API: Final = Generation(
    *("legacy", LEGACY, ADD_MEMBER, GET_PLANS, ENDPOINTS, _METHOD),
    ("GET", "POST", "DELETE"),
)
V1_API: Final = Generation(
    *("v1", V1, V1_ADD_MEMBER, V1_BOT, (V1_ADD_MEMBER, V1_BOT), _PATH),
    ("GET", "POST", "PUT", "PATCH", "DELETE"),
)
GENERATIONS: Final[Mapping[str, Generation]] = {api.name: api for api in (LEGACY_API, V1_API)}
ALL_ENDPOINTS: Final = tuple(endpoint for generation in GENERATIONS.values() for endpoint in generation.endpoints)
"""The methods of both generations of the old platform."""
_KNOWN: Final = {endpoint.method.lower(): endpoint for endpoint in ALL_ENDPOINTS}
_SECRET: Final = frozenset(endpoint.method.lower() for endpoint in ALL_ENDPOINTS if endpoint.secret)
GRANTS: Final = {endpoint.method: endpoint.if_unknown for endpoint in ALL_ENDPOINTS if endpoint.if_unknown}
"""The methods that grant, and what to do first when the outcome of one is unknown."""


def may_hold_secret(method: str, safety: Safety) -> bool:
    """Tell whether a reply to `method` may hold a token or a webhook secret, whatever its verb and contents.

    A method that is not in the table may return a secret unless it is safe.
    """
    name = method.lower()
    return name in _SECRET or (name not in _KNOWN and safety is not Safety.SAFE)


def arguments(
    endpoint: Endpoint[Any], given: Mapping[str, object], extra: Mapping[str, Param] | None
) -> dict[str, Param]:
    """Return the checked parameters of a call, without those that are None."""
    params: dict[str, Param] = {}
    for name, value in given.items():
        if value is not None:
            params[name] = endpoint.params[name](name, value)
        elif name in endpoint.required:
            msg = f"{endpoint.method} needs {name}"
            raise UsageError(msg)
    return params | extra_params(extra, taken=params) if extra else params


def extra_params(extra: Mapping[str, Param | None], taken: Mapping[str, Param] = {}) -> dict[str, Param]:
    """Return undocumented parameters, with checked names and types, without those that are None."""
    if not isinstance(extra, Mapping):
        msg = f"parameters must be a mapping of names to str or int, not {type(extra).__name__}"
        raise UsageError(msg)
    for name, value in extra.items():
        if not isinstance(name, str) or not name:
            msg = f"a parameter's name must be a non-empty str, not {name!r:.80}"
            raise UsageError(msg)
        if name in taken:
            msg = f"the parameter {name} is given twice"
            raise UsageError(msg)
        if value is not None and not _sendable(value):
            msg = f"the parameter {name} must be a str or an int of up to 64 bits, not {type(value).__name__}"
            raise UsageError(msg)
    return {name: _plain(value) for name, value in extra.items() if value is not None}


def _plain(value: str | int) -> str | int:
    """Return a str or int itself: a member of an Enum would be sent by its name."""
    return str.__str__(value) if isinstance(value, str) else int(value)


def _sendable(value: object) -> bool:
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)
    return isinstance(value, int) and not isinstance(value, bool) and -_ID_LIMIT <= value < _ID_LIMIT


def call_by_name(
    method: object, verb: object, safety: Safety | str | None, generation: Generation = LEGACY_API
) -> tuple[str, Verb, Safety]:
    """Return name, verb and safety for a call by name.

    A method in the table, in any case (*documented*: the service ignores it), keeps its safety; otherwise GET is safe
    and every other verb unsafe, unless `safety` is given. In v1 a method is a path without a slash at its ends.
    """
    if not isinstance(method, str) or not generation.method.fullmatch(method):
        and_slash = "" if generation.method is _METHOD else ", and '/' between them"
        allowed = f"letters, digits, '_' and '-'{and_slash}"
        msg = f"method must begin with a letter and contain only {allowed}, not {method!r:.80}"
        raise UsageError(msg)
    if verb not in generation.verbs:
        *most, last = map(repr, generation.verbs)
        msg = f"verb must be {', '.join(most)} or {last}, not {verb!r:.80}"
        raise UsageError(msg)
    known = next((one for one in generation.endpoints if one.method.lower() == method.lower()), None)
    if known is not None:
        return known.method, cast("Verb", verb), known.safety
    return method, cast("Verb", verb), safety_of(verb, safety)


def safety_of(verb: object, safety: Safety | str | None) -> Safety:
    """Return the safety of a call: the given one or, if there is none, safe for GET and unsafe for any other verb."""
    if safety is None:
        return Safety.SAFE if verb == "GET" else Safety.UNSAFE
    try:
        return Safety(safety)
    except ValueError:
        msg = f"safety must be 'safe', 'idempotent' or 'unsafe', not {safety!r:.80}"
    raise UsageError(msg)
