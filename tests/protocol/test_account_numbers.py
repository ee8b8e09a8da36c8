"""The numbers of accounts: projects are above all bots, and a number names its owner."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.protocol.account_numbers import number_of_project, owner_of


@given(st.uuids())
def test_a_number_of_a_project_names_it_and_fits_into_a_column(project_id: UUID) -> None:
    number = number_of_project(str(project_id))
    assert 1 << 62 <= number < 1 << 63
    assert owner_of(number) == f"project {str(project_id)[:17]}…"


@pytest.mark.parametrize("bot_id", [1, 8047883872, (1 << 62) - 1])
def test_a_number_below_those_of_projects_is_the_id_of_a_bot(bot_id: int) -> None:
    assert owner_of(bot_id) == f"bot {bot_id}"
