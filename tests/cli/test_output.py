"""The small parts of what commands print."""

import pytest

from tgmembership_async.cli.output import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 grants"), (1, "1 grant"), (1_000, "1,000 grants")])
def test_one_of_a_thing_is_in_the_singular(number: int, text: str) -> None:
    assert counted(number, "grant") == text
