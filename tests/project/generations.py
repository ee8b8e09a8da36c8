"""All generations of the API as one: a client, a read, a repeatable write, and a call that must never be repeated."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from attrs import field, frozen
from canary import CANARY_KEY
from project.projects import PLAN, PROJECT

from tgmembership_async import RetryPolicy, Session
from tgmembership_async.client import Client
from tgmembership_async.project import Project

QUICK = RetryPolicy(transient_base=0.001, backoff_cap=0.01, throttled_base=0.001)
UNTIL = datetime(2199, 1, 1, tzinfo=UTC)


@frozen
class Kind:
    """One generation, for tests that hold for all of them. `secret` is where its credentials are on the wire."""

    name: str
    new: Callable[..., Client]
    read: Callable[[Any], Awaitable[Any]]
    set: Callable[[Any], Awaitable[Any]]
    unsafe: Callable[[Any], Awaitable[Any]]
    secret: bytes = field(repr=False)
    result: str = field()

    def open(self, url: str, **options: Any) -> Any:
        """Return a client for the service at a URL, not entered."""
        return self.new(url, **{"proxy": None, "retry": QUICK, "deadline": 20, **options})

    def ok(self, result: Any, code: int = 200) -> dict[str, Any]:
        """Return a success as this generation writes it."""
        return {"ok": True, "code": code, self.result: result}

    def error(self, code: int, why: str) -> dict[str, Any]:
        """Return an error as this generation writes it."""
        if self.result == "data":
            return {"ok": False, "code": code, "error": {"error_code": "NAME", "message": why}, "data": []}
        return {"ok": False, "code": code, "description": why}

    def __str__(self) -> str:
        return self.name


def bot(generation: Any) -> Callable[..., Session]:
    """Return what makes a Session of a generation."""
    return lambda url, **options: Session(8047883872, CANARY_KEY, base_url=url, generation=generation, **options)


LEGACY = Kind(
    "legacy",
    bot("legacy"),
    lambda tg: tg.check(),
    lambda tg: tg.delete_webhook(),
    lambda tg: tg.add_member(1, 42),
    f"/bot8047883872/{CANARY_KEY}/".encode(),
    "result",
)
V1 = Kind(
    "v1",
    bot("v1"),
    lambda tg: tg.check(),
    lambda tg: tg.call("plans/7", verb="PUT", safety="idempotent"),
    lambda tg: tg.add_member(1, 42),
    f"/v1/bot8047883872/{CANARY_KEY}/".encode(),
    "result",
)
V2 = Kind(
    "v2",
    lambda url, **options: Project(PROJECT, CANARY_KEY, base_url=url, **options),
    lambda project: project.plans(),
    lambda project: project.extend_member(42, UNTIL),
    lambda project: project.create_payment_request(42, PLAN),
    f"\r\nauthorization: Bearer {CANARY_KEY}\r\n".encode(),
    "data",
)
KINDS = [LEGACY, V1, V2]


def lines_of(request: bytes) -> tuple[str, dict[str, Any]]:
    """Return the first line and the JSON body of a request, with the key masked."""
    head, _, body = request.replace(CANARY_KEY.encode(), b"-").partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode(), json.loads(body or b"{}")
