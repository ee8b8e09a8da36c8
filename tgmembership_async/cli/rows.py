"""Rows of the service's models, as the commands write them."""

from collections.abc import Mapping
from typing import Any, cast

import attrs

from tgmembership_async.values.duration import Duration
from tgmembership_async.values.money import Money


def columns_of(model: type[Any]) -> tuple[str, ...]:
    """Return the columns of a model's rows; money takes two, the amount and `currency`."""
    names: list[str] = []
    for field in attrs.fields(model):
        names += [field.name, "currency"] if _is_money(field.type) else [field.name]
    return tuple(names)


def _is_money(annotation: object) -> bool:
    return annotation in (Money, Money | None)


def row_of(value: Any) -> dict[str, Any]:
    """Return a model as a row of exact values."""
    row: dict[str, Any] = {}
    for field in attrs.fields(value.__class__):
        one = getattr(value, field.name)
        if _is_money(field.type):
            row |= {field.name: one and one.amount, "currency": one and one.currency}
        else:
            row[field.name] = _plain(one)
    return row


def _plain(value: object) -> object:
    if isinstance(value, Duration):
        return value.text
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return value
