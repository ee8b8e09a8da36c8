"""The state of a fake project and its changes. No I/O; clock and seed are parameters."""

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from random import Random
from threading import RLock
from typing import Final
from uuid import UUID

from attrs import evolve

from tgmembership_async.testing.fake.outbox import Outbox
from tgmembership_async.testing.fake.state import now_in_utc
from tgmembership_async.testing.fake.v2.values import (
    SAMPLE_PROJECT_ID,
    SAMPLE_PROJECT_PLANS,
    FakeMembership,
    FakePaymentRequest,
    FakeProjectPlan,
    ProjectEffect,
    ProjectEvent,
    iso,
    money,
)
from tgmembership_async.testing.fake.values import FakeWebhook, Refusal

_NOTHING: Final = Decimal(0)
_UNKNOWN: Final = 404


class ProjectState:
    """Users, plans, memberships, bans, balances, payment requests, coupons, a webhook, and an audit log of effects.

    Thread-safe. Properties return copies. Methods raise `Refusal` if the rules of the service forbid the change. A
    number of 0 in the audit log is an effect that no request had.
    """

    def __init__(
        self,
        *,
        project_id: str = SAMPLE_PROJECT_ID,
        plans: Iterable[FakeProjectPlan] = SAMPLE_PROJECT_PLANS,
        users: Iterable[int] = (),
        coupons: Iterable[str] = (),
        clock: Callable[[], datetime] = now_in_utc,
        seed: int = 0,
    ) -> None:
        self.project_id = project_id
        self.coupons: frozenset[str] = frozenset(coupons)
        self.outbox: Outbox = Outbox()
        self._clock = clock
        self._random = Random(seed)  # noqa: S311 - reproducible on purpose
        self._lock = RLock()
        self._plans = {plan.plan_id: plan for plan in plans}
        self._users = dict.fromkeys(map(str, users))
        self._memberships: dict[str, FakeMembership] = {}
        self._requests_for_payment: dict[str, FakePaymentRequest] = {}
        self._banned: dict[str, None] = {}
        self._balances: dict[str, Decimal] = {}
        self._webhook: FakeWebhook | None = None
        self._audit: list[ProjectEffect] = []

    @property
    def now(self) -> datetime:
        """Return the time on the service's clock."""
        return self._clock()

    @property
    def plans(self) -> list[FakeProjectPlan]:
        """Return the plans in order."""
        return list(self._plans.values())

    @property
    def users(self) -> list[str]:
        """Return the ids of all users, in order."""
        with self._lock:
            return list(self._users)

    @property
    def memberships(self) -> list[FakeMembership]:
        """Return all memberships, active and past, in order."""
        with self._lock:
            return list(self._memberships.values())

    @property
    def payment_requests(self) -> list[FakePaymentRequest]:
        """Return all payment requests, in order."""
        with self._lock:
            return list(self._requests_for_payment.values())

    @property
    def banned(self) -> list[str]:
        """Return the ids of banned users."""
        with self._lock:
            return list(self._banned)

    @property
    def webhook(self) -> FakeWebhook | None:
        """Return the newest webhook, or None; that a new one replaces the one before is *assumed*."""
        return self._webhook

    @property
    def audit(self) -> list[ProjectEffect]:
        """Return every effect, in order."""
        with self._lock:
            return list(self._audit)

    def balance(self, user_id: int | str) -> Decimal:
        """Return the balance of a user."""
        with self._lock:
            return self._balances.get(str(user_id), _NOTHING)

    def pay(self, user_id: int | str, plan_id: str | None = None, *, with_membership: bool = True) -> str:
        """Let a user pay for a plan, by default the first; return the payment request's id.

        `payment-request.completed` is sent at once. With `with_membership=False` the membership comes with
        `give_membership` only, as the order of events and effects is not promised.
        """
        with self._lock:
            plan = self.plan(self.plans[0].plan_id if plan_id is None else plan_id)
            request = self.ask_for_payment(user_id, plan.plan_id)
            self._settle(request)
            if with_membership:
                self.give_membership(request.payment_request_id)
            return request.payment_request_id

    def top_up(self, user_id: int | str, amount: str | Decimal) -> str:
        """Let a user pay into the balance; return the payment request's id."""
        with self._lock:
            user = self.add_user(user_id)
            request = FakePaymentRequest(self._uuid(), user, None, Decimal(amount), "EUR", self.now)
            self._settle(request)
            self._balances[user] = self.balance(user) + request.amount
            self.note(0, "top-up", user, money(request.amount))
            return request.payment_request_id

    def give_membership(self, payment_request_id: str) -> FakeMembership:
        """Create the membership of a payment request."""
        with self._lock:
            request = self.payment_request(payment_request_id)
            if request.plan is None:
                raise Refusal(422, "this payment request is a top-up")
            end = request.plan.terms.expiry(self.now)
            membership = FakeMembership(self._uuid(), request.user_id, request.plan, payment_request_id, self.now, end)
            self._memberships[membership.membership_id] = membership
            self.note(0, "membership", request.user_id, membership.membership_id)
            return membership

    def complete(self, payment_request_id: str) -> None:
        """Let the user pay a pending payment request, which gives the membership."""
        with self._lock:
            request = self.payment_request(payment_request_id)
            if request.settled_at is not None:
                raise Refusal(422, "this payment request is completed")
            self._settle(request)
            self.give_membership(payment_request_id)

    def ask_for_payment(self, user_id: int | str, plan_id: str, *, number: int = 0) -> FakePaymentRequest:
        """Create a pending payment request. Calling this twice creates two."""
        with self._lock:
            plan, user = self.plan(plan_id), self.add_user(user_id)
            terms = plan.terms
            request = FakePaymentRequest(self._uuid(), user, plan, terms.cost, terms.currency, self.now)
            self._requests_for_payment[request.payment_request_id] = request
            self.note(number, "payment request", user, request.payment_request_id)
            return request

    def extend(self, user_id: str | None, until: datetime, *, number: int = 0) -> int:
        """Set the end of all memberships of a user, or of the project (None); return their number."""
        with self._lock:
            changed = [one for one in self.memberships if user_id in (None, one.user_id)]
            if user_id is not None and not changed:
                raise Refusal(_UNKNOWN, "this user has no memberships")
            self._memberships.update((one.membership_id, evolve(one, end=until)) for one in changed)
            self.note(number, "extend", user_id, iso(until))
            return len(changed)

    def remove(self, membership_id: str, *, number: int = 0) -> None:
        """End a membership now."""
        with self._lock:
            found = self._memberships.pop(membership_id, None)
            if found is None:
                raise Refusal(_UNKNOWN, "no such membership")
            self.note(number, "remove", found.user_id, membership_id)

    def ban(self, user_id: str, *, number: int = 0) -> None:
        """Ban a user."""
        with self._lock:
            self._banned[user_id] = None
            self.note(number, "ban", user_id)

    def unban(self, user_id: str, *, number: int = 0) -> None:
        """Lift a ban."""
        with self._lock:
            if user_id not in self._banned:
                raise Refusal(_UNKNOWN, "this user is not banned")
            del self._banned[user_id]
            self.note(number, "unban", user_id)

    def set_balance(self, user_id: str, amount: Decimal, *, number: int = 0) -> tuple[Decimal, str]:
        """Set the balance of a user; return the balance before, and the id of the transaction."""
        with self._lock:
            before = self.balance(self.known(user_id))
            self._balances[user_id] = amount
            self.note(number, "balance", user_id, money(amount))
            return before, self._uuid()

    def set_webhook(self, url: str, *, number: int = 0) -> FakeWebhook:
        """Add a webhook with a new secret, 64 hex digits."""
        with self._lock:
            self._webhook = FakeWebhook(url, f"{self._random.getrandbits(256):064x}")
            self.note(number, "webhook", None, url)
            return self._webhook

    def plan(self, plan_id: str) -> FakeProjectPlan:
        """Return a plan. Raises Refusal if there is none."""
        found = self._plans.get(plan_id)
        if found is None:
            raise Refusal(_UNKNOWN, "no such plan")
        return found

    def payment_request(self, payment_request_id: str) -> FakePaymentRequest:
        """Return a payment request. Raises Refusal if there is none."""
        found = self._requests_for_payment.get(payment_request_id)
        if found is None:
            raise Refusal(_UNKNOWN, "no such payment request")
        return found

    def add_user(self, user_id: int | str) -> str:
        """Add a user unless known, and return the id as API v2 writes it."""
        self._users[str(user_id)] = None
        return str(user_id)

    def known(self, user_id: str) -> str:
        """Return the id of a known user. Raises Refusal for another one."""
        if user_id not in self._users:
            raise Refusal(_UNKNOWN, "no such user")
        return user_id

    def note(self, number: int, what: str, user_id: str | None = None, value: str = "") -> None:
        """Add an effect to the audit log."""
        self._audit.append(ProjectEffect(number, self.now, what, user_id, value))

    def _settle(self, request: FakePaymentRequest) -> None:
        settled = evolve(request, settled_at=self.now)
        self._requests_for_payment[request.payment_request_id] = settled
        if self._webhook is None:
            return
        data = {
            "payment_request_id": request.payment_request_id,
            "project_id": self.project_id,
            "amount": money(request.amount),
            "currency": request.currency,
            "settled_at": iso(self.now),
        }
        self.outbox.put(ProjectEvent("payment-request.completed", self._uuid(), data, created_at=self.now))

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))
