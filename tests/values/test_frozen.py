"""A FrozenDict is a read-only mapping that can be pickled."""

import copy
import itertools
import pickle

import attrs
import pytest

from tgmembership_async.values.frozen import EMPTY, FrozenDict, build, freeze, freeze_all


def test_it_is_equal_to_any_mapping_with_equal_items() -> None:
    assert FrozenDict({"a": 1}) == {"a": 1}
    assert FrozenDict({"a": 1}) != {"a": 2}
    assert FrozenDict() == EMPTY == {}


def test_it_reads_like_a_dict() -> None:
    fields = FrozenDict({"a": 1, "b": 2})

    assert (fields["a"], list(fields), len(fields), repr(fields)) == (1, ["a", "b"], 2, "{'a': 1, 'b': 2}")


def test_it_cannot_be_changed() -> None:
    fields = FrozenDict({"a": 1})

    with pytest.raises(TypeError):
        fields["a"] = 2  # type: ignore[index]
    with pytest.raises(AttributeError):
        fields.other = 1  # type: ignore[attr-defined]


def test_it_does_not_follow_changes_of_its_source() -> None:
    source = {"a": 1}
    fields = freeze(source)
    source["a"] = 2

    assert fields == {"a": 1}
    assert freeze(fields) is fields


def test_an_empty_one_is_always_the_same() -> None:
    assert freeze({}) is EMPTY


def test_many_are_built_at_once_of_a_column_per_field() -> None:
    @attrs.frozen
    class Point:
        x: int
        y: int

    assert build(Point, 2, {"x": [1, 2], "y": itertools.repeat(0)}) == [Point(1, 0), Point(2, 0)]
    assert build(Point, 0, {"x": [], "y": []}) == []
    assert freeze_all([{"a": 1}, {}]) == [{"a": 1}, {}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_comes_out_of_pickle(protocol: int) -> None:
    fields = FrozenDict({"a": [1]})

    assert pickle.loads(pickle.dumps(fields, protocol)) == fields
    assert copy.deepcopy(fields) == fields
