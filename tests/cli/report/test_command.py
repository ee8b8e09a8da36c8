"""`tgmembership report`: figures, the page in a real browser, and missing figures."""

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import anyio
import in_process
import pytest
from approved import approve
from chromium import CHROMIUM, chromium
from click.testing import Result
from own_schema import own_schema
from report_samples import LOST, PLANS, days_ago, fill_inbox, fill_ledger, order
from rich.console import Console

from tgmembership_async.cli.credentials import account
from tgmembership_async.cli.report import charts, sources
from tgmembership_async.cli.report import command as module
from tgmembership_async.cli.report.charts import chart, ticks
from tgmembership_async.cli.report.figures import Section, Series, broken_down, glance, performance
from tgmembership_async.cli.report.page import page
from tgmembership_async.errors import UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, PostgresLedger, Settlement, SqliteLedger
from tgmembership_async.settings import service_of
from tgmembership_async.testing import FakePlan, FakeService, Fault, serve
from tgmembership_async.testing.fake.values import SAMPLE_PLANS
from tgmembership_async.values.models import AccessToken, Count, PlanPerformance, Revenue
from tgmembership_async.values.money import Money
from tgmembership_async.webhooks import EntryStatus, PostgresInbox, SqliteInbox

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
def ledger(quick_path: Path) -> Path:
    """Create a ledger of ten days, with one more grant on each day."""
    path, now = quick_path / "grants.db", NOW

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


