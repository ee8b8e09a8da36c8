"""What the fake service looks like over HTTP: paths, credentials, parameters and envelopes. Pure."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard, cast
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import check_local_url
from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.shapes import Subscribers
from tgmembership_async.testing.fake.state import World
from tgmembership_async.testing.fake.values import Refusal
from tgmembership_async.values.secret import Secret

_PATH: Final = re.compile(
    r"(?:/[^?]*)?/bot(?P<bot>[0-9]+)/(?P<key>[^/?]+)/(?P<method>[^/?]+)(?:\?(?P<query>.*))?", re.ASCII
)
_MAX_ID: Final = 2**63 - 1
_OK: Final = 200


class Served(World, ABC):
    """The state of a service that answers over HTTP: whose it is, and how it words its replies."""

    bot_id: int
    api_key: Secret
    always_200: bool
    request_ids: bool

    @abstractmethod
    def speak(self, method: str, facts: object) -> Any:
        """Return a result in the shape that was chosen for `method`."""


@frozen
class Arrival:
    """One request as it came in; `number` counts the requests of its service from 1."""

    number: int
    verb: str
    target: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Call:
    """What one request asks of a service."""

    service: Served
    number: int
    params: Mapping[str, object]

    def id(self, name: str) -> int | None:
        """Return a parameter as a positive id, or None where it is missing."""
        value = self.params.get(name)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_ID:
            raise Refusal(400, f"{name} must be a positive number")
        return value


@frozen
class Place:
    """What a request path names: whose key, which bot, which method, what query."""

    bot_id: str
    key: Secret
    method: str
    query: str = field(repr=False)


def place(target: bytes) -> Place | None:
    """Take a request target apart, or return None where it is no path of the service."""
    found = _PATH.fullmatch(target.decode("latin-1"))
    if found is None:
        return None
    return Place(found["bot"], Secret(unquote(found["key"])), unquote(found["method"]), found["query"] or "")


def method_of(target: bytes) -> str:
    """Return the name of the method that is asked for, as the service spells it; "" where there is none."""
    asked = place(target)
    return "" if asked is None else _NAMES.get(asked.method.lower(), asked.method[:100])


def answer(service: Served, arrival: Arrival) -> Response:
    """Answer one request in an envelope, whatever it is."""
    try:
        run = _admit(service, arrival.verb, place(arrival.target))
        result = run(Call(service, arrival.number, _params(arrival)))
    except Refusal as refusal:
        return _envelope(service, arrival.number, refusal.code, description=refusal.description)
    return _envelope(service, arrival.number, 200, result=result)


def _admit(service: Served, verb: str, asked: Place | None) -> "Run":
    if asked is None:
        raise Refusal(404, "no such path")
    if asked.bot_id != str(service.bot_id) or asked.key != service.api_key:
        raise Refusal(401, "wrong bot id or API key")
    verbs = _METHODS.get(asked.method.lower())
    if verbs is None:
        raise Refusal(404, "no such method")
    if verb not in verbs:
        raise Refusal(405, f"call this method with {' or '.join(verbs)}")
    return verbs[verb]


def _params(arrival: Arrival) -> Mapping[str, object]:
    _, _, query = arrival.target.decode("latin-1").partition("?")
    in_query = dict(parse_qsl(query, keep_blank_values=True))
    if arrival.verb != "POST" or not arrival.body:
        return in_query
    if "json" not in (arrival.headers.get("content-type") or ""):
        return in_query | dict(parse_qsl(arrival.body.decode("latin-1"), keep_blank_values=True))
    try:
        read: Any = json.loads(arrival.body)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise Refusal(400, "the body is not a JSON object")
    return in_query | cast("dict[str, object]", read)


def _envelope(service: Served, number: int, code: int, **content: object) -> Response:
    reply: dict[str, object] = {"ok": code == _OK, "code": code, **content}
    if service.request_ids:
        reply["request_id"] = f"req_{number:08d}"
    status = 200 if service.always_200 else code
    return Response(status, Headers((("content-type", "application/json"),)), json.dumps(reply).encode())


def _add_member(call: Call) -> Any:
    plan_id = call.id("plan_id")
    if plan_id is None:
        raise Refusal(400, "plan_id is required")
    token = call.service.grant(plan_id, call.id("member_id"), number=call.number)
    return call.service.speak("addMember", token)


def _get_plans(call: Call) -> Any:
    wanted = call.id("plan_id")
    found = [plan for plan in call.service.plans if wanted in (None, plan.plan_id)]
    return call.service.speak("getPlans", found)


def _get_subscribers(call: Call) -> Any:
    user_id = call.id("user_id")
    found = [one for one in call.service.subscribers if user_id in (None, one.user_id)]
    return call.service.speak("getSubscribers", Subscribers(found, one_user=user_id is not None))


def _count_orders(call: Call) -> Any:
    return call.service.speak("countOrders", call.service.order_tally())


def _count_users(call: Call) -> Any:
    return call.service.speak("countUsers", call.service.user_tally())


def _get_revenue(call: Call) -> Any:
    return call.service.speak("getRevenue", call.service.revenue())


def _popular(call: Call) -> Any:
    return call.service.speak("mostPopularPaymentMethods", call.service.payment_methods())


def _performance(call: Call) -> Any:
    return call.service.speak("plansPerformance", call.service.sales())


def _set_webhook(call: Call) -> Any:
    url = call.params.get("url")
    if not _is_webhook_url(url):
        raise Refusal(400, "url must be an https:// URL")
    answered = call.service.outbox.probed(url)
    if answered != _OK:
        raise Refusal(400, f"url must answer 200, and answered {answered or 'nothing'}")
    return call.service.speak("webhook", call.service.set_webhook(url).secret)


def _is_webhook_url(url: object) -> TypeGuard[str]:
    """Tell whether the service takes a URL: https (documented), or http to a loopback host, for this one is a fake."""
    try:
        check_local_url("url", url)
    except UsageError:
        return False
    return True


def webhook_to_probe(service: Served, arrival: Arrival) -> str | None:
    """Return the URL that a request wants to be the webhook, or None where it does not get that far."""
    try:
        run = _admit(service, arrival.verb, place(arrival.target))
        url = _params(arrival).get("url")
    except Refusal:
        return None
    return url if run is _set_webhook and _is_webhook_url(url) else None


def _delete_webhook(call: Call) -> Any:
    call.service.delete_webhook()
    return call.service.speak("deleteWebhook", None)


Run = Callable[[Call], Any]

_NAMED: Final[Mapping[str, Mapping[str, Run]]] = {
    "addMember": {"POST": _add_member},
    "getPlans": {"GET": _get_plans},
    "getSubscribers": {"GET": _get_subscribers},
    "countOrders": {"GET": _count_orders},
    "countUsers": {"GET": _count_users},
    "getRevenue": {"GET": _get_revenue},
    "mostPopularPaymentMethods": {"GET": _popular},
    "plansPerformance": {"GET": _performance},
    "webhook": {"POST": _set_webhook, "DELETE": _delete_webhook},
}
_METHODS: Final = {name.lower(): verbs for name, verbs in _NAMED.items()}
_NAMES: Final = {name.lower(): name for name in _NAMED}
