"""`tgmembership report`: figures, the page in a real browser, and missing figures."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import anyio
import in_process
import pytest
from chromium import CHROMIUM, chromium
from click.testing import Result

from tgmembership_async.cli.report import charts
from tgmembership_async.cli.report.charts import chart, ticks
from tgmembership_async.cli.report.figures import Section, Series, broken_down, glance, over_time, performance
from tgmembership_async.cli.report.page import page
from tgmembership_async.errors import UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.testing import FakePlan, FakeService, Fault, serve
from tgmembership_async.testing.fake.values import SAMPLE_PLANS
from tgmembership_async.values.models import AccessToken, Count, PlanPerformance, Revenue
from tgmembership_async.values.money import Money

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NASTY = 'Клуб <img src="https://evil.example/x.png" onerror=alert(1)>\x1b[31m'


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    service = FakeService(plans=[*SAMPLE_PLANS, FakePlan(5, NASTY)], seed=2, clock=lambda: NOW)
    service.populate(30)
    with serve(service) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": ""}.items():
            monkeypatch.setenv(name, value)
        yield service


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Create a ledger of ten days, with one more grant on each day."""
    path, now = tmp_path / "grants.db", NOW

    async def fill() -> None:
        nonlocal now
        async with SqliteLedger(path, clock=lambda: now) as rows:
            for day in range(10):
                now = NOW + timedelta(days=day - 9)
                for number in range(day + 1):
                    await rows.claim(GrantRequest(f"pi_{day}_{number}", 1, 1))
                    token = AccessToken(f"t0kEn{day}{number}")
                    await rows.settle(f"pi_{day}_{number}", Settlement(GrantStatus.GRANTED, token=token))
                await rows.mark_delivered(f"pi_{day}_0")

    anyio.run(fill)
    return path


run = partial(in_process.run, "report")


