"""A grant for programs: one JSON object on a line. Links open doors, so they come only when asked for."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tgmembership_async.errors import RefConflict
from tgmembership_async.grants.model import Grant

CONFLICT = "conflict"
"""Stands for the status where a request was for another plan or member than the ledger has for its ref."""


def status_of(grant: Grant) -> str:
    """Return a grant's status or, for a request that the ledger could not take, CONFLICT."""
    return CONFLICT if isinstance(grant.error, RefConflict) else grant.status.value


def columns(*, links: bool) -> tuple[str, ...]:
    """Return the names of what `fields_of` tells."""
    told = ("ref", "member_id", "plan_id", "status", "attempts", "error", "note", "updated_at")
    return (*told, "token", "link") if links else told


def fields_of(grant: Grant, *, links: bool) -> dict[str, Any]:
    """Return what is told of a grant; `token` and `link` only with `links`."""
    told: dict[str, Any] = {
        "ref": grant.ref,
        "member_id": grant.member_id,
        "plan_id": grant.plan_id,
        "status": status_of(grant),
        "attempts": grant.attempts,
        "error": None if grant.error is None else str(grant.error),
        "note": grant.note,
        "updated_at": grant.updated_at,
    }
    if links:
        token = grant.token
        told |= {"token": None, "link": None} if token is None else {"token": token.token, "link": token.link}
    return told


def line(fields: Mapping[str, Any]) -> str:
    """Return one line of JSON, in characters that every terminal and pipe takes."""
    return json.dumps(fields, default=plain)


def plain(value: object) -> str:
    """Return what JSON has no form for as a string: a moment in ISO 8601, an exact number to its last digit."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
