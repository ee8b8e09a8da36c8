"""Bodies to events: what is read, what is kept, what is refused, and what tells one event from another."""

import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.errors import Unreadable
from tgmembership_async.values.money import Money
from tgmembership_async.webhooks.events import (
    Event,
    MembershipTerminated,
    OrderCompleted,
    UnknownEvent,
    fingerprint,
    identify,
    read_event,
)
from tgmembership_async.webhooks.signature import Delivery

SIGNED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECEIVED = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
ORDER = {
    "order_id": 17,
    "user_id": "42",
    "plan_id": 1,
    "plan_name": "My first plan",
    "amount": "9.99",
    "currency": "EUR",
    "payment_method": "Stripe",
    "paid_at": "2026-01-02 03:04:00",
    "coupon": {"code": "X"},
}


def read(body: bytes | object) -> Event:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    delivery = Delivery(SIGNED, "nonce", raw, "digest")
    try:
        identity: tuple[str, str] | str = identify(delivery)
    except Unreadable as error:
        identity = str(error)
    try:
        event = read_event(delivery, RECEIVED)
    except Unreadable as error:
        assert identity == str(error)  # noqa: PT017 - the caller expects the error
        raise
    assert identity == (event.name, event.fingerprint)
    return event


def order(data: Any = ORDER, **more: Any) -> Event:
    return read({"event": "order_completed", "debug_id": "d-1", "data": data, **more})


def test_an_order_is_read_and_kept_whole() -> None:
    event = order()
    assert isinstance(event, OrderCompleted)
    assert (event.order_id, event.user_id, event.plan_id, event.plan_name) == ("17", 42, 1, "My first plan")
    assert (event.amount, event.payment_method) == (Money(Decimal("9.99"), "EUR"), "Stripe")
    assert event.paid_at == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert event.extra == {"coupon": {"code": "X"}}
    assert event.data == ORDER
    assert (event.name, event.debug_id, event.signed_at, event.received_at) == (
        "order_completed",
        "d-1",
        SIGNED,
        RECEIVED,
    )
    assert (event.attempt, evolve(event, attempt=2).attempt) == (1, 2)


def test_a_termination_is_read() -> None:
    data = {"member_id": 42, "plan_id": "7", "reason": "expired", "expires_at": 1_700_000_000, "by": "system"}
    event = read({"event": "membership_terminated", "data": data})
    assert isinstance(event, MembershipTerminated)
    assert (event.user_id, event.plan_id, event.reason, event.debug_id) == (42, 7, "expired", "")
    assert event.terminated_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert event.extra == {"by": "system"}


def test_what_does_not_read_is_none_and_left_over() -> None:
    event = order({"user_id": "somebody", "amount": [], "paid_at": "soon", "plan_id": None})
    assert isinstance(event, OrderCompleted)
    assert (event.user_id, event.amount, event.paid_at, event.plan_id, event.order_id) == (None, None, None, None, None)
    assert event.extra == {"user_id": "somebody", "amount": [], "paid_at": "soon"}
    assert event.data["plan_id"] is None


def test_money_is_exact() -> None:
    body = b'{"event": "order_completed", "data": {"amount": 0.1000000000000000055511151231257827}}'
    event = read(body)
    assert isinstance(event, OrderCompleted)
    assert event.amount == Money(Decimal("0.1000000000000000055511151231257827"))


def test_an_event_of_another_name_loses_nothing() -> None:
    event = read({"event": "donation_received", "debug_id": 7, "data": {"a": [1, {"b": None}]}, "id": "e1", "v": 2})
    assert isinstance(event, UnknownEvent)
    assert (event.name, event.debug_id, event.data) == ("donation_received", "7", {"a": [1, {"b": None}]})
    assert event.envelope == {"id": "e1", "v": 2}


