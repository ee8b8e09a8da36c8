"""Troubles: what may be asked for, which replies they destroy, and how rules are drawn."""

from typing import Any

import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.testing import Trouble
from tgmembership_async.testing.rules import Rulebook


@pytest.mark.parametrize(
    ("kind", "when"),
    [("latency", "request"), ("reset", "request"), ("black_hole", "connect"), ("stall", "connect"), ("cut", "reply")],
)
def test_each_kind_has_its_usual_place(kind: Any, when: str) -> None:
    trouble = Trouble(kind, seconds=1 if kind == "latency" else 0)
    assert trouble.when == when
    assert trouble.label == f"{kind} at {when}"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"kind": "nonsense"}, "the kinds are black_hole, cut"),
        ({"kind": "stall", "when": "reply"}, "when is one of connect"),
        ({"kind": "reset", "when": "never"}, "when is one of request, connect, sent, reply"),
        ({"kind": "reset", "when": "connect", "method": "addMember"}, "method must be None"),
        ({"kind": "reset", "probability": 1.1}, "from 0 to 1"),
        ({"kind": "reset", "count": 0}, "at least 1"),
        ({"kind": "reset", "skip": -1}, "at least 0"),
        ({"kind": "reset", "seconds": 1}, "and 0 for other kinds"),
        ({"kind": "dribble"}, "above 0"),
        ({"kind": "reset", "size": 1}, "size must be at least 0 for cut"),
        ({"kind": "cut", "size": -1}, "size must be at least 0 for cut"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Trouble(**wrong)


@pytest.mark.parametrize(
    ("trouble", "destroys"),
    [
        (Trouble("reset", when="connect"), False),
        (Trouble("reset"), False),
        (Trouble("reset", when="sent"), True),
        (Trouble("fin", when="reply"), True),
        (Trouble("black_hole", when="sent"), True),
        (Trouble("half_close"), True),
        (Trouble("latency", when="reply", seconds=1), False),
        (Trouble("dribble", seconds=1), False),
        (Trouble("cut", size=4), True),
        (Trouble("cut", size=5), False),
    ],
)
def test_a_reply_is_destroyed_only_where_there_is_one(trouble: Trouble, *, destroys: bool) -> None:
    assert trouble.destroys(b"reply") is destroys


def test_rules_draw_from_the_seed_of_their_book_or_from_their_own() -> None:
    def struck(seed: int, rule: Trouble) -> list[bool]:
        book = Rulebook[Trouble](seed)
        book.add([rule])
        return [bool(book.draw("getPlans")) for _ in range(200)]

    rule, own = Trouble("reset", probability=0.3), Trouble("reset", probability=0.3, seed=1)
    assert struck(1, rule) == struck(1, rule) != struck(2, rule)
    assert struck(1, own) == struck(2, own)
    assert 30 < sum(struck(1, rule)) < 90
