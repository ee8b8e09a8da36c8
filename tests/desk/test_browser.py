"""The desk in Chromium, served by the command line: with the mouse, the keyboard, on a phone and without JavaScript."""

import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from chromium import CHROMIUM, Page, chromium
from command_line import started
from desk_server import HOSTILE, LINK, bury, fill, hold

from tgmembership_async.grants import GrantStatus, SqliteLedger
from tgmembership_async.webhooks import SqliteInbox

T = TypeVar("T")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Do not log."""


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
REASON = "seen in the chat"
FITS = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    browser.look()
    browser.complaints.clear()
    browser.requests.clear()
    return browser


@pytest.fixture
def ledger(quick_path: Path) -> Path:
    path = quick_path / "grants.db"
    on(path, fill)
    return path


@pytest.fixture
def url(ledger: Path) -> Iterator[str]:
    with started("desk", "--ledger", str(ledger), "--inbox", str(filled_inbox(ledger))) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def filled_inbox(ledger: Path) -> Path:
    async def work() -> None:
        async with SqliteInbox(ledger.with_name("inbox.db")) as inbox:
            await bury(inbox, "order_completed", HOSTILE)

    anyio.run(work)
    return ledger.with_name("inbox.db")


def on(path: Path, work: Callable[[SqliteLedger], Coroutine[Any, Any, T]]) -> T:
    """Run the work of a bot on the ledger, which owns it beside the desk."""

    async def run() -> T:
        async with SqliteLedger(path) as ledger:
            return await work(ledger)

    return anyio.run(run)


def decided(path: Path, ref: str) -> tuple[GrantStatus, list[str]]:
    """Return the status of a row, and the reasons of the decisions about it."""

    async def look(ledger: SqliteLedger) -> tuple[GrantStatus, list[str]]:
        grant = await ledger.get(ref)
        assert grant is not None
        return grant.status, [made.reason for made in await ledger.decisions(ref)]

    return on(path, look)


def heading(page: Page) -> str:
    return str(page.evaluate("document.querySelector('h1').textContent"))


def decide_with_the_mouse(page: Page, verb: str) -> None:
    with page.loading():
        page.click("a[href*=pi_unknown]")
    with page.loading():
        page.click(f"a.{verb}")
    page.click("#reason")
    page.type(REASON)
    with page.loading():
        page.click("#confirm")


def wait_until(page: Page, expression: str) -> None:
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def test_a_held_grant_is_decided_with_the_mouse(page: Page, url: str, ledger: Path) -> None:
    page.open(url)
    assert heading(page) == "Held"
    decide_with_the_mouse(page, "granted")
    assert heading(page) == "pi_unknown"
    assert decided(ledger, "pi_unknown") == (GrantStatus.GRANTED, [REASON])
    assert page.complaints == []
    assert {address.partition("/?")[0].split("/")[2] for address in page.requests if address != "data:,"} == {
        url.split("/")[2]
    }, "nothing is loaded from elsewhere"


def test_a_held_grant_is_decided_with_the_keyboard_alone(page: Page, url: str, ledger: Path) -> None:
    page.open(url)

    def tab_to(what: str) -> None:
        for _ in range(30):
            page.press("Tab")
            if page.evaluate(f"document.activeElement.matches({what!r})"):
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "visible"
                return
        raise AssertionError(what)

    def follow(what: str) -> None:
        tab_to(what)
        with page.loading():
            page.press("Enter")

    follow("a[href*=pi_unknown]")
    follow("a.retry")
    tab_to("#reason")
    page.type(REASON)
    follow("#confirm")
    assert decided(ledger, "pi_unknown") == (GrantStatus.PLANNED, [REASON])
    assert page.complaints == []


def test_a_held_grant_is_decided_on_a_phone(page: Page, url: str, ledger: Path) -> None:
    on(ledger, lambda rows: hold(rows, "a" * 300, note="b" * 300))
    page.look(width=360, height=640, phone=True)
    page.open(url)
    assert page.evaluate(FITS)
    small = "[...document.querySelectorAll('button, .button, nav a')].filter(e => e.offsetHeight < 44).length"
    assert page.evaluate(small) == 0, "large enough for a finger"
    decide_with_the_mouse(page, "abandon")
    assert decided(ledger, "pi_unknown") == (GrantStatus.ABANDONED, [REASON])
    root = page.evaluate("document.querySelector('nav a').pathname").rpartition("/")[0]
    base = url.partition("/?")[0] + root
    for path in (
        "owed",
        "letters",
        "letter?id=2",
        "search?q=pi",
        f"grant?ref={'a' * 300}",
        "decide?ref=pi_planned&verb=abandon",
    ):
        page.open(f"{base}/{path}")
        assert page.evaluate(FITS), path
        assert page.evaluate(small) == 0, path


def test_a_held_grant_is_decided_without_javascript(page: Page, url: str, ledger: Path) -> None:
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    page.open(url)
    decide_with_the_mouse(page, "granted")
    assert decided(ledger, "pi_unknown") == (GrantStatus.GRANTED, [REASON])
    page.open(f"{page.evaluate('location.href').partition('/grant')[0]}/grant?ref=pi_granted")
    with page.loading():
        page.click("#reveal")
    assert page.evaluate("document.querySelector('#link').textContent") == LINK


def test_dark_and_light_differ_and_can_be_read(page: Page, url: str) -> None:
    grounds = set()
    for scheme in "light", "dark":
        page.look(scheme=scheme)
        page.open(url)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert min(contrasts(page)) >= 4.5, "as WCAG AA asks"
    assert len(grounds) == 2


def contrasts(page: Page) -> list[float]:
    """Return the contrast of each text with what is behind it."""
    return list(
        page.evaluate("""(() => {
        const light = rgb => {
            const [r, g, b] = rgb.match(/[\\d.]+/g).map(v => v / 255)
                .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const ground = e => {
            const color = getComputedStyle(e).backgroundColor;
            return color === 'rgba(0, 0, 0, 0)' && e.parentElement ? ground(e.parentElement) : color;
        };
        return [...document.querySelectorAll('h1, p, a, b, th, td, button, label, .status, time')].map(e => {
            const both = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
            return (both[0] + .05) / (both[1] + .05);
        });
    })()""")
    )


def test_what_the_bot_does_meanwhile_is_shown_without_reload(page: Page, url: str, ledger: Path) -> None:
    page.open(url)
    page.evaluate("document.querySelector('a[href*=pi_refused]').focus()")
    page.evaluate("window.same = true")
    on(ledger, lambda rows: hold(rows, "pi_new"))
    wait_until(page, "document.querySelector('a[href*=pi_new]') !== null")
    assert page.evaluate("document.querySelector('nav b').textContent") == "3"
    assert page.evaluate("document.activeElement.matches('a[href*=pi_refused]') && window.same"), "the focus stays"
    assert page.complaints == []


def test_a_row_that_was_decided_elsewhere_is_told_and_left(page: Page, url: str, ledger: Path) -> None:
    page.open(url)
    with page.loading():
        page.click("a[href*=pi_unknown]")
    with page.loading():
        page.click("a.retry")
    on(ledger, lambda rows: rows.decide("pi_unknown", "abandon", None, "refunded"))
    page.click("#reason")
    page.type(REASON)
    with page.loading():
        page.click("#confirm")
    assert heading(page) == "This grant has changed"
    assert decided(ledger, "pi_unknown") == (GrantStatus.ABANDONED, ["refunded"])


def test_a_foreign_page_sees_and_changes_nothing(page: Page, url: str, ledger: Path, tmp_path: Path) -> None:
    page.open(url)
    base = page.evaluate("location.href").rpartition("/")[0]
    page.open(f"{base}/decide?ref=pi_unknown&verb=abandon")
    fields = page.evaluate("[...document.querySelectorAll('[type=hidden]')].map(e => e.outerHTML).join('')")
    form = f'<form method="post" action="{base}/decide">{fields}<input name="reason" value="x"><button>Win</button>'
    (tmp_path / "evil.html").write_text(f"{form}</form><iframe src='{base}/held'></iframe>", encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever).start()
        page.open(f"http://127.0.0.1:{server.server_port}/evil.html")
        with page.loading():
            page.click("button")
        server.shutdown()
    assert "sent by another site" in page.evaluate("document.body.textContent")
    assert "pi_unknown" not in page.evaluate("document.body.textContent")
    assert decided(ledger, "pi_unknown") == (GrantStatus.UNKNOWN, [])


def test_hostile_texts_do_not_run(page: Page, url: str, ledger: Path) -> None:
    ref = HOSTILE.replace(" ", "_")
    on(ledger, lambda rows: hold(rows, ref, note=HOSTILE))
    page.open(url)
    base = page.evaluate("location.href").rpartition("/")[0]
    for path in "held", "letters", "letter?id=2":
        page.open(f"{base}/{path}")
        assert page.evaluate("document.querySelectorAll('main img, main script, main [onmouseover]').length") == 0
    page.open(f"{base}/held")
    page.open(page.evaluate("document.querySelector('tr:last-child a').href"))
    assert heading(page) == ref
    assert page.complaints == []
