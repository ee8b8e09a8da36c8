"""A grant, its statuses, and the table of legal steps between them.

planned → sending → granted → delivered
                          ├→ planned     nothing was done: not sent, rejected until the deadline, or invalid credentials
                          ├→ refused     the service refused
                          └→ unknown     the service may or may not have granted
refused, unknown → granted | planned | abandoned      only by a decision
planned → abandoned                                   likewise: it was refunded before it was sent
"""

import json
from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Final, Literal, get_args

from attrs import field, frozen

from tgmembership_async import errors
from tgmembership_async.errors import CallError, InvalidValue, TGMembershipError, UsageError
from tgmembership_async.protocol.endpoints import check_id, check_plan_id
from tgmembership_async.values.models import AccessToken

LONGEST_REF: Final = 1_000
_LONGEST_NOTE: Final = 1_000
_TO_JSON: Final = json.JSONEncoder(default=str)


class GrantStatus(StrEnum):
    """The status of a grant."""

    PLANNED = "planned"
    SENDING = "sending"
    GRANTED = "granted"
    DELIVERED = "delivered"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    ABANDONED = "abandoned"


Decision = Literal["granted", "retry", "abandon"]

SETTLES: Final = frozenset({GrantStatus.PLANNED, GrantStatus.GRANTED, GrantStatus.REFUSED, GrantStatus.UNKNOWN})
"""The statuses in which an exchange may end."""
UNDECIDED: Final = frozenset({GrantStatus.REFUSED, GrantStatus.UNKNOWN})
"""The statuses that await a decision."""
OWED: Final = frozenset(GrantStatus) - {GrantStatus.DELIVERED, GrantStatus.ABANDONED}
"""The statuses of members who paid and have no link."""
SUCCEEDED: Final = frozenset({GrantStatus.GRANTED, GrantStatus.DELIVERED})
"""The statuses of members who were granted access."""
DECIDES: Final[Mapping[Decision, GrantStatus]] = {
    "granted": GrantStatus.GRANTED,
    "retry": GrantStatus.PLANNED,
    "abandon": GrantStatus.ABANDONED,
}
DECIDED_FROM: Final[Mapping[Decision, frozenset[GrantStatus]]] = {
    "granted": UNDECIDED,
    "retry": UNDECIDED,
    "abandon": UNDECIDED | {GrantStatus.PLANNED},
}
"""The states that each decision may be about."""
LEGAL: Final[frozenset[tuple[GrantStatus, GrantStatus]]] = frozenset(
    {(GrantStatus.PLANNED, GrantStatus.SENDING), (GrantStatus.GRANTED, GrantStatus.DELIVERED)}
    | {(GrantStatus.SENDING, end) for end in SETTLES}
    | {(before, DECIDES[decision]) for decision, sources in DECIDED_FROM.items() for before in sources}
)


def method_of(plan_id: int | str) -> str:
    """Return the method that a row is sent with: that of a bot, or for a UUID that of a project."""
    return "payment-requests" if isinstance(plan_id, str) else "addMember"


class RefTooLong(InvalidValue):
    """The ledger cannot store this ref: it has room for shorter ones only."""


def check_ref(ref: object) -> str:
    """Return a ref: any printable, non-empty str of up to 1,000 characters, without white space around it."""
    if not isinstance(ref, str) or not ref or len(ref) > LONGEST_REF or not ref.isprintable() or ref != ref.strip():
        msg = f"ref must be your payment's own id, a printable str of 1 to 1,000 characters, not {ref!r:.80}"
        raise InvalidValue(msg)
    return ref


@frozen
class GrantRequest:
    """A request to grant: `ref` is the caller's own payment or import id, `note` its own text (for example the chat).

    `plan_id` is the id of a bot's plan, or for a payment request the UUID of a project's plan; then `member_id` is the
    user who pays.

    `paid_at` is an aware datetime, and is not stored. A SqliteLedger that was restored from an older copy needs it: a
    ref that is missing from the copy, and was paid in the gap, is held as unknown instead of sent.
    """

    ref: str = field()
    plan_id: int | str = field(converter=check_plan_id)
    member_id: int | None = None
    note: str = ""
    paid_at: datetime | None = None

    def __attrs_post_init__(self) -> None:
        check_ref(self.ref)
        if self.member_id is not None:
            check_id("member_id", self.member_id)
        if not isinstance(self.note, str) or len(self.note) > _LONGEST_NOTE or "\0" in self.note:
            msg = "note must be a str of at most 1,000 characters"
            raise InvalidValue(msg)
        try:
            self.note.encode()
        except UnicodeEncodeError:
            msg = "note has a lone surrogate, which no database stores"
            raise InvalidValue(msg) from None
        if self.paid_at is not None and (not isinstance(self.paid_at, datetime) or self.paid_at.utcoffset() is None):
            msg = "paid_at must be an aware datetime, such as datetime.now(UTC)"
            raise InvalidValue(msg)


