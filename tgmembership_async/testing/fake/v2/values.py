"""The frozen values of a fake project, sample plans, and how API v2 writes them (*documented*)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from attrs import field, frozen

from tgmembership_async.testing.fake.outbox import FakeEvent
from tgmembership_async.testing.fake.values import FakePlan

SAMPLE_PROJECT_ID: Final = "6f1c1f6e-9d4b-4c53-9a57-2b8b0d3c7a10"


@frozen
class FakeProjectPlan:
    """A plan of a project. `terms` has its name, duration and price; its own `plan_id` is not used."""

    plan_id: str
    terms: FakePlan

    def row(self) -> dict[str, Any]:
        """Return the plan as a list has it; its keys are *assumed*."""
        terms = self.terms
        return {
            "plan_id": self.plan_id,
            "plan_name": terms.name,
            "plan_duration": terms.duration,
            "price": money(terms.cost),
            "currency": terms.currency,
        }


SAMPLE_PROJECT_PLANS: Final = (
    FakeProjectPlan("11111111-1111-4111-8111-111111111111", FakePlan(1)),
    FakeProjectPlan("22222222-2222-4222-8222-222222222222", FakePlan(2, "A year of everything", "1 year", "99.00")),
)


@frozen
class FakeMembership:
    """A membership, active or past."""

    membership_id: str
    user_id: str
    plan: FakeProjectPlan
    payment_request_id: str | None
    start: datetime
    end: datetime | None

    def row(self) -> dict[str, Any]:
        """Return the membership as a list has it."""
        return {
            "membership_id": self.membership_id,
            "user_id": self.user_id,
            "plan_id": self.plan.plan_id,
            "payment_request_id": self.payment_request_id,
            "membership_start_date": iso(self.start),
            "membership_end_date": None if self.end is None else iso(self.end),
            "user_name": name_of(self.user_id),
            "plan_name": self.plan.terms.name,
            "plan_duration": self.plan.terms.duration,
        }


@frozen
class FakePaymentRequest:
    """A payment request of a user: for a plan, or without a plan a top-up of the balance."""

    payment_request_id: str
    user_id: str
    plan: FakeProjectPlan | None
    amount: Decimal
    currency: str
    created_at: datetime
    settled_at: datetime | None = None

    def row(self) -> dict[str, Any]:
        """Return the payment request as the service writes it; the names of `request_type` are *assumed*."""
        return {
            "payment_request_id": self.payment_request_id,
            "user_id": self.user_id,
            "plan_id": None if self.plan is None else self.plan.plan_id,
            "request_type": "balance_topup" if self.plan is None else "membership",
            "status": "pending" if self.settled_at is None else "completed",
            "amount": money(self.amount),
            "currency": self.currency,
            "created_at": iso(self.created_at),
            "settled_at": None if self.settled_at is None else iso(self.settled_at),
        }


@frozen
class ProjectEffect:
    """One effect of a request: the number of the request, the time, what was done, to which user, and the new value.

    `user_id` is None for an effect on the whole project.
    """

    number: int
    at: datetime
    what: str
    user_id: str | None = None
    value: str = ""


@frozen
class ProjectEvent(FakeEvent):
    """An event of API v2. `debug_id` is its unique `id`, a UUID."""

    created_at: datetime = field(kw_only=True)

    def body(self) -> bytes:
        """Return the body of its delivery, identical each time."""
        return json_bytes(
            {
                "id": self.debug_id,
                "event": self.name,
                "created_at": iso(self.created_at),
                "schema_version": 1,
                "data": dict(self.data),
            }
        )


def user_row(user_id: str) -> dict[str, Any]:
    """Return a user as a list has it; its keys are *assumed*."""
    return {"user_id": user_id, "user_name": name_of(user_id)}


def name_of(user_id: str) -> str:
    """Return the name of a user."""
    return f"user {user_id}"


def iso(time: datetime) -> str:
    """Return a time as API v2 writes it: ISO 8601, UTC, milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def money(amount: Decimal) -> str:
    """Return an amount as a string with two decimals."""
    return f"{amount:.2f}"


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object as bytes."""
    return json.dumps(content).encode()
