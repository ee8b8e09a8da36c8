"""A project for tests, on a stub or on a server."""

import json
from typing import Any

from canary import CANARY_KEY
from stub_transport import StubTransport, reply

from tgmembership_async import Response, RetryPolicy
from tgmembership_async.project import Project

PROJECT = "6f1c1f6e-9d4b-4c53-9a57-2b8b0d3c7a10"
PLAN = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
QUICK = RetryPolicy(transient_base=0, throttled_base=0)


def project(stub: StubTransport | str, **options: Any) -> Project:
    """Return a Project on a stub transport, or for a server at a URL."""
    where: dict[str, Any] = {"base_url": stub, "proxy": None} if isinstance(stub, str) else {"transport": stub}
    return Project(PROJECT, CANARY_KEY, **{**where, "retry": QUICK, **options})


def says(data: Any = None, status: int = 200, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """Return a success of API v2."""
    body = {"ok": True, "code": status, "request_id": "r-1", "method": "GET", "path": "/x", "data": data, **more}
    return reply(json.dumps(body), status, **(headers or {}))


def refuses(status: int, name: str = "NOT_FOUND", headers: dict[str, str] | None = None, **error: Any) -> Response:
    """Return an error of API v2."""
    body = {"ok": False, "code": status, "error": {"error_code": name, "message": "why", **error}, "data": []}
    return reply(json.dumps(body), status, **(headers or {}))


def row(number: int, **more: Any) -> dict[str, Any]:
    """Return a membership as the service writes it."""
    return {
        "membership_id": f"00000000-0000-4000-8000-{number:012}",
        "user_id": str(4200 + number),
        "plan_id": PLAN,
        "payment_request_id": OTHER,
        "membership_start_date": "2026-01-01T00:00:00.000Z",
        "membership_end_date": "2027-01-01T00:00:00.123Z",
        "plan_duration": "1 year",
        **more,
    }