@frozen
class Grant:
    """The row of one ref in the ledger. `attempts` counts the times it was sent; times are aware UTC.

    `granted_at` is when the ledger recorded it as granted; None if it never did, or an older version did not record it.

    `error` says why it is refused, unknown, or planned again; or, as a RefConflict from a run, that the ref belongs to
    another plan or member: then plan, member and note are those of the rejected request, and there is no token. None
    otherwise.
    """

    ref: str
    plan_id: int | str
    member_id: int | None
    status: GrantStatus
    token: AccessToken | None
    attempts: int
    note: str
    updated_at: datetime
    error: TGMembershipError | None = field(default=None, eq=False)
    granted_at: datetime | None = None

    @property
    def link(self) -> str | None:
        """Return the link of its token, or None; a token without a link may have a code, see `AccessToken.best`."""
        return None if self.token is None else self.token.link


@frozen
class DayCount:
    """The number of a plan's rows with a status on one day: the UTC date of `granted_at` or, without, `updated_at`."""

    day: date
    plan_id: int | str
    status: GrantStatus
    count: int


DayKey = tuple[date, int | str, str]
"""The day, the plan and the status that a DayCount counts."""


def day_counts(counts: Mapping[DayKey, int]) -> list[DayCount]:
    """Return counts in order of day, plan and status."""

    def order(one: DayCount) -> tuple[date, bool, int | str, GrantStatus]:
        return one.day, isinstance(one.plan_id, str), one.plan_id, one.status

    found = (DayCount(day, plan_id, GrantStatus(status), count) for (day, plan_id, status), count in counts.items())
    return sorted(found, key=order)


@frozen
class Attempt:
    """One exchange for a ref: when it began, how it ended, on what evidence. `ended_at` is None if it is unknown."""

    ref: str
    number: int
    began_at: datetime
    ended_at: datetime | None
    status: GrantStatus | None
    evidence: str


@frozen
class DecisionMade:
    """A decision about a ref: what, when and why."""

    ref: str
    decision: Decision
    decided_at: datetime
    reason: str


@frozen
class Settlement:
    """The end of an exchange: `status` is one of SETTLES, `evidence` one line for the attempt's record."""

    status: GrantStatus = field()
    token: AccessToken | None = None
    error: CallError | None = None
    evidence: str = ""

    def __attrs_post_init__(self) -> None:
        if self.status not in SETTLES:
            msg = f"an exchange cannot end as {self.status!r}"
            raise UsageError(msg)


def check_decision(decision: object) -> Decision:
    """Return the decision, or raise UsageError that names the three."""
    if decision not in get_args(Decision):
        msg = f"decide 'granted', 'retry' or 'abandon', not {decision!r:.80}"
        raise UsageError(msg)
    return decision  # type: ignore[return-value]  # one of the three


def dump_token(token: AccessToken) -> str:
    """Return a token as JSON for a ledger."""
    fields = {"token": token.token, "link": token.link, "raw": token.raw, "extra": dict(token.extra)}
    return _TO_JSON.encode(fields)


def load_token(text: str) -> AccessToken:
    """Return the token that `dump_token` wrote."""
    return AccessToken(**json.loads(text))


def dump_error(error: CallError) -> str:
    """Return an error as JSON for a ledger: its class, message and plain fields, and its cause; no body."""
    return json.dumps(_plain(error))


def _plain(error: CallError) -> dict[str, Any]:
    fields = {k: v for k, v in error.__dict__.items() if isinstance(v, str | int | float | bool | None)}
    cause = getattr(error, "cause", None)
    return {
        "kind": type(error).__name__,
        "message": str(error.args[0]) if error.args else "",
        "fields": fields,
        "cause": None if cause is None else _plain(cause),
    }


def load_error(text: str) -> CallError:
    """Return the error that `dump_error` wrote."""
    return _error(json.loads(text))


def _error(plain: dict[str, Any]) -> CallError:
    kind = getattr(errors, plain["kind"], CallError)
    fields = dict(plain["fields"])
    if plain["cause"] is not None:
        fields["cause"] = _error(plain["cause"])
    error = kind(plain["message"], **fields) if issubclass(kind, CallError) else CallError(plain["message"])
    return error  # noqa: RET504 - kind is found by name
