"""A FrozenDict is a mapping that nobody changes and that comes out of pickle."""

import copy
import pickle

import pytest

from tgmembership_async.values.frozen import EMPTY, FrozenDict, freeze


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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_comes_out_of_pickle(protocol: int) -> None:
    fields = FrozenDict({"a": [1]})

    assert pickle.loads(pickle.dumps(fields, protocol)) == fields
    assert copy.deepcopy(fields) == fields
