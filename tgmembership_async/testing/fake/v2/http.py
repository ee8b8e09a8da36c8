"""The HTTP interface of a fake project: routes, parameters and envelopes. No I/O."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, Final, Literal, cast
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import check_local_url
from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.http import ReceivedRequest
from tgmembership_async.testing.fake.v2.limits import Allowance
from tgmembership_async.testing.fake.v2.state import ProjectState
from tgmembership_async.testing.fake.v2.values import FakePaymentRequest, money, name_of, user_row
from tgmembership_async.testing.fake.values import Refusal
from tgmembership_async.values.secret import Secret

Sample = Literal["no ok", "error.code"]
"""A sample of the pages that contradicts the others: a success without `ok`; the name of an error in `error.code`."""

_PATH: Final = re.compile(r"(?:/[^?]*)?/v2/projects/(?P<project>[^/?]*)/(?P<path>[^?]*)(?:\?(?P<query>.*))?")
_USER_ID: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_MILLISECONDS: Final = re.compile(r"[0-9]{13}", re.ASCII)
_MONEY: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,2})?", re.ASCII)
_DEFAULT_LIMIT: Final = 10
_FEWEST_LETTERS: Final = 3
_NAMES: Final[Mapping[int, str]] = {400: "VALIDATION_ERROR", 404: "NOT_FOUND", 422: "VALIDATION_ERROR"}


class ProjectServer(ProjectState, ABC):
    """A fake project together with its token and the samples that its replies follow."""

    token: Secret
    samples: frozenset[Sample]

    @abstractmethod
    def allowance(self) -> Allowance | None:
        """Count a call against the rate limits."""


@frozen
class ProjectCall:
    """One request: the project, its number, the ids in its path, and its parameters."""

    project: ProjectServer
    number: int
    ids: Mapping[str, str]
    params: Mapping[str, Any]

    def user_id(self) -> str:
        """Return the user's id, of the path or the parameters. Raises Refusal unless it is a numeric string."""
        value = self.ids.get("user_id", self.params.get("user_id"))
        if not isinstance(value, str) or not _USER_ID.fullmatch(value):
            raise Refusal(422, "user_id must be a numeric string of up to 18 digits")
        return value

    def text(self, name: str) -> str:
        """Return a required text."""
        value = self.params.get(name)
        if not isinstance(value, str) or not value:
            raise Refusal(422, f"{name} is required")
        return value

    def until(self) -> datetime:
        """Return `extend`: a future ISO date, or 13 digits of milliseconds."""
        value = self.params.get("extend") or ""
        try:
            until = (
                datetime.fromtimestamp(int(value) / 1000, UTC)
                if _MILLISECONDS.fullmatch(str(value))
                else datetime.fromisoformat(str(value))
            )
        except ValueError:
            raise Refusal(422, "extend must be an ISO date or 13 digits") from None
        until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
        if until <= self.project.now:
            raise Refusal(422, "extend must be in the future")
        return until


@frozen
class Rows:
    """A list, of which the reply has one page. `tells_place` adds `limit` and `offset`, which some lists have."""

    rows: Sequence[Any]
    tells_place: bool = True


@frozen
class Result:
    """The data of a reply, and its status."""

    data: Any = field(factory=dict[str, Any])
    status: int = 200


Run = Callable[[ProjectCall], Result | Rows]


@frozen
class Route:
    """A route: its verb, its path with names in braces, and what it does."""

    verb: str
    name: str
    run: Run
    pattern: re.Pattern[str] = field(repr=False)


def name_of_route(target: bytes) -> str:
    """Return the path of the route with names in braces, such as `ban/{user_id}`, or the path below the project."""
    found = _PATH.fullmatch(target.decode("latin-1"))
    if found is None:
        return ""
    return next((route.name for route in _ROUTES if route.pattern.fullmatch(found["path"])), found["path"][:100])


