"""Draw the pictures of docs/: `python tests/pictures.py`, with Chromium. Look at them before you commit them."""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

import anyio
from chromium import Page, chromium
from rich.console import Console
from rich.text import Text

from tgmembership_async.cli.root import command
from tgmembership_async.errors import Forbidden, OutcomeUnknown, ReplyLost
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.values.models import AccessToken

PICTURES: Final = Path(__file__).parents[1] / "docs" / "pictures"
NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
LOOKS: Final = {
    "light": ("light", 1000, 1500, False),
    "dark": ("dark", 1000, 1500, False),
    "phone": ("dark", 390, 844, True),
}
DAYS: Final = 35


async def fill(ledger: Path) -> None:
    """Fill a ledger with five weeks of grants, with busy days and failures."""
    random, now = Random(4), NOW
    async with SqliteLedger(ledger, clock=lambda: now) as rows:
        for day in range(DAYS):
            now = NOW - timedelta(days=DAYS - 1 - day)
            for number in range(random.randrange(2, 9) + 12 * (day % 9 == 2)):
                ref = f"pi_{day}_{number}"
                await rows.claim(GrantRequest(ref, 1, day * 100 + number + 1))
                if random.random() < 0.1:
                    await rows.settle(
                        ref, Settlement(GrantStatus.REFUSED, error=Forbidden("blocked the bot", code=403))
                    )
                    continue
                await rows.settle(ref, Settlement(GrantStatus.GRANTED, token=AccessToken(f"t{day}x{number}")))
                if random.random() < 0.8:
                    await rows.mark_delivered(ref)


async def hold(ledger: Path) -> None:
    """Fill a ledger with what waits for its owner: lost answers, refusals, a link that was not delivered."""
    lost = OutcomeUnknown("the reply was lost: the member may or may not have been granted", cause=ReplyLost("reset"))
    async with SqliteLedger(ledger, clock=lambda: NOW) as rows:
        for number, status in enumerate(["unknown", "granted", "refused", "unknown", "granted", "delivered"]):
            ref = f"stripe:pi_3Nf{number}kQ"
            await rows.claim(GrantRequest(ref, 1 + number % 2, 4_200_001 + number, f"chat {77 + number}"))
            settled = {
                "unknown": Settlement(GrantStatus.UNKNOWN, error=lost, evidence="ReplyLost: connection reset"),
                "refused": Settlement(GrantStatus.REFUSED, error=Forbidden("the user blocked the bot", code=403)),
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
        ledger, html = Path(folder, "grants.db"), Path(folder, "report.html")
        os.environ |= {**server.env(), "NO_PROXY": "*", "COLUMNS": "92", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
        anyio.run(fill, ledger)
        draw_terminal(PICTURES / "terminal.svg", ("plans",), ("report",))
        printed("report", "--ledger", str(ledger), "--html", str(html))
        with chromium(Path(folder, "profile")) as browser:
            for name, (scheme, width, height, phone) in LOOKS.items():
                browser.look(scheme=scheme, width=width, height=height, phone=phone)
                browser.open(html.as_uri())
                browser.evaluate("scrollTo(0, document.documentElement.scrollHeight)" if phone else "scrollTo(0, 0)")
                browser.screenshot(PICTURES / f"report-{name}.png")
            draw_desk(Path(folder), browser)


if __name__ == "__main__":
    main()
