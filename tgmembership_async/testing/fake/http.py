"""The HTTP interface of the fake service: paths, credentials, parameters and envelopes. No I/O."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import format_datetime
from typing import Any, Final, Literal, TypeGuard, cast
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import check_local_url
from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.renamed import warn_renamed
from tgmembership_async.testing.fake.shapes import Subscribers
from tgmembership_async.testing.fake.state import ServiceState
from tgmembership_async.testing.fake.values import Refusal
from tgmembership_async.values.secret import Secret

_PATH: Final = re.compile(
    r"(?:/[^?]*)?/bot(?P<bot>[0-9]+)/(?P<key>[^/?]+)/(?P<method>[^/?]+)(?:\?(?P<query>.*))?", re.ASCII
)
_V1_PATH: Final = re.compile(
    r"(?:/[^?]*)?/v1/bot(?P<bot>[0-9]+)/(?P<key>[^/?]+)/(?P<method>[^?]+)(?:\?(?P<query>.*))?", re.ASCII
)
_MAX_ID: Final = 2**63 - 1
_OK: Final = 200
_CREATED: Final = 201
_FORBIDDEN: Final = 403

TokenRefusal = Literal["no payment method", "test mode", "token policy"]
_TOKEN_REFUSALS: Final[Mapping[TokenRefusal, str]] = {
    "no payment method": "no live payment method is connected",
    "test mode": "the bot is in test mode",
    "token policy": "access tokens are not the main way of payment on your plan: access-token policy",
}
"""The causes of a 401 in v1 besides a wrong key (documented); their words are *assumed*."""


class HTTPServiceState(ServiceState, ABC):
    """The state of a fake service together with its credentials and the shapes of its replies."""

    bot_id: int
    api_key: Secret
    always_200: bool
    request_ids: bool
    token_refusal: TokenRefusal | None

    @abstractmethod
    def render(self, method: str, facts: object) -> Any:
        """Return a result in the shape that is configured for `method`."""

    def speak(self, method: str, facts: object) -> Any:
        """Call `render`, under its former name."""
        warn_renamed("speak", "render")
        return self.render(method, facts)


@frozen
class ReceivedRequest:
    """One request as it was received. `number` counts the requests of its service from 1."""

    number: int
    verb: str
    target: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Call:
    """One method call: the service, the number of the request, and the parameters."""

    service: HTTPServiceState
    number: int
    params: Mapping[str, object]

    def id(self, name: str) -> int | None:
        """Return a parameter as a positive id, or None if it is missing. Raises Refusal for other values."""
        value = self.params.get(name)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_ID:
            raise Refusal(400, f"{name} must be a positive number")
        return value


@frozen
class ParsedPath:
    """The parts of a request path: generation, bot id, API key, method and query."""

    generation: Literal["legacy", "v1"]
    bot_id: str
    key: Secret
    method: str
    query: str = field(repr=False)


def parse_path(target: bytes) -> ParsedPath | None:
    """Return the parts of a request target, or None if it is not a path of the service."""
    text = target.decode("latin-1")
    v1 = _V1_PATH.fullmatch(text)
    found = v1 or _PATH.fullmatch(text)
    if found is None:
        return None
    generation: Literal["legacy", "v1"] = "legacy" if v1 is None else "v1"
    return ParsedPath(
        generation, found["bot"], Secret(unquote(found["key"])), unquote(found["method"]), found["query"] or ""
    )


def method_of(target: bytes) -> str:
    """Return the name of the called method as the service spells it, or "" if there is none."""
    path = parse_path(target)
    if path is not None and path.generation == "v1":
        return path.method[:100]
    return "" if path is None else _NAMES.get(path.method.lower(), path.method[:100])


def answer(service: HTTPServiceState, request: ReceivedRequest) -> Response:
    """Return the response to one request; errors are responses too."""
    path = parse_path(request.target)
    later: dict[str, object] = {}
    if path is not None and path.generation == "v1":
        later = {"method": request.verb, "path": request.target.decode("latin-1").partition("?")[0]}
    try:
        run = _admit(service, request.verb, path)
        result = run(Call(service, request.number, _params(request)))
    except Refusal as refusal:
        return _envelope(service, request.number, refusal.code, description=refusal.description, **later)
    code = _CREATED if run is _create_token else _OK
    return _envelope(service, request.number, code, result=result, **later)


def _admit(service: HTTPServiceState, verb: str, path: ParsedPath | None) -> "Run":
    if path is None:
        raise Refusal(404, "no such path")
    if path.bot_id != str(service.bot_id) or path.key != service.api_key:
        raise Refusal(401, "wrong bot id or API key")
    verbs = _V1_METHODS.get(path.method) if path.generation == "v1" else _METHODS.get(path.method.lower())
    if verbs is None:
        raise Refusal(404, "no such method")
    if verb not in verbs:
        raise Refusal(405, f"call this method with {' or '.join(verbs)}")
    return verbs[verb]


def _params(request: ReceivedRequest) -> Mapping[str, object]:
    _, _, query = request.target.decode("latin-1").partition("?")
    in_query = dict(parse_qsl(query, keep_blank_values=True))
    if request.verb != "POST" or not request.body:
        return in_query
    if "json" not in (request.headers.get("content-type") or ""):
        return in_query | dict(parse_qsl(request.body.decode("latin-1"), keep_blank_values=True))
    try:
        read: Any = json.loads(request.body)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise Refusal(400, "the body is not a JSON object")
    return in_query | cast("dict[str, object]", read)


def _envelope(service: HTTPServiceState, number: int, code: int, **content: object) -> Response:
    reply: dict[str, object] = {"ok": code in (_OK, _CREATED), "code": code, **content}
    if service.request_ids or "path" in content:
        reply["request_id"] = f"req_{number:08d}"
    status = 200 if service.always_200 else code
    date = format_datetime(service.now.astimezone(UTC), usegmt=True)
    return Response(status, Headers((("content-type", "application/json"), ("date", date))), json.dumps(reply).encode())


def _add_member(call: Call) -> Any:
    plan_id = call.id("plan_id")
    if plan_id is None:
        raise Refusal(400, "plan_id is required")
    token = call.service.grant(plan_id, call.id("member_id"), number=call.number)
    return call.service.render("addMember", token)


def _get_plans(call: Call) -> Any:
    wanted = call.id("plan_id")
    found = [plan for plan in call.service.plans if wanted in (None, plan.plan_id)]
    return call.service.render("getPlans", found)


def _get_subscribers(call: Call) -> Any:
    user_id = call.id("user_id")
    found = [one for one in call.service.subscribers if user_id in (None, one.user_id)]
    return call.service.render("getSubscribers", Subscribers(found, one_user=user_id is not None))


def _get(method: str, facts: Callable[[HTTPServiceState], object]) -> "dict[str, Run]":
    return {"GET": lambda call: call.service.render(method, facts(call.service))}


def _set_webhook(call: Call) -> Any:
    url = call.params.get("url")
    if not _is_webhook_url(url):
        raise Refusal(400, "url must be an https:// URL")
    answered = call.service.outbox.probed(url)
    if answered != _OK:
        raise Refusal(400, f"url must answer 200, and answered {answered or 'nothing'}")
    return call.service.render("webhook", call.service.set_webhook(url).secret)


def _is_webhook_url(url: object) -> TypeGuard[str]:
    """Tell whether a URL is accepted: https (*documented*), or http to a loopback host (the fake only)."""
    try:
        check_local_url("url", url)
    except UsageError:
        return False
    return True


def webhook_to_probe(service: HTTPServiceState, request: ReceivedRequest) -> str | None:
    """Return the webhook URL of a valid `setWebhook` request, or None for any other request."""
    try:
        run = _admit(service, request.verb, parse_path(request.target))
        url = _params(request).get("url")
    except Refusal:
        return None
    return url if run is _set_webhook and _is_webhook_url(url) else None


def _delete_webhook(call: Call) -> Any:
    call.service.delete_webhook()
    return call.service.render("deleteWebhook", None)


def _create_token(call: Call) -> Any:
    """Create an access token in v1; `member_id` is required and a string (documented)."""
    plan_id, member_id = call.id("plan_id"), call.params.get("member_id")
    if plan_id is None or not isinstance(member_id, str):
        raise Refusal(400, "plan_id, a number, and member_id, a string, are required")
    if call.service.token_refusal is not None:
        raise Refusal(401, _TOKEN_REFUSALS[call.service.token_refusal])
    try:
        token = call.service.grant(plan_id, call.id("member_id"), number=call.number)
    except Refusal as refusal:
        if refusal.code == _FORBIDDEN:
            raise Refusal(404, "the member is invalid, never talked to the bot, or blocked it") from None
        raise
    return call.service.render("addMember", token)


def _get_bot(call: Call) -> Any:
    """Return the bot with its API key (documented)."""
    return {"bot_id": call.service.bot_id, "api_key": call.service.api_key.reveal()}


Run = Callable[[Call], Any]

_NAMED: Final[Mapping[str, Mapping[str, Run]]] = {
    "addMember": {"POST": _add_member},
    "getPlans": {"GET": _get_plans},
    "getSubscribers": {"GET": _get_subscribers},
    "countOrders": _get("countOrders", lambda service: service.order_counts()),
    "countUsers": _get("countUsers", lambda service: service.user_counts()),
    "getRevenue": _get("getRevenue", lambda service: service.revenue()),
    "mostPopularPaymentMethods": _get("mostPopularPaymentMethods", lambda service: service.payment_methods()),
    "plansPerformance": _get("plansPerformance", lambda service: service.sales()),
    "webhook": {"POST": _set_webhook, "DELETE": _delete_webhook},
}
_METHODS: Final = {name.lower(): verbs for name, verbs in _NAMED.items()}
_NAMES: Final = {name.lower(): name for name in _NAMED}
_V1_METHODS: Final[Mapping[str, Mapping[str, Run]]] = {
    "bot": {"GET": _get_bot},
    "members/accessToken": {"POST": _create_token},
}