def rows(done: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_figure_is_a_row_in_a_pipe(service: FakeService, ledger: Path) -> None:
    done = run("--ledger", ledger)
    assert (done.exit_code, done.stderr) == (0, "")
    told = {(row["section"], row["name"], row["series"]): row["value"] for row in rows(done)}
    assert told["At a glance", "Orders", "total"] == 30
    assert told["At a glance", "Revenue, EUR", "total"] == str(service.revenue()["EUR"])
    assert told["Grants over time", "2026-11-20", "granted"] == 9
    assert told["Grants over time", "2026-11-11", "delivered"] == 1
    assert sum(told[key] for key in told if key[0] == "Payment methods") == 30  # type: ignore[misc]


def test_a_method_that_fails_is_a_section_without_figures_and_exit_code_1(service: FakeService, tmp_path: Path) -> None:
    service.inject(Fault("error", method="plansPerformance", status=404))
    done = run("--html", tmp_path / "report.html")
    assert done.exit_code == 1
    assert "Missing figures: Plans." in done.stderr
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No figures:" in html
    assert "Payment methods" in html
    shown = run("--format", "table").stdout
    assert "no figures: 404" in shown
    assert {row["problem"] is None for row in rows(run())} == {True, False}


def test_rejected_credentials_end_the_report(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", "nobody")
    assert run().exit_code == 5
    assert service.count_requests() == 1


def test_a_missing_extra_is_an_error_before_any_call(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pygal", None)
    done = run("--html", tmp_path / "report.html")
    assert done.exit_code == 2
    assert "pip install 'tgmembership-async[report]'" in done.stderr
    assert service.count_requests() == 0
    assert run().exit_code == 0, "the terminal does without"


@pytest.mark.usefixtures("service")
def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = run("--html", tmp_path / "nowhere" / "report.html")
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


class TestPage:
    """The content of the page, without a browser."""

    BARS = Section("Orders <by> plan", "How often.", "bars", (NASTY, "b"), (Series("orders", (3, None)),))
    COLUMNS = Section(
        "Grants",
        "By day.",
        "columns",
        ("2026-11-19", "2026-11-20"),
        (Series("granted", (1, 2)), Series("refused", (0, 1))),
    )

    def test_it_is_well_formed_escaped_and_has_no_external_reference(self) -> None:
        html = page([self.BARS, self.COLUMNS, Section("None", "Nothing yet.", "columns")], 8047883872, NOW)
        body = re.sub(r"<meta[^>]*>|<link[^>]*>|<!doctype html>", "", html)
        tree = ET.fromstring(body)
        assert "<img" not in html
        assert "\x1b" not in html
        assert "<script" not in html
        assert not [node for node in tree.iter() if {"src", "href"} & node.attrib.keys()]
        assert re.findall(r'href="(.*?)"', html) == ["data:,"], "the icon, so that nobody is asked for one"
        assert "url(" not in html.partition("</style>")[0]

    def test_each_chart_has_title_description_and_a_table(self) -> None:
        html = page([self.BARS, self.COLUMNS], 1, NOW)
        for number in (1, 2):
            assert f'aria-labelledby="chart-{number}-title chart-{number}-desc"' in html
            assert f'id="chart-{number}-title"' in html
            assert f'id="chart-{number}-desc"' in html
        assert html.count("<table>") == html.count("<caption>") == html.count("<svg") == 2
        assert "<td>not given</td>" in html

    def test_each_bar_is_named_and_each_series_has_its_class(self) -> None:
        svg = chart(self.COLUMNS, 1)
        assert "<title>2026-11-20: 2</title>" in svg
        assert '<g class="refused">' in svg
        assert "pygal" not in svg.replace('class="pygal-chart"', "")

    def test_the_chart_shows_the_first_and_the_table_all(self) -> None:
        many = performance([PlanPerformance(number, f"p{number}", number) for number in range(1, 31)])
        html = page(list(many), 1, NOW)
        assert "The chart shows the first 20, the table all 30." in html
        assert html.count('class="bar"') == charts.MAX_BARS

    @pytest.mark.parametrize(
        ("most", "found"),
        [
            (0, [0, 1]),
            (1, [0, 1]),
            (3, [0, 1, 2, 3]),
            (4, [0, 2, 4]),
            (17, [0, 10, 20]),
            (64, [0, 25, 50, 75]),
            (16000, [0, 10000, 20000]),
        ],
    )
    def test_ticks_are_round_and_few(self, most: float, found: list[float]) -> None:
        assert ticks(most, 3) == found


class TestFigures:
    """Conversion of replies and grants to sections."""

    def test_the_totals_leave_out_missing_figures(self) -> None:
        revenue = Revenue((Money(Decimal("9.99"), "EUR"), Money(Decimal(5), "")))
        found = glance(Count(3), None, revenue)
        assert list(found.rows) == [("Orders", (3,)), ("Revenue, EUR", (Decimal("9.99"),)), ("Revenue", (Decimal(5),))]
        assert list(glance(None, None, None).rows) == []

    def test_revenue_is_never_summed_over_currencies(self) -> None:
        plans = [
            PlanPerformance(1, "a", 2, Money(Decimal(10), "EUR")),
            PlanPerformance(2, None, None, Money(Decimal(250), "XTR")),
            PlanPerformance(None, None, 7),
        ]
        orders, euros, stars = performance(plans)
        assert list(orders.rows) == [("A plan without a name", (7,)), ("a", (2,)), ("Plan 2", (None,))]
        assert list(euros.rows) == [("a", (Decimal(10),))]
        assert (stars.title, list(stars.rows)) == ("Revenue by plan, XTR", [("Plan 2", (Decimal(250),))])

    def test_a_breakdown_is_shown_only_if_the_service_gives_one(self) -> None:
        assert list(broken_down("Orders", Count(3))) == []
        [found] = broken_down("Orders", Count(3, {"a": 1, "b": 2}))
        assert found.labels == ("b", "a")

    @pytest.mark.parametrize(
        ("days", "unit", "first", "count"),
        [(1, "day", "2026-11-19", 2), (60, "week", "2026-09-21", 9), (500, "month", "2025-07-01", 17)],
    )
    def test_grants_are_grouped_by_day_week_or_month(self, days: int, unit: str, first: str, count: int) -> None:
        last = NOW.date()
        found = over_time({(last - timedelta(days=days), GrantStatus.GRANTED): 2, (last, GrantStatus.UNKNOWN): 1})
        assert f"by the {unit} of" in found.text
        assert (found.labels[0], len(found.labels)) == (first, count)
        assert [(series.name, sum(value or 0 for value in series.values)) for series in found.series] == [
            ("granted", 2),
            ("unknown", 1),
        ]

    def test_an_empty_ledger_says_so(self) -> None:
        days: dict[tuple[date, GrantStatus], int] = {}
        assert over_time(days).text == "The ledger has no grants."

    def test_a_missing_pygal_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pygal", None)
        with pytest.raises(UsageError, match=r"\[report\]"):
            page([], 1, NOW)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.usefixtures("service")
def test_in_a_browser_it_has_no_error_and_makes_no_request(ledger: Path, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    assert run("--html", html, "--ledger", ledger).exit_code == 0
    grounds = set()
    with chromium(tmp_path / "profile") as browser:
        for scheme, width, phone in ("light", 1200, False), ("dark", 1200, False), ("light", 360, True):
            browser.look(scheme=scheme, width=width, phone=phone)
            browser.open(html.as_uri())
            assert browser.evaluate("document.querySelectorAll('svg .bar rect').length") > 20
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
            small = (
                "[...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width < 250).length"
            )
            assert browser.evaluate(small) == 0
            grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            cut = "[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().left < 0).length"
            assert browser.evaluate(cut) == 0
            letters = (
                "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
            )
            assert browser.evaluate(letters) > 11, "readable"
        assert len(grounds) == 2, "light and dark"
        assert set(browser.requests) == {html.as_uri()}
        assert browser.complaints == []
        assert browser.evaluate("document.querySelectorAll('img, script').length") == 0
