"""Hypothesis strategies for replies: any JSON, and JSON close to the accepted shapes."""

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

KEYS = [
    *("plan_id", "plan_name", "duration", "cost", "currency", "recurring", "user_id", "started_at", "expires_at"),
    *("access_token", "token", "code", "link", "url", "access_link", "secret", "webhook_secret"),
    *("count", "total", "orders", "users", "sales", "revenue", "amount", "payment_method", "method", "name"),
]
TEXTS = [
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "9.99",
        "true",
        "1 month",
        "02.11.2021",
        "2026-01-02 03:04:05",
        "https://t.me/x?start=y",
    ),
    *("1E+999999999", "1_0", "\u0663", "\ud800", "NaN", "9" * 100, "EUR"),
]
NUMBERS = [
    0,
    1,
    -1,
    2**64,
    10**50,
    Decimal("9.99"),
    Decimal("1E+999999"),
    Decimal("1E-999999"),
    float("nan"),
    float("inf"),
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(TEXTS),
    st.text(st.characters(), max_size=20),
)
keys = st.sampled_from(KEYS) | st.text(max_size=5)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6)


json_values: st.SearchStrategy[Any] = st.recursive(scalars, _containers, max_leaves=12)
json_rows: st.SearchStrategy[Any] = st.lists(st.dictionaries(keys, scalars, max_size=6) | json_values, max_size=4)
