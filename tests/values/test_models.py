"""The models are frozen, comparable and picklable, and the repr of an access token is masked."""

import copy
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from tgmembership_async import (
    AccessToken,
    Count,
    Duration,
    Money,
    PaymentMethodUsage,
    Plan,
    PlanPerformance,
    Reply,
    Revenue,
    Secret,
    Subscriber,
    Webhook,
)

EXTRA: Mapping[str, Any] = {"seats": [1, {"a": None}]}
WHEN = datetime(2026, 1, 2, tzinfo=UTC)
MODELS = [
    Plan(1, "Gold", Duration("1 month"), Money("9.99", "EUR"), recurring=False, extra=EXTRA),
    Subscriber(42, 1, WHEN, WHEN, extra=EXTRA),
    AccessToken("token", "https://t.me/x?start=token", {"token": "token"}, extra=EXTRA),
    Count(7, {"active": 3}, extra=EXTRA),
    Revenue((Money("9.99", "EUR"),), extra=EXTRA),
    PaymentMethodUsage("card", 3, extra=EXTRA),
    PlanPerformance(1, "Gold", 3, Money("9.99"), extra=EXTRA),
    Webhook("https://example.com/", None, extra=EXTRA),
    Reply([1], 200, "fine", "r-1", 2, 0.5, extra=EXTRA),
]
FIELDS = {
    Plan: ["plan_id", "name", "duration", "price", "recurring"],
    Subscriber: ["user_id", "plan_id", "started_at", "expires_at"],
    AccessToken: ["token", "link", "raw"],
    Count: ["total", "breakdown"],
    Revenue: ["amounts"],
    PaymentMethodUsage: ["name", "count"],
    PlanPerformance: ["plan_id", "name", "orders", "revenue"],
    Webhook: ["url", "secret"],
    Reply: ["result", "code", "description", "request_id", "attempts", "elapsed"],
}

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@each_model
def test_its_fields_are_those_of_the_design_and_extra(model: Any) -> None:
    assert [field.name for field in attrs.fields(type(model))] == [*FIELDS[type(model)], "extra"]


@each_model
def test_it_comes_out_of_pickle_and_copy_equal(model: Any) -> None:
    assert pickle.loads(pickle.dumps(model)) == model
    assert copy.deepcopy(model) == model
    assert model.extra == EXTRA


@each_model
def test_it_is_frozen_and_slotted_and_so_is_its_extra(model: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        model.extra = {}
    with pytest.raises(TypeError):
        model.extra["x"] = 1
    assert not hasattr(model, "__dict__")


@each_model
def test_extra_is_empty_unless_given(model: Any) -> None:
    assert attrs.evolve(model, extra={}).extra == {}


@pytest.mark.parametrize("model", MODELS[:-1], ids=lambda model: type(model).__name__)
def test_it_is_hashable_though_its_mappings_are_not(model: Any) -> None:
    assert {model: 1}[copy.deepcopy(model)] == 1


def test_a_count_is_an_int_when_asked() -> None:
    assert int(Count(7)) == 7


def test_the_repr_of_an_access_token_shows_no_token() -> None:
    token = AccessToken("t0ken", "https://t.me/x?start=t0ken", {"hint": "t0ken"}, extra={"hint": "t0ken"})

    assert "t0ken" not in f"{token} {token!r} {[token]} {Reply(token)}"
    assert "t0ken" not in repr(Reply("t0ken", 200, "fine", extra={"link": "t0ken"}))
    assert repr(token) == "AccessToken(token=***, link=***, raw=***)"
    assert repr(AccessToken(raw=0)) == "AccessToken(token=None, link=None, raw=***)"


@pytest.mark.parametrize(
    ("token", "best"),
    [
        (AccessToken("code", "https://t.me/b?start=code"), "https://t.me/b?start=code"),
        (AccessToken("code"), "code"),
        (AccessToken(raw={"unknown": 1}), None),
    ],
)
def test_the_best_of_an_access_token_is_its_link_else_its_code(token: AccessToken, best: str | None) -> None:
    assert token.best == best


def test_a_webhook_shows_neither_its_secret_nor_what_came_with_it() -> None:
    webhook = Webhook("https://example.com/", Secret("hush"), extra={"other": "hush"})

    assert "hush" not in repr(webhook)
    with pytest.raises(TypeError, match="reveal"):
        pickle.dumps(webhook)
