"""The comparison of ledger and audit log: each kind of difference has its own count."""

import pytest

from tgmembership_async.cli.demo.audit import Recorded, compare, recorded_of
from tgmembership_async.grants import GrantStatus

ONE = (1, 42)
OTHER = (1, 43)


@pytest.mark.parametrize(
    ("status", "recorded"),
    [
        ("granted", Recorded.GRANTED),
        ("delivered", Recorded.GRANTED),
        ("refused", Recorded.REFUSED),
        ("abandoned", Recorded.REFUSED),
        ("planned", Recorded.NOT_DONE),
        ("sending", Recorded.UNKNOWN),
        ("unknown", Recorded.UNKNOWN),
    ],
)
def test_each_status_records_an_outcome(status: str, recorded: Recorded) -> None:
    assert recorded_of(GrantStatus(status)) is recorded


def test_a_ledger_that_matches_the_audit_log() -> None:
    found = compare(
        [(ONE, Recorded.GRANTED), (OTHER, Recorded.REFUSED), ((1, 44), Recorded.UNKNOWN), ((1, 45), Recorded.UNKNOWN)],
        {ONE: 1, (1, 44): 1},
    )
    assert found.matches
    assert (found.granted, found.refused, found.not_done, found.unknown, found.unknown_granted) == (1, 1, 0, 2, 1)
    assert found.rows == 4


def test_a_grant_beyond_one_for_each_row_is_granted_twice() -> None:
    found = compare([(ONE, Recorded.GRANTED), (OTHER, Recorded.UNKNOWN)], {ONE: 2, OTHER: 3})
    assert (found.granted_twice, found.unknown_granted, found.matches) == (3, 1, False)


def test_a_member_who_is_in_the_file_twice_may_be_granted_twice() -> None:
    assert compare([(ONE, Recorded.GRANTED), (ONE, Recorded.GRANTED)], {ONE: 2}).matches


@pytest.mark.parametrize("recorded", [Recorded.REFUSED, Recorded.NOT_DONE])
def test_a_grant_of_a_row_recorded_as_not_granted_is_counted(recorded: Recorded) -> None:
    found = compare([(ONE, recorded)], {ONE: 1})
    assert (found.granted_unrecorded, found.granted_twice, found.matches) == (1, 0, False)


def test_a_row_recorded_as_granted_without_a_grant_is_counted() -> None:
    found = compare([(ONE, Recorded.GRANTED)], {})
    assert (found.granted_missing, found.matches) == (1, False)


def test_a_member_without_a_row_is_lost() -> None:
    found = compare([(ONE, Recorded.GRANTED)], {ONE: 1}, lost=1)
    assert (found.lost, found.matches) == (1, False)


def test_a_grant_without_a_row_counts_as_granted_twice() -> None:
    assert compare([], {ONE: 1}).granted_twice == 1
