"""Fault rules: which requests they strike, and what may not be asked for."""

from typing import Any

import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.testing.fake.faults import Fault, FaultBook


def book(*faults: Fault, seed: int = 0) -> FaultBook:
    made = FaultBook(seed)
    made.add(faults)
    return made


def struck(faults: FaultBook, requests: int, method: str = "addMember") -> list[int]:
    return [number for number in range(requests) if faults.draw(method)]


def test_a_rule_without_limits_strikes_everything() -> None:
    assert struck(book(Fault("closed")), 3) == [0, 1, 2]


def test_a_rule_strikes_only_its_method_in_any_case() -> None:
    faults = book(Fault("closed", method="AddMember"))
    assert struck(faults, 2, "getPlans") == []
    assert struck(faults, 2, "addmember") == [0, 1]


def test_a_rule_spares_the_first_and_stops_after_its_count() -> None:
    assert struck(book(Fault("closed", skip=2, count=3)), 10) == [2, 3, 4]


def test_requests_for_other_methods_do_not_use_up_what_a_rule_spares() -> None:
    faults = book(Fault("closed", method="addMember", skip=1))
    assert struck(faults, 5, "getPlans") == []
    assert struck(faults, 3) == [1, 2]


def test_probability_is_drawn_from_the_seed() -> None:
    rule = Fault("closed", probability=0.3, seed=7)
    first = struck(book(rule), 1000)
    assert 250 < len(first) < 350
    assert struck(book(rule, seed=1), 1000) == first
    assert struck(book(Fault("closed", probability=0.3, seed=8)), 1000) != first


def test_rules_without_a_seed_differ_from_each_other_and_repeat_with_the_service() -> None:
    rule = Fault("latency", seconds=1, probability=0.5)
    both = [len(book_.draw("getPlans")) for book_ in [book(rule, rule)] for _ in range(50)]
    assert set(both) == {0, 1, 2}
    assert both == [len(book_.draw("getPlans")) for book_ in [book(rule, rule)] for _ in range(50)]


def test_latencies_add_up_and_the_first_of_the_others_decides() -> None:
    slow, slower = Fault("latency", seconds=1), Fault("latency", seconds=2)
    closed, reset = Fault("closed"), Fault("reset", count=1)
    assert book(slow, closed, slower, reset).draw("getPlans") == (slow, closed, slower)


def test_a_rule_that_did_not_decide_keeps_its_count() -> None:
    first, second = Fault("closed", count=1), Fault("reset", count=1)
    faults = book(first, second)
    assert [faults.draw("getPlans") for _ in range(3)] == [(first,), (second,), ()]


def test_a_cleared_book_strikes_nothing() -> None:
    faults = book(Fault("closed"))
    faults.clear()
    assert faults.rules == ()
    assert faults.draw("getPlans") == ()


@pytest.mark.parametrize(
    ("kind", "when", "status"),
    [
        ("throttled", "before", 429),
        ("error", "before", 500),
        ("html", "before", 502),
        ("damaged", "after", 0),
        ("cut", "after", 0),
        ("closed", "before", 0),
        ("reset", "before", 0),
    ],
)
def test_each_kind_has_its_usual_time_and_status(kind: Any, when: str, status: int) -> None:
    fault = Fault(kind)
    assert (fault.when, fault.status) == (when, status)


@pytest.mark.parametrize(
    ("fault", "label"),
    [
        (Fault("throttled"), "throttled 429"),
        (Fault("throttled", status=503, retry_after=1), "throttled 503, told a wait"),
        (Fault("error", status=503), "error 503"),
        (Fault("html", status=503, retry_after=1, when="after"), "html 503 after the effect, told a wait"),
        (Fault("error", when="after"), "error 500 after the effect"),
        (Fault("html", status=403, when="after"), "html 403 after the effect"),
        (Fault("reset"), "reset before the effect"),
        (Fault("latency", seconds=1), "latency before the effect"),
    ],
)
def test_a_label_says_what_and_when(fault: Fault, label: str) -> None:
    assert fault.label == label


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"kind": "nonsense"}, "the kinds are closed, cut"),
        ({"kind": "closed", "when": "during"}, "'before' or 'after'"),
        ({"kind": "closed", "probability": 1.1}, "from 0 to 1"),
        ({"kind": "closed", "count": 0}, "at least 1"),
        ({"kind": "closed", "skip": -1}, "at least 0"),
        ({"kind": "closed", "seconds": 1}, "belong to latency"),
        ({"kind": "latency"}, "more than 0"),
        ({"kind": "closed", "status": 500}, "a status"),
        ({"kind": "error", "status": 200}, "a status from 400 to 599"),
        ({"kind": "error", "retry_after": 1}, "a wait belongs to"),
        ({"kind": "throttled", "status": 500}, "429, 421, 425 or 503"),
        ({"kind": "throttled", "status": 500}, "the status is 429"),
        ({"kind": "throttled", "when": "after"}, "does not come after the effect"),
        ({"kind": "error", "status": 429, "when": "after"}, "does not come after the effect"),
        ({"kind": "error", "status": 404, "when": "after"}, "refuses"),
        ({"kind": "error", "status": 503, "when": "after"}, "does not come after the effect"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Fault(**wrong)
