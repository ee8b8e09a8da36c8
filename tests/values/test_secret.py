"""A Secret and a Target are masked when printed, and cannot be pickled."""

import copy
import json
import pickle

import pytest

from tgmembership_async import Secret
from tgmembership_async.values.secret import Target


def test_a_secret_is_masked_wherever_it_is_printed() -> None:
    shown = f"{Secret('hush')} {Secret('hush')!r} {[Secret('hush')]}"

    assert "hush" not in shown
    assert Secret("hush").reveal() == "hush"


def test_secrets_compare_by_value_and_only_with_secrets() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


def test_a_secret_of_any_text_that_json_may_hold_compares() -> None:
    assert Secret("\ud800") == Secret("\ud800")
    assert Secret("\ud800") != Secret("é")


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret("x")


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy])
def test_a_secret_cannot_be_pickled(leave: object) -> None:
    assert callable(leave)
    with pytest.raises(TypeError, match="reveal"):
        leave(Secret("hush"))


def test_a_secret_cannot_be_encoded_as_json() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret("hush"))


def test_a_target_is_masked_but_for_its_bytes() -> None:
    target = Target(b"/bot1/hush/getPlans")

    assert "hush" not in f"{target} {target!r} {[target]} {target:>20}" + "%s" % target  # type: ignore[str-bytes-safe]  # noqa: UP031 - one more way
    assert bytes(target) == b"/bot1/hush/getPlans"
    with pytest.raises(TypeError, match="API key"):
        pickle.dumps(target)