def answer(project: ProjectServer, request: ReceivedRequest) -> Response:
    """Return the response to one request; errors are responses too."""
    found = _PATH.fullmatch(request.target.decode("latin-1"))
    path = found["path"] if found is not None else ""
    place = {"request_id": f"req_{request.number:08d}", "method": request.verb, "path": f"/{path}"}
    headers = [("date", format_datetime(project.now.astimezone(UTC), usegmt=True))]
    try:
        _admit(project, found and found["project"], request.headers)
        allowance = project.allowance()
        headers += [] if allowance is None else allowance.headers
        if allowance is not None and allowance.wait:
            return error(project.samples, 429, "too many calls", place, headers, retry_after=allowance.wait)
        params = _params(request.verb, (found and found["query"]) or "", request.body)
        run, ids = _route(request.verb, path)
        result = run(ProjectCall(project, request.number, ids, params))
        content = _page(result, params) if isinstance(result, Rows) else {"data": result.data}
    except Refusal as refusal:
        return error(project.samples, refusal.code, refusal.description, place, headers)
    status = 200 if isinstance(result, Rows) else result.status
    if status == HTTPStatus.NO_CONTENT:
        return Response(status, Headers(headers), b"")
    ok = {} if "no ok" in project.samples else {"ok": True}
    return _response(status, {**ok, **place, "code": status, **content}, headers)


def _admit(project: ProjectServer, project_id: str | None, headers: Headers) -> None:
    if project_id != project.project_id:
        raise Refusal(404, "no such project")
    if headers.get("authorization") != f"Bearer {project.token.reveal()}":
        raise Refusal(401, "the token is wrong")


def error(
    samples: Iterable[Sample],
    code: int,
    message: str,
    place: Mapping[str, Any] | None = None,
    headers: Iterable[tuple[str, str]] = (),
    **more: Any,
) -> Response:
    """Return an error as API v2 writes it."""
    name = "RATE_LIMIT_EXCEEDED" if code == HTTPStatus.TOO_MANY_REQUESTS else _NAMES.get(code, HTTPStatus(code).name)
    key = "code" if "error.code" in samples else "error_code"
    error: dict[str, Any] = {key: name, "message": message, **more}
    content: dict[str, Any] = {"code": code, "error": error, "data": []}
    return _response(code, {"ok": False, **(place or {}), **content}, headers)


def _response(status: int, content: Mapping[str, Any], headers: Iterable[tuple[str, str]]) -> Response:
    return Response(status, Headers((("content-type", "application/json"), *headers)), json.dumps(content).encode())


def _page(rows: Rows, params: Mapping[str, Any]) -> dict[str, Any]:
    limit, offset = (_number(params, "limit", _DEFAULT_LIMIT), _number(params, "offset", 0))
    place = {"limit": limit, "offset": offset} if rows.tells_place else {}
    return {"data": list(rows.rows[offset : offset + limit]), "total": len(rows.rows), **place}


def _number(params: Mapping[str, Any], name: str, default: int) -> int:
    value = str(params.get(name, default))
    if not value.isdecimal():
        raise Refusal(422, f"{name} must be a number")
    return int(value)


def _params(verb: str, query: str, body: bytes) -> Mapping[str, Any]:
    if verb in ("GET", "DELETE") or not body:
        return dict(parse_qsl(query, keep_blank_values=True))
    try:
        read: Any = json.loads(body)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise Refusal(400, "the body is not a JSON object")
    return cast("dict[str, Any]", read)


def _route(verb: str, path: str) -> tuple[Run, dict[str, str]]:
    for route in _ROUTES:
        found = route.pattern.fullmatch(path)
        if found is not None and route.verb == verb:
            return route.run, {name: unquote(value) for name, value in found.groupdict().items()}
    raise Refusal(404, "no such path")


def _plans(call: ProjectCall) -> Rows:
    return Rows([plan.row() for plan in call.project.plans], tells_place=False)


def _users(call: ProjectCall) -> Rows:
    return Rows([user_row(user) for user in call.project.users])


def _search_users(call: ProjectCall) -> Rows:
    search = call.text("search")
    if len(search) < _FEWEST_LETTERS:
        raise Refusal(422, "search must have at least 3 characters")
    return Rows([user_row(user) for user in call.project.users if search in name_of(user)])


