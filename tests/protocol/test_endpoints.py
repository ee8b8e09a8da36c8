"""The table of methods, and the checks of arguments."""

from enum import Enum
from typing import Any

import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import (
    ADD_MEMBER,
    DELETE_WEBHOOK,
    ENDPOINTS,
    GET_PLANS,
    SET_WEBHOOK,
    SET_WEBHOOK_LOCALLY,
    arguments,
    call_by_name,
    extra_params,
)
from tgmembership_async.protocol.wire import Safety


def test_the_table_holds_the_ten_methods() -> None:
    assert {(e.verb, e.method, e.safety.value) for e in ENDPOINTS} == {
        ("POST", "addMember", "unsafe"),
        ("GET", "countOrders", "safe"),
        ("GET", "countUsers", "safe"),
        ("GET", "getPlans", "safe"),
        ("GET", "getRevenue", "safe"),
        ("GET", "getSubscribers", "safe"),
        ("GET", "mostPopularPaymentMethods", "safe"),
        ("GET", "plansPerformance", "safe"),
        ("POST", "webhook", "idempotent"),
        ("DELETE", "webhook", "idempotent"),
    }


def test_a_member_of_an_enum_is_sent_as_its_number() -> None:
    class Plan(int, Enum):
        GOLD = 3

    class Coupon(str, Enum):  # noqa: UP042 - as an older program has it; str() returns its name
        SALE = "sale"

    assert str(arguments(ADD_MEMBER, {"plan_id": Plan.GOLD, "member_id": 42}, None)["plan_id"]) == "3"
    assert list(map(str, extra_params({"page": Plan.GOLD, "coupon": Coupon.SALE}).values())) == ["3", "sale"]


def test_what_is_none_is_left_out() -> None:
    assert arguments(ADD_MEMBER, {"plan_id": 1, "member_id": None}, None) == {"plan_id": 1}
    assert arguments(GET_PLANS, {"plan_id": None}, {"page": 2}) == {"page": 2}


@pytest.mark.parametrize("value", [0, -1, True, False, "1", 1.0, 2**63, [], b"1", float("nan")])
@pytest.mark.parametrize("name", ["plan_id", "member_id"])
def test_ids_are_positive_ints_of_64_bits(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        arguments(ADD_MEMBER, {"plan_id": 1, "member_id": 2} | {name: value}, None)


def test_the_largest_id_is_fine() -> None:
    assert arguments(ADD_MEMBER, {"plan_id": 2**63 - 1}, None) == {"plan_id": 2**63 - 1}


def test_a_required_parameter_is_named() -> None:
    with pytest.raises(UsageError, match="addMember needs plan_id"):
        arguments(ADD_MEMBER, {"plan_id": None}, None)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://example.com/h",
        "https://",
        "https:///h",
        "ftp://x",
        "example.com",
        5,
        None,
        "https://a b",
        "https://x:99999",
        "https://x\n",
        "https://[::1",
    ],
)
def test_a_webhook_url_is_https_with_a_host(url: object) -> None:
    with pytest.raises(UsageError, match="url"):
        arguments(SET_WEBHOOK, {"url": url}, None)


def test_a_good_webhook_url_passes_as_it_is() -> None:
    url = "https://shop.example:8443/tgmembership?x=1"
    assert arguments(SET_WEBHOOK, {"url": url}, None) == {"url": url}


def test_a_service_on_loopback_may_call_an_http_url() -> None:
    for url in ("http://127.0.0.1:8000/h", "http://localhost/h", "http://[::1]:1/h", "https://shop.example/h"):
        assert arguments(SET_WEBHOOK_LOCALLY, {"url": url}, None) == {"url": url}
    for wrong in ("http://shop.example/h", "http:///h", 5):
        with pytest.raises(UsageError):
            arguments(SET_WEBHOOK_LOCALLY, {"url": wrong}, None)


@pytest.mark.parametrize(
    "extra",
    [
        {"": 1},
        {1: 1},
        {"a": True},
        {"a": 1.5},
        {"a": []},
        {"a": b""},
        {"a": 2**64},
        {"a": "\ud800"},
        {"plan_id": 2},
        "abc",
        [("a", 1)],
    ],
)
def test_undocumented_parameters_are_checked_too(extra: Any) -> None:
    with pytest.raises(UsageError):
        arguments(ADD_MEMBER, {"plan_id": 1}, extra)


def test_undocumented_parameters_may_be_any_text_or_number() -> None:
    assert extra_params({"a": "é☃", "b": -5, "c": "", "d": None}) == {"a": "é☃", "b": -5, "c": ""}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("ADDMEMBER", "POST", None), ("addMember", "POST", Safety.UNSAFE)),
        (("addmember", "GET", "safe"), ("addMember", "GET", Safety.UNSAFE)),
        (("getplans", "POST", None), ("getPlans", "POST", Safety.SAFE)),
        (("WebHook", "DELETE", None), ("webhook", "DELETE", Safety.IDEMPOTENT)),
        (("newThing", "GET", None), ("newThing", "GET", Safety.SAFE)),
        (("newThing", "POST", None), ("newThing", "POST", Safety.UNSAFE)),
        (("newThing", "DELETE", "idempotent"), ("newThing", "DELETE", Safety.IDEMPOTENT)),
        (("newThing", "GET", Safety.UNSAFE), ("newThing", "GET", Safety.UNSAFE)),
    ],
)
def test_a_documented_name_keeps_its_own_safety(asked: tuple[Any, Any, Any], expected: tuple[str, str, Safety]) -> None:
    assert call_by_name(*asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        ("", "GET", None),
        ("..", "GET", None),
        ("a/b", "GET", None),
        ("a?b", "GET", None),
        ("é", "GET", None),
        (5, "GET", None),
        ("a\n", "GET", None),
        ("a", "get", None),
        ("a", "PUT", None),
        ("a", "GET", "maybe"),
        ("a", ["GET"], None),
    ],
)
def test_a_wrong_call_is_refused(asked: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UsageError):
        call_by_name(*asked)


def test_deleting_a_webhook_returns_nothing_whatever_came() -> None:
    assert DELETE_WEBHOOK.read({"deleted": True}) is None
    assert SET_WEBHOOK.read("x") == "x"
