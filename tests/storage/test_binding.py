"""Whose rows a store keeps: which binding holds, and what is refused."""

import pytest

from tgmembership_async import UsageError
from tgmembership_async.storage.binding import Binding, agreed, check_copy

SERVICE = "https://api.tgmembership.com"
SEVEN, ALL = Binding(SERVICE, 7), Binding(SERVICE, None)


def ask(found: Binding | None, wanted: Binding, *, is_empty: bool = False, bot_id: int = 7) -> Binding:
    return agreed(found, wanted, bot_id=bot_id, is_empty=is_empty, where="grants.db", advice="take another")


@pytest.mark.parametrize(
    ("found", "wanted", "is_empty", "holds"),
    [
        (None, SEVEN, True, SEVEN),
        (None, SEVEN, False, SEVEN),
        (None, ALL, True, ALL),
        (SEVEN, SEVEN, False, SEVEN),
        (ALL, SEVEN, False, ALL),
        (ALL, ALL, False, ALL),
    ],
)
def test_the_binding_that_is_there_holds(
    *, found: Binding | None, wanted: Binding, is_empty: bool, holds: Binding
) -> None:
    assert ask(found, wanted, is_empty=is_empty) == holds


@pytest.mark.parametrize(
    ("found", "wanted", "told"),
    [
        (None, ALL, "grants.db has rows whose refs name no bot"),
        (Binding(SERVICE, 8), SEVEN, f"belongs to bot 8 at {SERVICE}, and this is bot 7 at {SERVICE}, .*take another"),
        (Binding(SERVICE, 8), ALL, f"belongs to bot 8 at {SERVICE}, and this is bot 7"),
        (Binding("http://127.0.0.1:80", 7), SEVEN, f"bot 7 at http://127.0.0.1:80, and this is bot 7 at {SERVICE}"),
        (
            Binding("http://127.0.0.1:80", None),
            ALL,
            "belongs to several bots at http://127.0.0.1:80, and this is bot 7",
        ),
        (SEVEN, ALL, "belongs to bot 7 .* alone"),
        (Binding("", 8), Binding("", 7), "belongs to bot 8, and this is bot 7,"),
    ],
)
def test_another_one_is_refused(found: Binding | None, wanted: Binding, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        ask(found, wanted)


@pytest.mark.parametrize(
    ("found", "source", "is_empty", "fits"),
    [
        (None, None, True, True),
        (None, SEVEN, False, True),
        (SEVEN, None, False, True),
        (SEVEN, SEVEN, False, True),
        (None, ALL, True, True),
        (None, ALL, False, False),
        (ALL, None, True, False),
        (ALL, SEVEN, True, False),
        (SEVEN, ALL, False, False),
        (Binding(SERVICE, 8), SEVEN, True, False),
    ],
)
def test_rows_are_copied_to_where_they_belong(
    *, found: Binding | None, source: Binding | None, is_empty: bool, fits: bool
) -> None:
    if fits:
        check_copy(found, source, is_empty=is_empty)
        return
    with pytest.raises(UsageError, match=r"the target belongs to .* and the source to .*: copy into a new ledger"):
        check_copy(found, source, is_empty=is_empty)