@pytest.fixture
def shop(service: FakeService, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Fill a ledger and an inbox with two weeks, and return the options that name them; it is noon on the last day."""
    del service
    ledger, inbox = quick_path / "grants.db", quick_path / "inbox.db"
    anyio.run(partial(fill_ledger, ledger, days_ago(13), most=3))
    anyio.run(partial(fill_inbox, inbox, days_ago(13), most=3, users=12))
    monkeypatch.setattr(module, "utc_now", lambda: NOW)
    return ["--ledger", ledger, "--inbox", inbox]


run = partial(in_process.run, "report")


def rows(done: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_section_without_rows_says_so_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(FakeService(clock=lambda: NOW)) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": ""}.items():
            monkeypatch.setenv(name, value)
        shown = run("--format", "table").stdout
    assert re.search(r"Payment methods\s+Number of orders per payment method\.\s+none\s", shown)


def test_a_page_has_no_other_format(service: FakeService, tmp_path: Path) -> None:
    done = run("--html", tmp_path / "report.html", "--format", "csv")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "choose one of --html and --format" in done.stderr
    assert service.count_requests() == 0


def test_every_figure_is_a_row_in_a_pipe(service: FakeService, ledger: Path) -> None:
    done = run("--ledger", ledger)
    assert (done.exit_code, done.stderr) == (0, "")
    told = {(row["section"], row["name"], row["series"]): row["value"] for row in rows(done)}
    assert told["At a glance", "Orders", "total"] == 30
    assert told["At a glance", "Revenue, EUR", "total"] == str(service.revenue()["EUR"])
    assert told["Grants over time", "2026-11-20", "granted"] == 9
    assert told["Grants over time", "2026-11-11", "delivered"] == 1
    assert sum(told[key] for key in told if key[0] == "Payment methods") == 30  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "columns", "form"),
    [("report.terminal", 100, "table"), ("report.60", 60, "table"), ("report.pipe", 100, "jsonl")],
)
def test_the_output_is_as_approved(
    name: str, columns: int, form: str, shop: list[object], monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run(*shop, "--format", form)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "s3cr3t" not in done.stdout
    approve(name, done.stdout.replace(str(quick_path), "FOLDER"))


def test_all_figures_over_time_have_the_unit_that_is_asked_for(shop: list[object]) -> None:
    told = [row for row in rows(run(*shop, "--by", "year")) if "over time" in str(row["section"])]
    assert {row["name"] for row in told} == {"2026"}
    assert {row["section"] for row in told} == {
        *("Sales over time", "Revenue over time, EUR", "Revenue over time, XTR"),
        *("Terminations over time", "Grants over time"),
    }
    years = sum(int(str(row["value"])) for row in told if row["section"] == "Grants over time")
    days = [row for row in rows(run(*shop, "--by", "day")) if row["section"] == "Grants over time"]
    assert years == sum(int(str(row["value"])) for row in days) > 14
    assert len({row["name"] for row in days}) == 14


def test_plans_are_called_by_their_names_at_the_service(shop: list[object]) -> None:
    told = {row["series"] for row in rows(run(*shop)) if row["section"] in ("Sales by plan", "Grants by plan")}
    names = {plan.plan_id: plan.name for plan in SAMPLE_PLANS}
    assert told == {names[plan] for plan in PLANS}


def test_a_bot_reports_its_own_rows_of_a_shared_ledger(service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "shared.db"

    async def fill() -> None:
        async with SqliteLedger(path, shared_by_bots=True) as ledger:
            await ledger.bind(service_of(account()), service.bot_id)
            for bot in (service.bot_id, 77):
                await ledger.claim(GrantRequest(f"{bot}:pi_1", 1, 42))
                await ledger.settle(f"{bot}:pi_1", LOST)

    anyio.run(fill)
    told = rows(run("--ledger", path))
    assert [row["value"] for row in told if row["section"] == "Grants over time"] == [1]
    commands = [str(row["command"]) for row in told if row["name"] == "pi_1"]
    assert len(commands) == 3
    assert all(f" {service.bot_id}:pi_1 " in line for line in commands), "the ref as the ledger has it"


def test_the_inbox_of_another_bot_is_refused(service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"

    async def create() -> None:
        async with SqliteInbox(path, bot_id=service.bot_id + 1):
            pass

    anyio.run(create)
    done = run("--inbox", path)
    assert done.exit_code == 2
    assert str(service.bot_id + 1) in done.stderr


def test_a_server_is_reported_like_files(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_schema() as url:
        monkeypatch.setenv("TGMEMBERSHIP_INBOX", url)
        done = run()
        assert (done.exit_code, "has no inbox" in done.stderr) == (2, True), "and none is created"

        async def fill() -> None:
            async with PostgresLedger(url) as ledger, PostgresInbox(url) as inbox:
                await ledger.claim(GrantRequest("pi_1", 1, 42))
                await ledger.settle("pi_1", LOST)
                await inbox.store(order(1, 42, 1, NOW), repeat_window=1)
                again = order(1, 42, 1, NOW + timedelta(seconds=1), paid_at=NOW.isoformat())
                assert (await inbox.store(again, repeat_window=60)).status is EntryStatus.REPEAT

        anyio.run(fill)
        monkeypatch.setenv("TGMEMBERSHIP_LEDGER", url)
        told = rows(run())
    assert [row["value"] for row in told if row["section"] == "Sales over time"] == [1], "a repeat is no order"
    assert [row["value"] for row in told if row["section"] == "Grants over time"] == [1]
    assert len([row for row in told if row["command"]]) == 4
    assert service.count_requests() > 0


def test_a_large_ledger_and_inbox_show_a_progress_bar(shop: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sources, "console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    assert run(*shop).exit_code == 0
    assert screen.getvalue() == "", "these are small"
    monkeypatch.setattr(sources, "_LARGE_LEDGER", 1)
    monkeypatch.setattr(sources, "_LARGE_INBOX", 1)
    assert run(*shop).exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert len(set(re.findall(r"\d+/\?", shown))) >= 2, shown


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
    assert "run pip install '.[report]' in the clone of the package" in done.stderr
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
        (Series("granted", (1, 2), "granted"), Series("refused", (0, 1), "refused")),
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
        assert list(orders.rows) == [("plan not given", (7,)), ("a", (2,)), ("Plan 2", (None,))]
        assert list(euros.rows) == [("a", (Decimal(10),))]
        assert (stars.title, list(stars.rows)) == ("Revenue by plan, XTR", [("Plan 2", (Decimal(250),))])

    def test_a_breakdown_is_shown_only_if_the_service_gives_one(self) -> None:
        assert list(broken_down("Orders", Count(3))) == []
        [found] = broken_down("Orders", Count(3, {"a": 1, "b": 2}))
        assert found.labels == ("b", "a")

    def test_a_missing_pygal_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pygal", None)
        with pytest.raises(UsageError, match=r"\[report\]"):
            page([], 1, NOW)


LABELS = """
[...document.querySelectorAll('.bars svg')].flatMap(svg => {
    const middle = element => { const box = element.getBoundingClientRect(); return box.top + box.height / 2; };
    const bars = [...svg.querySelectorAll('.bar rect')].map(middle);
    const labels = [...svg.querySelectorAll('.axis.y text')].map(middle);
    return labels.map(label => Math.min(...bars.map(bar => Math.abs(bar - label))));
})
"""
GAPS = """
[...document.querySelectorAll('.columns svg')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('.axis.x text')].map(text => text.getBoundingClientRect());
    return boxes.slice(1).map((box, number) => box.left - boxes[number].right);
})
"""
SMALL = "[...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width < 250).length"
CUT = """
[...document.querySelectorAll('svg text, code')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < 0 || box.right > innerWidth;
}).length
"""
LETTERS = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
WIDEST = (
    "Math.max(...[...document.querySelectorAll('.columns svg .bar rect')].map(r => r.getBoundingClientRect().width))"
)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("days", "step"), [(0, 1), (13, 1), (3 * 365, 30)], ids=["one day", "two weeks", "three years"]
)
def test_in_a_browser_the_page_can_be_read_and_makes_no_request(
    days: int, step: int, tmp_path: Path, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    html, ledger, inbox = tmp_path / "report.html", quick_path / "grants.db", quick_path / "inbox.db"
    anyio.run(partial(fill_ledger, ledger, days_ago(days, step), most=3))
    anyio.run(partial(fill_inbox, inbox, days_ago(days, step), most=3, users=12))
    monkeypatch.setattr(module, "utc_now", lambda: NOW)
    assert run("--html", html, "--ledger", ledger, "--inbox", inbox).exit_code == 0
    text = html.read_text(encoding="utf-8")
    assert "s3cr3t" not in text
    command_line = f"tgmembership grants resolve --ledger {ledger} --reason 'given up' stripe:pi_3Nf0kQ abandon"
    grounds = set()
    with chromium(tmp_path / "profile") as browser:
        for scheme, width, phone in ("light", 1200, False), ("dark", 1200, False), ("light", 360, True):
            browser.look(scheme=scheme, width=width, phone=phone)
            browser.open(html.as_uri())
            assert browser.evaluate("document.querySelectorAll('svg .bar rect').length") > 20
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
            assert browser.evaluate(SMALL) == browser.evaluate(CUT) == 0
            assert browser.evaluate(LETTERS) > 11, "readable"
            assert max(browser.evaluate(LABELS)) < 1.5, "each label stands beside the middle of its bar"
            assert min(browser.evaluate(GAPS)) > 2, "dates do not run into each other"
            assert browser.evaluate(WIDEST) < 80, "one day is not one block"
            lines = browser.evaluate("[...document.querySelectorAll('code')].map(code => code.textContent)")
            assert command_line in lines
            assert browser.evaluate("document.querySelectorAll('details[open]').length") == 1
            grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2, "light and dark"
        assert set(browser.requests) == {html.as_uri()}
        assert browser.complaints == []
        assert browser.evaluate("document.querySelectorAll('img, script').length") == 0
