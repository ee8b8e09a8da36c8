"""The state of the fake service and its changes. No I/O; clock and seed are parameters."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from string import ascii_letters, digits
from threading import RLock
from typing import Any, Final

from attrs import evolve

from tgmembership_async.renamed import warn_renamed
from tgmembership_async.testing.fake.outbox import FakeEvent, Outbox, order_data, termination_data
from tgmembership_async.testing.fake.shapes import Counts
from tgmembership_async.testing.fake.values import (
    SAMPLE_PLANS,
    FakeOrder,
    FakePlan,
    FakeSubscriber,
    FakeToken,
    FakeWebhook,
    GrantRecord,
    PlanSales,
    Refusal,
)

_ALPHABET: Final = ascii_letters + digits
_PAYMENT_METHODS: Final = ("Stripe", "PayPal", "Telegram Stars", "Crypto")


def now_in_utc() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


class ServiceState:
    """Plans, members, tokens, orders, subscribers, the webhook, and an audit log of every grant. Thread-safe.

    Properties return copies. Methods raise `Refusal` if the rules of the service forbid the change.
    """

    def __init__(
        self,
        *,
        plans: Iterable[FakePlan] = SAMPLE_PLANS,
        members: Iterable[int] | None = None,
        silent: Iterable[int] = (),
        unused_cap: int | None = None,
        clock: Callable[[], datetime] = now_in_utc,
        seed: int = 0,
    ) -> None:
        self.unused_cap = unused_cap
        self._clock = clock
        self._random = Random(seed)  # noqa: S311 - reproducible on purpose
        self._lock = RLock()
        self._plans = {plan.plan_id: plan for plan in plans}
        self._members = None if members is None else frozenset(members)
        self._silent = frozenset(silent)
        self._tokens: dict[str, FakeToken] = {}
        self._unused = 0
        self._orders: list[FakeOrder] = []
        self._subscribers: dict[tuple[int, int], FakeSubscriber] = {}
        self._webhook: FakeWebhook | None = None
        self.outbox: Outbox = Outbox()
        self._audit: list[GrantRecord] = []

    @property
    def now(self) -> datetime:
        """Return the time on the service's clock, the `Date` of its replies."""
        return self._clock()

    @property
    def plans(self) -> list[FakePlan]:
        """Return the plans in order."""
        return list(self._plans.values())

    @property
    def audit(self) -> list[GrantRecord]:
        """Return every grant that took effect, in order."""
        with self._lock:
            return list(self._audit)

    @property
    def tokens(self) -> list[FakeToken]:
        """Return every access token that was created, in order."""
        with self._lock:
            return list(self._tokens.values())

    @property
    def orders(self) -> list[FakeOrder]:
        """Return the paid orders, in order."""
        with self._lock:
            return list(self._orders)

    @property
    def subscribers(self) -> list[FakeSubscriber]:
        """Return the users with access, one row for each user and plan."""
        with self._lock:
            return list(self._subscribers.values())

    @property
    def webhook(self) -> FakeWebhook | None:
        """Return the webhook, or None if none is set."""
        return self._webhook

    def granted_twice(self) -> dict[tuple[int, int | None], int]:
        """Return (plan_id, member_id) with the number of grants, for those with more than one grant."""
        counts = Counter((grant.plan_id, grant.member_id) for grant in self.audit)
        return {key: count for key, count in counts.items() if count > 1}

    def grant(self, plan_id: int, member_id: int | None = None, *, number: int = 0) -> FakeToken:
        """Create a token and record it in the audit log. Calling this twice grants twice."""
        with self._lock:
            self._check_grant(plan_id, member_id)
            value = self._letters(24)
            token = FakeToken(value, f"https://t.me/my_fake_bot?start={value}", plan_id, member_id)
            self._tokens[value] = token
            self._unused += 1
            self._audit.append(GrantRecord(number, self._clock(), plan_id, member_id, value))
            return token

    def _check_grant(self, plan_id: int, member_id: int | None) -> None:
        if plan_id not in self._plans:
            raise Refusal(404, "no such plan")
        if member_id is not None and self._members is not None and member_id not in self._members:
            raise Refusal(404, "no such member")
        if member_id in self._silent:
            raise Refusal(403, "this user has not talked to the bot, or has blocked it")
        if self.unused_cap is not None and self._unused >= self.unused_cap:
            raise Refusal(409, "too many unused access tokens")

    def redeem(self, token: str, user_id: int | None = None) -> FakeSubscriber:
        """Use a token for a user, by default the member it was created for. A token can be used once."""
        with self._lock:
            found = self._tokens.get(token)
            user = user_id if found is None or user_id is not None else found.member_id
            if found is None or found.used_by is not None or user is None:
                raise Refusal(404, "no such access token, or it is used")
            self._tokens[token] = evolve(found, used_by=user)
            self._unused -= 1
            return self._subscribe(user, self._plans[found.plan_id], self._clock())

    def order(self, plan_id: int, user_id: int, payment_method: str = "Stripe", *, at: datetime | None = None) -> None:
        """Add a paid order of a user, and give the user access to the plan."""
        with self._lock:
            if plan_id not in self._plans:
                raise Refusal(404, "no such plan")
            order = FakeOrder(self._clock() if at is None else at, plan_id, user_id, payment_method)
            self._orders.append(order)
            self._subscribe(user_id, self._plans[plan_id], order.at)
            self.tell("order_completed", order_data(len(self._orders), order, self._plans[plan_id]))

    def terminate(self, user_id: int, plan_id: int, reason: str = "expired") -> None:
        """End a user's access to a plan."""
        with self._lock:
            if self._subscribers.pop((user_id, plan_id), None) is None:
                raise Refusal(404, "no such subscriber")
            data = termination_data(user_id, self._plans[plan_id], reason, self._clock())
            self.tell("membership_terminated", data)

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Queue an event for the webhook, if one is set. `serve` and `Courier` deliver it."""
        with self._lock:
            if self._webhook is not None:
                self.outbox.put(FakeEvent(name, f"dbg_{self._random.randrange(1000):03d}", dict(data)))

    def populate(self, orders: int = 60) -> None:
        """Add random paid orders of the last ninety days."""
        with self._lock:
            for _ in range(orders):
                ago = timedelta(minutes=self._random.randrange(90 * 24 * 60))
                self.order(
                    self._random.choice(self.plans).plan_id,
                    self._random.randrange(10**8, 10**10),
                    self._random.choice(_PAYMENT_METHODS),
                    at=self._clock() - ago,
                )

    def set_webhook(self, url: str) -> FakeWebhook:
        """Set the webhook of the bot, and generate a new secret for it."""
        with self._lock:
            self._webhook = FakeWebhook(url, self._letters(40))
            return self._webhook

    def delete_webhook(self) -> None:
        """Remove the webhook, if one is set."""
        self._webhook = None

    def order_counts(self) -> Counts:
        """Count the orders, and the orders of each plan."""
        parts = Counter(f"plan_{order.plan_id}" for order in self.orders)
        return Counts(parts.total(), dict(sorted(parts.items())))

    def user_counts(self) -> Counts:
        """Count the known users, and those with access."""
        paying = {subscriber.user_id for subscriber in self.subscribers}
        seen = paying | {grant.member_id for grant in self.audit if grant.member_id is not None}
        return Counts(len(seen), {"with_access": len(paying)})

    def order_tally(self) -> Counts:
        """Call `order_counts`, under its former name."""
        warn_renamed("order_tally", "order_counts")
        return self.order_counts()

    def user_tally(self) -> Counts:
        """Call `user_counts`, under its former name."""
        warn_renamed("user_tally", "user_counts")
        return self.user_counts()

    def revenue(self) -> dict[str, Decimal]:
        """Return the sum of payments for each currency."""
        sums: dict[str, Decimal] = {}
        for sales in self.sales():
            currency = sales.plan.currency
            sums[currency] = sums.get(currency, Decimal(0)) + sales.revenue
        return sums

    def payment_methods(self) -> dict[str, int]:
        """Return the number of payments for each method, most popular first."""
        return dict(Counter(order.payment_method for order in self.orders).most_common())

    def sales(self) -> list[PlanSales]:
        """Return orders and revenue of each plan."""
        counts = Counter(order.plan_id for order in self.orders)
        return [PlanSales(plan, counts[plan.plan_id], plan.cost * counts[plan.plan_id]) for plan in self.plans]

    def _subscribe(self, user_id: int, plan: FakePlan, at: datetime) -> FakeSubscriber:
        subscriber = FakeSubscriber(user_id, plan.plan_id, at, plan.expiry(at))
        self._subscribers[user_id, plan.plan_id] = subscriber
        return subscriber

    def _letters(self, length: int) -> str:
        return "".join(self._random.choices(_ALPHABET, k=length))
