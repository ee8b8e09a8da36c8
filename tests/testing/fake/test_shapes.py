"""Every shape that the fake service can speak is read by the client to the same value."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.envelope import Envelope, parse
from tgmembership_async.protocol.structuring import results
from tgmembership_async.testing import FakePlan, FakeService
from tgmembership_async.testing.fake.shapes import SHAPES

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def service(method: str, shape: str) -> FakeService:
    plans = [FakePlan(1), FakePlan(2, "Gold", "1 year", "99.50", recurring=True)]
    fake = FakeService(plans=plans, shapes={method: shape}, clock=lambda: NOW, bot_id=7, api_key="k")
    fake.order(1, 42, "Stripe")
    fake.order(2, 43, "Stripe")
    fake.order(2, 44, "PayPal")
    return fake


def result(fake: FakeService, verb: str, path: str, body: bytes = b"") -> Any:
    reply = parse(fake.handle(verb, f"/bot7/k/{path}".encode(), {}, body).body)
    assert isinstance(reply, Envelope)
    assert reply.ok
    return reply.result


def shapes(method: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    return pytest.mark.parametrize("shape", SHAPES[method])


@shapes("addMember")
def test_a_granted_member_gets_what_the_shape_can_say(shape: str) -> None:
    fake = service("addMember", shape)
    access = results.access_token(result(fake, "POST", "addMember", b"plan_id=1&member_id=42"))
    [token] = fake.tokens
    told = {
        "object": (token.value, token.link),
        "token": (token.value, None),
        "link": (None, token.link),
        "token_object": (token.value, token.link),
        "code_object": (token.value, token.link),
        "link_object": (None, token.link),
    }
    assert (access.token, access.link) == told.get(shape, (None, None))


@shapes("getPlans")
def test_plans(shape: str) -> None:
    first, gold = results.plans(result(service("getPlans", shape), "GET", "getPlans"))
    assert (first.plan_id, first.name, first.duration.text, first.recurring) == (1, "My first plan", "1 month", False)
    assert (gold.price.amount, gold.price.currency, gold.recurring) == (Decimal("99.50"), "EUR", True)


@shapes("getSubscribers")
def test_subscribers(shape: str) -> None:
    fake = service("getSubscribers", shape)
    assert [one.user_id for one in results.subscribers(result(fake, "GET", "getSubscribers"))] == [42, 43, 44]
    [one] = results.subscribers(result(fake, "GET", "getSubscribers?user_id=42"))
    assert (one.plan_id, one.started_at, one.expires_at) == (1, NOW, NOW + timedelta(days=30))
    assert results.subscribers(result(fake, "GET", "getSubscribers?user_id=1")) == []


@shapes("countOrders")
def test_orders(shape: str) -> None:
    count = results.count(result(service("countOrders", shape), "GET", "countOrders"))
    assert int(count) == 3
    assert count.breakdown in ({}, {"plan_1": 1, "plan_2": 2})


@shapes("countUsers")
def test_users(shape: str) -> None:
    count = results.count(result(service("countUsers", shape), "GET", "countUsers"))
    assert int(count) == 3
    assert count.breakdown in ({}, {"with_access": 3})


@shapes("getRevenue")
def test_revenue(shape: str) -> None:
    [money] = results.revenue(result(service("getRevenue", shape), "GET", "getRevenue")).amounts
    assert money.amount == Decimal("208.99")
    assert money.currency == ("" if shape in ("string", "number", "amount") else "EUR")


@shapes("mostPopularPaymentMethods")
def test_payment_methods(shape: str) -> None:
    path = "mostPopularPaymentMethods"
    methods = results.payment_methods(result(service(path, shape), "GET", path))
    assert [(method.name, method.count) for method in methods] == [("Stripe", 2), ("PayPal", 1)]


@shapes("plansPerformance")
def test_performance(shape: str) -> None:
    path = "plansPerformance"
    _, gold = results.performance(result(service(path, shape), "GET", path))
    assert (gold.plan_id, gold.name, gold.orders) == (2, "Gold", 2)
    assert gold.revenue is not None
    assert (gold.revenue.amount, gold.revenue.currency) == (Decimal("199.00"), "EUR")


@shapes("webhook")
def test_a_webhook_and_its_secret(shape: str) -> None:
    fake = service("webhook", shape)
    url = "https://a.example/"
    webhook = results.webhook(result(fake, "POST", "webhook", b"url=https://a.example/"), url=url)
    assert webhook.url == url
    assert fake.webhook is not None
    told = None if webhook.secret is None else webhook.secret.reveal()
    assert told == (None if shape in ("true", "null") else fake.webhook.secret)


@shapes("deleteWebhook")
def test_a_deleted_webhook(shape: str) -> None:
    assert result(service("deleteWebhook", shape), "DELETE", "webhook") in (True, None, [])


@pytest.mark.parametrize("shape", ["number", "string", "revenue", "mapping", "list"])
def test_no_revenue_at_all(shape: str) -> None:
    fake = FakeService(plans=[], shapes={"getRevenue": shape}, bot_id=7, api_key="k")
    assert sum(money.amount for money in results.revenue(result(fake, "GET", "getRevenue")).amounts) == 0


@pytest.mark.parametrize(("method", "shape"), [("getPlans", "nonsense"), ("nonsense", "list")])
def test_an_unknown_shape_is_refused_with_the_known_ones(method: str, shape: str) -> None:
    with pytest.raises(UsageError, match=r"strings, numbers|the methods are addMember"):
        FakeService(shapes={method: shape})
