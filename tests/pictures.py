"""Draw the pictures of docs/: `python tests/pictures.py`, with Chromium. Look at them before you commit them."""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from attrs import evolve
from chromium import Page, chromium
from report_samples import LOST, NOW, REFUSED, days_ago, fill_inbox, fill_ledger
from rich.console import Console
from rich.text import Text

from tgmembership_async.cli.report import command as report
from tgmembership_async.cli.root import command
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.values.models import AccessToken

PICTURES: Final = Path(__file__).parents[1] / "docs" / "pictures"
LOOKS: Final = {
    "light": ("light", 1000, 1500, False),
    "dark": ("dark", 1000, 1500, False),
    "phone": ("dark", 390, 844, True),
}
DAYS: Final = 34
GRANTS: Final = "[...document.querySelectorAll('h2')].find(h => h.textContent == 'Grants over time').scrollIntoView()"


async def hold(ledger: Path) -> None:
    """Fill a ledger with what waits for its owner: lost answers, refusals, a link that was not delivered."""
    async with SqliteLedger(ledger, clock=lambda: NOW) as rows:
        for number, status in enumerate(["unknown", "granted", "refused", "unknown", "granted", "delivered"]):
            ref = f"stripe:pi_3Nf{number}kQ"
            await rows.claim(GrantRequest(ref, 1 + number % 2, 4_200_001 + number, f"chat {77 + number}"))
            settled = {
                "unknown": evolve(LOST, evidence="ReplyLost: connection reset"),
                "refused": REFUSED,
            }
            link = AccessToken(link="https://t.me/+example", raw=None)
            await rows.settle(ref, settled.get(status, Settlement(GrantStatus.GRANTED, token=link)))
            if status == "delivered":
                await rows.mark_delivered(ref)
        await rows.decide("stripe:pi_3Nf0kQ", "retry", None, "not in the chat, and no link in the bot's log")
        await rows.claim(GrantRequest("stripe:pi_3Nf0kQ", 1, 4_200_001, "chat 77"))
        await rows.settle("stripe:pi_3Nf0kQ", settled["unknown"])


def draw_desk(folder: Path, browser: Page) -> None:
    """Draw the desk: its first page, a grant in the dark, and a decision on a phone."""
    ledger = folder / "desk.db"
    anyio.run(hold, ledger)
    command_line = [sys.executable, "-m", "tgmembership_async.cli", "desk", "--ledger", str(ledger)]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as desk:
        assert desk.stdout is not None
        browser.open(desk.stdout.readline().strip())
        base = browser.evaluate("location.href").rpartition("/")[0]
        for name, page, look in (
            ("light", "held", {"width": 1000, "height": 420}),
            ("dark", "grant?ref=stripe:pi_3Nf0kQ", {"scheme": "dark", "width": 1000, "height": 860}),
            ("phone", "decide?ref=stripe:pi_3Nf0kQ&verb=granted", {"width": 390, "height": 844, "phone": True}),
        ):
            browser.look(**look)
            browser.open(f"{base}/{page}")
            browser.screenshot(PICTURES / f"desk-{name}.png")
        desk.terminate()


def printed(*arguments: str) -> str:
    """Return what a command prints on a terminal with colours."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        command.main(list(arguments), prog_name="tgmembership", standalone_mode=False)
    return out.getvalue()


def draw_terminal(path: Path, *commands: tuple[str, ...]) -> None:
    """Draw a terminal with these commands and their output, without external fonts."""
    screen = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
    for arguments in commands:
        screen.print(Text.assemble(("$ ", "bold green"), f"tgmembership {' '.join(arguments)}"))
        screen.print(Text.from_ansi(printed(*arguments, "--format", "table")))
    drawn = screen.export_svg(title="tgmembership", unique_id="terminal")
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Draw all pictures."""
    service = FakeService(seed=3, clock=lambda: NOW)
    service.populate(240)
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serve(service) as server:
        html = Path(folder, "report.html")
        os.chdir(folder)  # the commands for held grants then name the ledger as a reader would
        os.environ |= {**server.env(), "NO_PROXY": "*", "COLUMNS": "92", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
        report.utc_now = lambda: NOW
        anyio.run(partial(fill_ledger, Path("grants.db"), days_ago(DAYS), refused=0.02))
        anyio.run(partial(fill_inbox, Path("inbox.db"), days_ago(DAYS)))
        draw_terminal(PICTURES / "terminal.svg", ("plans",), ("report",))
        printed("report", "--ledger", "grants.db", "--inbox", "inbox.db", "--html", str(html))
        with chromium(Path(folder, "profile")) as browser:
            for name, (scheme, width, height, phone) in LOOKS.items():
                browser.look(scheme=scheme, width=width, height=height, phone=phone)
                browser.open(html.as_uri())
                browser.evaluate(GRANTS if phone else "scrollTo(0, 0)")
                browser.screenshot(PICTURES / f"report-{name}.png")
            draw_desk(Path(folder), browser)


if __name__ == "__main__":
    main()
