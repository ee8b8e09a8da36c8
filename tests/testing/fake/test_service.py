"""The fake service without a network: credentials, methods, parameters, the world behind them, what it remembers."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Thread
from typing import Any

import pytest

from tgmembership_async.testing import FakePlan, FakeService, Fault, GrantRecord, RequestRecord
from tgmembership_async.testing.fake import shapes
from tgmembership_async.testing.fake.values import Refusal

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = "Abc0123456789"


def service(**options: Any) -> FakeService:
    return FakeService(**{"api_key": KEY, "bot_id": 7, "clock": lambda: NOW, **options})


def ask(fake: FakeService, verb: str, path: str, params: object = None, *, form: bytes | None = None) -> dict[str, Any]:
    content_type = "application/json" if form is None else "application/x-www-form-urlencoded"
    body = (b"" if params is None else json.dumps(params).encode()) if form is None else form
    response = fake.handle(verb, f"/bot7/{KEY}/{path}".encode(), {"Content-Type": content_type}, body)
    reply: dict[str, Any] = json.loads(response.body)
    assert reply["ok"] is (reply["code"] == 200)
    assert response.status in (reply["code"], 200)
    return reply


def granted(fake: FakeService, **params: object) -> int:
    return int(ask(fake, "POST", "addMember", params)["code"])


def test_a_grant_gives_a_token_and_is_written_into_the_audit() -> None:
    fake = service()
    reply = ask(fake, "POST", "addMember", {"plan_id": 1, "member_id": 42})
    assert reply["code"] == 200
    [token] = fake.tokens
    assert reply["result"] == {"access_token": token.value, "link": token.link}
    assert fake.audit == [GrantRecord(1, NOW, 1, 42, token.value)]


def test_a_second_grant_is_a_second_grant_and_is_told() -> None:
    fake = service()
    for member_id in (42, 42, 43, None):
        assert granted(fake, plan_id=1, member_id=member_id) == 200
    assert [grant.number for grant in fake.audit] == [1, 2, 3, 4]
    assert len({grant.token for grant in fake.audit}) == 4
    assert fake.granted_twice() == {(1, 42): 2}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, 400),
        ({"plan_id": 0}, 400),
        ({"plan_id": -1}, 400),
        ({"plan_id": True}, 400),
        ({"plan_id": "one"}, 400),
        ({"plan_id": "1_0"}, 400),
        ({"plan_id": 1.0}, 400),
        ({"plan_id": 2**63}, 400),
        ({"plan_id": "9" * 19}, 400),
        ({"plan_id": 1, "member_id": "x"}, 400),
        ({"plan_id": 99}, 404),
        ({"plan_id": 1, "member_id": 3}, 404),
        ({"plan_id": 1, "member_id": 2}, 403),
        ({"plan_id": "1", "member_id": "1"}, 200),
        ({"plan_id": 1}, 200),
    ],
)
def test_what_a_grant_needs(params: dict[str, object], code: int) -> None:
    fake = service(members=[1, 2], silent=[2])
    assert granted(fake, **params) == code
    assert len(fake.audit) == (code == 200)


def test_any_positive_id_is_known_unless_the_members_are_named() -> None:
    assert granted(service(), plan_id=1, member_id=2**63 - 1) == 200


def test_past_the_cap_of_unused_tokens_nothing_is_granted_until_one_is_used() -> None:
    fake = service(unused_cap=1)
    assert granted(fake, plan_id=1, member_id=1) == 200
    assert granted(fake, plan_id=1, member_id=2) == 409
    fake.redeem(fake.tokens[0].value)
    assert granted(fake, plan_id=1, member_id=2) == 200


def test_a_token_is_used_once_and_makes_a_subscriber() -> None:
    fake = service()
    token = fake.grant(1, 42)
    assert fake.subscribers == []
    subscriber = fake.redeem(token.value)
    assert fake.subscribers == [subscriber]
    assert (subscriber.user_id, subscriber.expires_at) == (42, NOW + timedelta(days=30))
    assert fake.tokens[0].used_by == 42
    with pytest.raises(Refusal):
        fake.redeem(token.value)


def test_a_token_for_nobody_is_used_by_whoever_opens_it() -> None:
    fake = service()
    token = fake.grant(1)
    with pytest.raises(Refusal):
        fake.redeem(token.value)
    assert fake.redeem(token.value, 43).user_id == 43


@pytest.mark.parametrize(
    ("duration", "days"), [("1 month", 30), ("3 days", 3), ("2 weeks", 14), ("0", None), ("02.11.2027", None)]
)
def test_access_ends_where_the_plans_text_says_so(duration: str, days: int | None) -> None:
    expiry = FakePlan(1, duration=duration).expiry(NOW)
    assert expiry == (None if days is None else NOW + timedelta(days=days))


def test_the_plans_are_the_published_sample_all_in_strings() -> None:
    result = ask(service(), "GET", "getPlans")["result"]
    assert result[0] == {
        "plan_id": "1",
        "plan_name": "My first plan",
        "duration": "1 month",
        "cost": "9.99",
        "currency": "EUR",
        "recurring": "0",
    }
    assert len(result) == 4


def test_a_plan_id_filters_and_the_result_is_still_an_array() -> None:
    [plan] = ask(service(), "GET", "getPlans?plan_id=2")["result"]
    assert plan["plan_id"] == "2"
    assert ask(service(), "GET", "getPlans?plan_id=99")["result"] == []


def test_orders_count_make_subscribers_and_bring_revenue() -> None:
    fake = service()
    fake.order(1, 42)
    fake.order(1, 43, "PayPal")
    fake.order(4, 43, "PayPal", at=NOW - timedelta(days=9))
    assert ask(fake, "GET", "countOrders")["result"] == "3"
    assert ask(fake, "GET", "countUsers")["result"] == "2"
    assert fake.revenue() == {"EUR": Decimal("19.98"), "XTR": Decimal(250)}
    assert ask(fake, "GET", "mostPopularPaymentMethods")["result"][0] == {"payment_method": "PayPal", "count": "2"}
    assert ask(fake, "GET", "plansPerformance")["result"][0]["orders"] == "2"
    assert {row["plan_id"] for row in ask(fake, "GET", "getSubscribers")["result"]} == {1, 4}
    assert ask(fake, "GET", "getSubscribers?user_id=42")["result"]["user_id"] == "42"
    assert [order.at for order in fake.orders][-1] == NOW - timedelta(days=9)
    with pytest.raises(Refusal):
        fake.order(99, 1)


def test_a_world_is_populated_from_its_seed() -> None:
    one, same, other = service(seed=1), service(seed=1), service(seed=2)
    for fake in (one, same, other):
        fake.populate(20)
    assert one.orders == same.orders != other.orders
    assert len(one.orders) == 20
    assert all(NOW - timedelta(days=90) <= order.at <= NOW for order in one.orders)


def test_the_one_webhook_is_set_replaced_and_deleted() -> None:
    fake = service()
    secret = ask(fake, "POST", "webhook", {"url": "https://a.example/"})["result"]["secret"]
    assert fake.webhook is not None
    assert (fake.webhook.url, fake.webhook.secret) == ("https://a.example/", secret)
    assert secret not in repr(fake.webhook)
    assert ask(fake, "POST", "webhook", {"url": "http://a.example/"})["code"] == 400
    assert ask(fake, "POST", "webhook")["code"] == 400
    for _ in range(2):
        assert ask(fake, "DELETE", "webhook")["code"] == 200
        assert fake.webhook is None


@pytest.mark.parametrize("name", ["getPlans", "getplans", "GETPLANS"])
def test_method_names_are_case_insensitive(name: str) -> None:
    fake = service()
    assert ask(fake, "GET", name)["code"] == 200
    assert fake.requests[0].method == "getPlans"


@pytest.mark.parametrize(
    ("verb", "target", "code"),
    [
        ("GET", f"/bot7/{KEY}/getPlans", 200),
        ("GET", f"/v0/bot7/{KEY}/getPlans", 200),
        ("GET", f"/bot7/{KEY}/get%50lans", 200),
        ("GET", f"/bot7/{KEY.lower()}/getPlans", 401),
        ("GET", f"/bot8/{KEY}/getPlans", 401),
        ("GET", f"/bot7/%FF{KEY}/getPlans", 401),
        ("GET", f"/bot7/{KEY}/getNothing", 404),
        ("GET", f"/bot7/{KEY}", 404),
        ("GET", f"/bot7/{KEY}/", 404),
        ("GET", "/", 404),
        ("GET", "", 404),
        ("GET", f"/bot7/{KEY}/addMember?plan_id=1", 405),
        ("POST", f"/bot7/{KEY}/getPlans", 405),
        ("DELETE", f"/bot7/{KEY}/addMember", 405),
        ("PATCH", f"/bot7/{KEY}/webhook", 405),
    ],
)
def test_who_is_let_in(verb: str, target: str, code: int) -> None:
    assert service().handle(verb, target.encode()).status == code


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b"\xff", b"[" * 100_000, b"plan_id=1"])
def test_a_body_that_is_no_json_object_is_a_bad_request(body: bytes) -> None:
    fake = service()
    target = f"/bot7/{KEY}/addMember".encode()
    assert fake.handle("POST", target, {"content-type": "application/json"}, body).status == 400


def test_a_body_may_be_a_form() -> None:
    fake = service()
    assert ask(fake, "POST", "addMember", form=b"plan_id=1&member_id=42")["code"] == 200
    assert fake.audit[0].member_id == 42


def test_the_http_status_need_not_say_what_the_envelope_says() -> None:
    response = service(always_200=True).handle("GET", f"/bot7/{KEY}/nothing".encode())
    assert response.status == 200
    assert json.loads(response.body)["code"] == 404


def test_a_later_generation_numbers_its_requests() -> None:
    assert ask(service(request_ids=True), "GET", "getPlans")["request_id"] == "req_00000001"


def test_requests_are_remembered_without_the_key() -> None:
    fake = service(faults=[Fault("latency", seconds=1, method="addMember")])
    plan = fake.plan_faults("POST", f"/bot7/{KEY}/addmember".encode())
    fake.handle("POST", f"/bot7/{KEY}/addmember".encode(), number=plan.number)
    fake.handle("GET", f"/bot7/{KEY}/getPlans".encode())
    fake.handle("GET", f"/bot7/{KEY}".encode())
    assert fake.requests == [
        RequestRecord(1, NOW, "POST", "addMember", ("latency before the effect",)),
        RequestRecord(2, NOW, "GET", "getPlans"),
        RequestRecord(3, NOW, "GET", ""),
    ]
    assert (fake.count_requests(), fake.count_requests("ADDMEMBER")) == (3, 1)


def test_faults_come_and_go() -> None:
    fake = service(faults=[Fault("closed")])
    fake.inject(Fault("reset"))
    assert [fault.kind for fault in fake.faults] == ["closed", "reset"]
    fake.clear_faults()
    assert fake.faults == ()
    assert fake.plan_faults("GET", b"/").ending == "whole"


def test_former_names_still_work_and_warn() -> None:
    fake, recorded = service(faults=[Fault("reset")]), ("POST", b"/bot7/key/addMember", b"{}")
    with pytest.warns(DeprecationWarning, match="fate is now called plan_faults"):
        assert fake.fate(*recorded).ending == "reset"
    with pytest.warns(DeprecationWarning, match="heal is now called clear_faults"):
        fake.heal()
    assert fake.faults == ()
    with pytest.warns(DeprecationWarning, match="speak is now called render"):
        assert fake.speak("deleteWebhook", None) == fake.render("deleteWebhook", None)
    with pytest.warns(DeprecationWarning, match="order_counts"):
        assert fake.order_tally() == fake.order_counts()
    with pytest.warns(DeprecationWarning, match="user_counts"):
        assert fake.user_tally() == fake.user_counts()
    with pytest.warns(DeprecationWarning, match="Counts"):
        assert shapes.Tally is shapes.Counts  # type: ignore[attr-defined]  # type checkers see the new name only
    with pytest.raises(AttributeError, match="Tallu"):
        shapes.Tallu  # type: ignore[attr-defined]  # noqa: B018 - the access is what is tested


def test_nothing_shows_the_key() -> None:
    fake = service()
    assert repr(fake) == "<FakeService bot7: 0 requests, 0 grants>"
    assert KEY not in repr(fake.session_options())
    assert fake.session_options()["api_key"].reveal() == KEY


def test_a_key_is_drawn_from_the_seed_in_the_form_of_the_real_ones() -> None:
    key = FakeService(seed=5).api_key.reveal()
    assert len(key) == 40
    assert key.isalnum()
    assert key == FakeService(seed=5).api_key.reveal() != FakeService(seed=6).api_key.reveal()


def test_threads_lose_no_grant() -> None:
    fake = service()
    target = f"/bot7/{KEY}/addMember".encode()

    def grant_many() -> None:
        for _ in range(200):
            fake.handle("POST", target, {}, b"plan_id=1&member_id=1")
            assert fake.audit

    threads = [Thread(target=grant_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.granted_twice() == {(1, 1): 800}
    assert [grant.number for grant in fake.audit] == list(range(1, 801))