@pytest.mark.parametrize("data", [{}, [], None])
def test_an_empty_object_comes_in_several_spellings(data: Any) -> None:
    assert order(data).data == {}
    assert read({"event": "order_completed"}).data == {}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"event": "x"', "not JSON"),
        (b'{"event": "x", "data": {"a": NaN}}', "not JSON"),
        (b'{"event": "x", "data": {"a": -Infinity}}', "not JSON"),
        (b'{"event": "x", "data": {"a": ' + b"9" * 5_000 + b"}}", "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"{}", "'event'"),
        (b'{"event": ""}', "'event'"),
        (b'{"event": 7}', "'event'"),
        (json.dumps({"event": "x" * 201}).encode(), "'event'"),
        (b'{"event": "x", "data": "text"}', "'data'"),
        (b'{"event": "x", "data": [1]}', "'data'"),
    ],
)
def test_what_is_no_event_is_unreadable_and_says_why(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(body)


def test_no_depth_of_nesting_is_anything_but_an_event_or_unreadable() -> None:
    outcomes = set()
    for depth in (10, 100, *range(700, 1_010), 10_000, 100_000):
        try:
            read(b'{"event": "x", "data": {"a": ' + b"[" * depth + b"]" * depth + b"}}")
        except Unreadable as error:
            outcomes.add(str(error).rpartition(": ")[2])
        else:
            outcomes.add("an event")
    assert outcomes == {"an event", "the JSON is nested too deeply"}


class TestFingerprint:
    def test_a_repeat_has_it_whatever_its_signature_debug_id_and_order_of_keys(self) -> None:
        again = {"data": dict(reversed(ORDER.items())), "event": "order_completed", "debug_id": "another"}
        assert read(again).fingerprint == order().fingerprint

    @pytest.mark.parametrize(
        "other",
        [
            {"event": "order_completed", "data": ORDER | {"order_id": 18}},
            {"event": "order_renewed", "data": ORDER},
            {"event": "order_completed", "data": ORDER | {"order_id": "17"}},
            {"event": "order_completed", "data": {}},
        ],
    )
    def test_another_event_has_another(self, other: Any) -> None:
        assert read(other).fingerprint != order().fingerprint

    def test_the_same_debug_id_does_not_make_two_events_one(self) -> None:
        assert order(ORDER | {"order_id": 18}).fingerprint != order().fingerprint

    def test_the_unique_id_of_the_later_generation_counts(self) -> None:
        assert order(id="e1").fingerprint != order(id="e2").fingerprint
        assert order(id="e1").fingerprint == order(id="e1").fingerprint

    def test_it_is_stable_across_versions(self) -> None:
        digest = "010182fe28d63a7f95a03a1b11356f8eb0cc19d6760a751e3e1047cb5853b822"
        assert fingerprint("order_completed", {"b": Decimal("9.90"), "a": ["ä", None, True, 1]}) == digest

    def test_a_number_is_no_string(self) -> None:
        assert fingerprint("x", {"a": Decimal("9.9")}) != fingerprint("x", {"a": "9.9"})


def test_an_event_pickles() -> None:
    event = order()
    assert pickle.loads(pickle.dumps(event)) == event


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["order_id", "user_id", "plan_id", "amount", "currency", "date", "reason"]) | st.text(max_size=5)


@given(
    name=st.sampled_from(["order_completed", "membership_terminated"]) | st.text(max_size=10),
    data=st.dictionaries(keys, json_values, max_size=6) | json_values,
    debug_id=json_values,
)
def test_any_json_is_an_event_or_unreadable(name: str, data: Any, debug_id: Any) -> None:
    try:
        event = read({"event": name, "data": data, "debug_id": debug_id})
    except Unreadable:
        assert not name.strip() or not isinstance(data, dict)
    else:
        assert event.name == name
        assert json.loads(json.dumps(dict(event.data), default=float)) == (data or {})


@given(st.binary(max_size=100))
def test_any_bytes_are_an_event_or_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read(body)