def _user(call: ProjectCall) -> Result:
    return Result(user_row(call.project.known(call.user_id())))


def _memberships(call: ProjectCall) -> Rows:
    wanted = call.user_id() if "user_id" in call.params else None
    return Rows([one.row() for one in call.project.memberships if wanted in (None, one.user_id)])


def _extend_member(call: ProjectCall) -> Result:
    return Result({"updated": call.project.extend(call.user_id(), call.until(), number=call.number)})


def _extend_everybody(call: ProjectCall) -> Result:
    return Result({"updated": call.project.extend(None, call.until(), number=call.number)})


def _remove(call: ProjectCall) -> Result:
    call.project.remove(call.ids["membership_id"], number=call.number)
    return Result(status=204)


def _banned(call: ProjectCall) -> Rows:
    return Rows([user_row(user) for user in call.project.banned])


def _ban(call: ProjectCall) -> Result:
    call.project.ban(call.user_id(), number=call.number)
    return Result({"user_id": call.user_id()})


def _unban(call: ProjectCall) -> Result:
    call.project.unban(call.user_id(), number=call.number)
    return Result({"user_id": call.user_id()})


def _balance(call: ProjectCall) -> Result:
    user = call.project.known(call.user_id())
    return Result({"user_id": user, "balance": money(call.project.balance(user))})


def _adjust(call: ProjectCall) -> Result:
    user, value = call.user_id(), str(call.params.get("new_balance"))
    if not _MONEY.fullmatch(value):
        raise Refusal(422, "new_balance must be an amount with at most two decimals")
    new = Decimal(value)
    before, transaction = call.project.set_balance(user, new, number=call.number)
    return Result(
        {
            "previous_balance": money(before),
            "new_balance": money(new),
            "adjustment": money(new - before),
            "transaction_id": transaction,
        }
    )


def _payment_requests(call: ProjectCall) -> Rows:
    return Rows([one.row() for one in call.project.payment_requests])


def _payment_request(call: ProjectCall) -> Result:
    return Result(call.project.payment_request(call.ids["payment_request_id"]).row())


def _ask_for_payment(call: ProjectCall) -> Result:
    request: FakePaymentRequest = call.project.ask_for_payment(call.user_id(), call.text("plan_id"), number=call.number)
    checkout = f"https://checkout.example/{request.payment_request_id}"  # the place of the URL is not documented
    return Result({**request.row(), "checkout_url": checkout}, 201)


def _validate(call: ProjectCall) -> Result:
    return Result({"valid": call.text("code") in call.project.coupons})


def _set_webhook(call: ProjectCall) -> Result:
    url = call.text("url")
    try:
        check_local_url("url", url)
    except UsageError:
        raise Refusal(422, "url must be an https:// URL") from None
    webhook = call.project.set_webhook(url, number=call.number)
    return Result({"id": f"webhook-{call.number}", "url": url, "secret": webhook.secret}, 201)


def _routes(table: Mapping[tuple[str, str], Run]) -> tuple[Route, ...]:
    return tuple(
        Route(verb, name, run, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", name)))
        for (verb, name), run in table.items()
    )


_ROUTES: Final = _routes(
    {
        ("GET", "plans"): _plans,
        ("GET", "users"): _users,
        ("GET", "users/search"): _search_users,
        ("GET", "users/{user_id}"): _user,
        ("GET", "memberships"): _memberships,
        ("PATCH", "memberships/extend"): _extend_everybody,
        ("PATCH", "memberships/{user_id}/extend"): _extend_member,
        ("DELETE", "memberships/{membership_id}"): _remove,
        ("GET", "ban"): _banned,
        ("PUT", "ban/{user_id}"): _ban,
        ("DELETE", "ban/{user_id}"): _unban,
        ("GET", "balance"): _balance,
        ("POST", "balance/adjust"): _adjust,
        ("GET", "payment-requests"): _payment_requests,
        ("GET", "payment-requests/{payment_request_id}"): _payment_request,
        ("POST", "payment-requests"): _ask_for_payment,
        ("POST", "coupons/validate"): _validate,
        ("POST", "integrations/webhooks"): _set_webhook,
    }
)
