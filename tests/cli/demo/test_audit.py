"""Belief against fact: each way to be right or wrong about a member is counted as what it is."""

import pytest

from tgmembership_async.cli.demo.audit import Belief, belief_of, compare
from tgmembership_async.grants import GrantStatus

ONE = (1, 42)
OTHER = (1, 43)


@pytest.mark.parametrize(
    ("status", "belief"),
    [
        ("granted", Belief.GRANTED),
        ("delivered", Belief.GRANTED),
        ("refused", Belief.REFUSED),
        ("abandoned", Belief.REFUSED),
        ("planned", Belief.NOT_DONE),
        ("sending", Belief.UNKNOWN),
        ("unknown", Belief.UNKNOWN),
    ],
)
def test_each_status_says_something_of_the_member(status: str, belief: Belief) -> None:
    assert belief_of(GrantStatus(status)) is belief


def test_books_that_agree() -> None:
    found = compare(
        [(ONE, Belief.GRANTED), (OTHER, Belief.REFUSED), ((1, 44), Belief.UNKNOWN), ((1, 45), Belief.UNKNOWN)],
        {ONE: 1, (1, 44): 1},
    )
    assert found.holds
    assert (found.granted, found.refused, found.not_done, found.unknown, found.really_granted) == (1, 1, 0, 2, 1)
    assert found.rows == 4


def test_a_grant_beyond_one_for_each_row_is_granted_twice() -> None:
    found = compare([(ONE, Belief.GRANTED), (OTHER, Belief.UNKNOWN)], {ONE: 2, OTHER: 3})
    assert (found.granted_twice, found.really_granted, found.holds) == (3, 1, False)


def test_a_member_who_is_in_the_file_twice_may_be_granted_twice() -> None:
    assert compare([(ONE, Belief.GRANTED), (ONE, Belief.GRANTED)], {ONE: 2}).holds


@pytest.mark.parametrize("belief", [Belief.REFUSED, Belief.NOT_DONE])
def test_a_grant_that_nobody_believes_in_is_told(belief: Belief) -> None:
    found = compare([(ONE, belief)], {ONE: 1})
    assert (found.granted_unawares, found.granted_twice, found.holds) == (1, 0, False)


def test_a_grant_that_never_was_is_told() -> None:
    found = compare([(ONE, Belief.GRANTED)], {})
    assert (found.granted_in_vain, found.holds) == (1, False)


def test_a_member_without_a_row_is_lost() -> None:
    found = compare([(ONE, Belief.GRANTED)], {ONE: 1}, lost=1)
    assert (found.lost, found.holds) == (1, False)


def test_a_grant_to_a_stranger_is_one_too_many() -> None:
    assert compare([], {ONE: 1}).granted_twice == 1
