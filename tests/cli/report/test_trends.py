"""Sales, grants and subscriptions over time: what counts as what, on which day, under which name."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal

import pytest
from report_samples import NOW, arrival, order

from tgmembership_async.cli.report import trends
from tgmembership_async.cli.report.events import Events
from tgmembership_async.cli.report.figures import PlanNames, Section
from tgmembership_async.grants import DayCount, GrantStatus
from tgmembership_async.values.models import PlanPerformance, Subscriber
from tgmembership_async.webhooks import Arrival
from tgmembership_async.webhooks.events import read_event

NAMES = PlanNames([PlanPerformance(1, "Monthly"), PlanPerformance(2, "Yearly")])
DAY = timedelta(days=1)
TODAY = "2026-11-20"


def tallied(arrivals: Iterable[Arrival], names: PlanNames = NAMES) -> Events:
    with Events(names) as events:
        for one in arrivals:
            events.add(read_event(one.delivery, one.received_at))
    return events


def titled(sections: Iterable[Section]) -> dict[str, Section]:
    return {section.title: section for section in sections}


def table(section: Section) -> dict[str, dict[str, object]]:
    names = [series.name for series in section.series]
    return {label: dict(zip(names, values, strict=True)) for label, values in section.rows}


class TestSales:
    """Events of an inbox."""

    def test_an_order_of_the_same_user_and_plan_is_a_renewal(self) -> None:
        told = [order(1, 7, 1, NOW - DAY), order(2, 7, 1, NOW), order(3, 7, 2, NOW), order(4, 8, 1, NOW)]
        found = table(titled(trends.sales(tallied(told), None))["Sales over time"])
        assert found == {"2026-11-19": {"new": 1, "renewals": 0}, TODAY: {"new": 2, "renewals": 1}}

    def test_orders_count_by_plan_payment_method_and_currency(self) -> None:
        told = [
            order(1, 7, 1, NOW, payment_method="Stripe"),
            order(2, 8, 3, NOW, payment_method=None),
            order(3, 9, 1, NOW, amount="0.01"),
        ]
        found = titled(trends.sales(tallied(told), "year"))
        assert table(found["Sales by plan"]) == {"2026": {"Monthly": 2, "Weekend pass": 1}}
        assert table(found["Sales by payment method"]) == {"2026": {"Stripe": 1, "not given": 2}}
        assert table(found["Revenue over time, EUR"]) == {"2026": {"EUR": Decimal("10.00")}}
        assert table(found["Revenue over time, XTR"]) == {"2026": {"XTR": Decimal(250)}}

    def test_a_payment_request_is_an_order_of_nobody(self) -> None:
        told = arrival("payment-request.completed", NOW, payment_request_id="p", amount="5", currency="EUR")
        found = titled(trends.sales(tallied([told]), None))
        assert table(found["Sales over time"]) == {TODAY: {"user not given": 1}}
        assert table(found["Revenue over time, EUR"]) == {TODAY: {"EUR": Decimal(5)}}

    def test_what_an_event_does_not_tell_is_named_so(self) -> None:
        told = [arrival("order_completed", NOW, order_id=1), arrival("membership_renewed", NOW, user_id=7)]
        found = titled(trends.sales(tallied(told), None))
        assert table(found["Sales over time"]) == {TODAY: {"user not given": 1}}
        assert table(found["Sales by plan"]) == {TODAY: {"plan not given": 1}}
        assert table(found["Other events"]) == {TODAY: {"membership_renewed": 1}}

    def test_terminations_count_on_the_day_of_the_end(self) -> None:
        told = arrival("membership_terminated", NOW, user_id=7, plan_id=2, terminated_at="2026-11-18T00:00:00Z")
        found = titled(trends.sales(tallied([told]), None))
        assert table(found["Terminations over time"]) == {"2026-11-18": {"Yearly": 1}}
        assert found["Sales over time"].text == "The inbox has no orders."

    def test_a_day_that_has_not_come_is_that_of_the_arrival(self) -> None:
        told = [order(1, 7, 1, NOW, paid_at="9999-12-31T23:59:59Z"), order(2, 8, 1, NOW, paid_at=None)]
        assert table(titled(trends.sales(tallied(told), None))["Sales over time"]) == {TODAY: {"new": 2}}


class TestGrants:
    """Counts of a ledger."""

    def test_statuses_and_plans(self) -> None:
        rows = [
            DayCount(date(2026, 10, 31), 1, GrantStatus.DELIVERED, 5),
            DayCount(date(2026, 11, 1), 2, GrantStatus.GRANTED, 2),
            DayCount(date(2026, 11, 2), 9, GrantStatus.UNKNOWN, 1),
        ]
        found = titled(trends.grants(rows, NAMES, "month"))
        assert table(found["Grants over time"]) == {
            "2026-10": {"delivered": 5, "granted": 0, "unknown": 0},
            "2026-11": {"delivered": 0, "granted": 2, "unknown": 1},
        }
        assert table(found["Grants by plan"]) == {
            "2026-10": {"Monthly": 5, "Yearly": 0},
            "2026-11": {"Monthly": 0, "Yearly": 2},
        }

    def test_small_plans_are_summed_up(self) -> None:
        rows = [DayCount(date(2026, 11, 20), plan, GrantStatus.GRANTED, plan) for plan in range(1, 9)]
        found = titled(trends.grants(rows, PlanNames(), None))["Grants by plan"]
        assert table(found) == {TODAY: {**{f"Plan {plan}": plan for plan in range(4, 9)}, "other": 6}}
        assert len({series.hue for series in found.series}) == 6, "each has a colour of its own"

    @pytest.mark.parametrize(
        ("days", "unit", "first", "count"),
        [(0, "day", TODAY, 1), (60, "week", "2026-09-21", 9), (3 * 365, "month", "2023-11", 37)],
    )
    def test_the_unit_is_chosen_by_the_time_they_span(self, days: int, unit: str, first: str, count: int) -> None:
        last = NOW.date()
        rows = [DayCount(day, 1, GrantStatus.GRANTED, 1) for day in {last - days * DAY, last}]
        found, _ = trends.grants(rows, NAMES, None)
        assert f"by the {unit} of" in found.text
        assert (found.labels[0], len(found.labels)) == (first, count)

    def test_an_empty_ledger_says_so(self) -> None:
        [found] = trends.grants([], NAMES, None)
        assert found.text == "The ledger has no grants."


class TestSubscriptions:
    """Subscribers of the service."""

    @pytest.mark.parametrize(
        ("left", "expiry"),
        [
            (timedelta(0), "Expired"),
            (timedelta(microseconds=1), "Within 7 days"),
            (7 * DAY, "Within 7 days"),
            (30 * DAY, "Within 30 days"),
            (31 * DAY, "Later"),
            (None, "No date"),
        ],
    )
    def test_each_is_counted_by_its_end(self, left: timedelta | None, expiry: str) -> None:
        one = Subscriber(7, 1, NOW - DAY, None if left is None else NOW + left)
        found = titled(trends.subscriptions([one], NOW, NAMES, None))
        assert list(found["Subscriptions"].rows) == [("Subscriptions", (1,)), (expiry, (1,))]
        assert table(found["Expiry by plan"]) == {"Monthly": {expiry.lower(): 1}}
        assert table(found["Subscriptions by beginning"]) == {"2026-11-19": {"Monthly": 1}}

    def test_only_ends_near_to_now_are_shown_over_time(self) -> None:
        ends = Counter(NOW + days * DAY for days in (-31, -30, 0, 90, 91))
        found = titled(trends.subscriptions([Subscriber(7, 2, None, end) for end in ends], NOW, NAMES, "day"))
        shown = {day for day, values in table(found["Subscriptions by end"]).items() if values["Yearly"]}
        assert shown == {"2026-10-21", TODAY, "2027-02-18"}
        assert "Subscriptions by beginning" not in found

    def test_without_subscribers_there_is_only_the_total(self) -> None:
        assert [section.title for section in trends.subscriptions([], NOW, NAMES, None)] == ["Subscriptions"]


def test_plans_of_one_name_are_told_apart() -> None:
    names = PlanNames([PlanPerformance(1, "Club"), PlanPerformance(2, "Club"), PlanPerformance(3, None)])
    assert [names.of(plan) for plan in (1, 2, 3, 4)] == ["Club (1)", "Club (2)", "Plan 3", "Plan 4"]
    assert names.of(4, "Old club") == "Old club"
    assert names.of(None, "Club") == "Club"


def test_money_of_no_currency_has_a_name() -> None:
    found = titled(trends.sales(tallied([order(1, 7, 1, NOW, amount=3, currency=None)]), None))
    assert table(found["Revenue over time"]) == {TODAY: {"amount": Decimal(3)}}
