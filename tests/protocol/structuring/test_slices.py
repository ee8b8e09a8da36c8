"""Converting a long array in slices gives the same values and errors as converting it at once."""

import itertools
from typing import Any

import pytest

from tgmembership_async.protocol.structuring.results import ShapeError, in_slices, structure, subscribers
from tgmembership_async.values.models import Subscriber


def test_slices_of_rows_are_those_of_the_whole() -> None:
    pauses = itertools.count()
    rows: list[Any] = [{"user_id": number, "plan_id": "x" if number % 999 == 0 else 1} for number in range(3_500)]

    def pause() -> object:
        return next(pauses)

    assert in_slices(subscribers, rows, pause) == subscribers(rows)
    assert next(pauses) == 4
    assert in_slices(lambda some: structure(some, tuple[Subscriber, ...]), rows, pause) == tuple(subscribers(rows))
    assert in_slices(len, rows[:10], pause) == 10
    with pytest.raises(ShapeError, match=r"^\$\[3500\]: expected an object"):
        in_slices(subscribers, [*rows, 1], pause)
