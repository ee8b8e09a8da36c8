"""What the commands print that change something, on a narrow and on a wide terminal, compared to approved snapshots.

No line is wider than the terminal, so that the terminal breaks no word. A progress bar is left out: it was overwritten.
"""

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from approved import approve, on_a_terminal, steady
from command_line import ENVIRONMENT
from rich.cells import cell_len
from rich.console import Console

from tgmembership_async.cli.demo.audit import Comparison
from tgmembership_async.cli.demo.resolution import Resolution
from tgmembership_async.cli.demo.view import announce, conclude, show, show_resolution
from tgmembership_async.testing import FakeProject, FakeService, Fault, serve

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
PROJECT: Final = "6f1c1f6e-9d4b-4c53-9a57-2b8b0d3c7a10"
MEMBERS: Final = "ref,member_id,note\nr1,1001,chat 1\nr2,1002,\nr3,1003,\nr4,1004,paid twice\n"
BAR: Final = re.compile(r"(?s)\A.*\x1b\[\?25h")
"""All up to the end of the last progress bar, which shows the cursor again."""
COMMANDS: Final = {
    "grant": ["grant", "pi_1", "--plan-id", "1", "--member-id", "42"],
    "grant_refused": ["grant", "pi_2", "--plan-id", "1", "--member-id", "1002"],
    "provision_dry_run": ["provision", "members.csv", "--plan-id", "1", "--dry-run"],
    "provision": ["provision", "members.csv", "--plan-id", "1", "--concurrency", "1"],
    "provision_again": ["provision", "members.csv", "--plan-id", "1", "--result", "result.csv"],
    "grants_list": ["grants", "list"],
    "grants_owed": ["grants", "owed"],
    "grants_undelivered": ["grants", "undelivered"],
    "grants_show": ["grants", "show", "r4"],
    "reconcile": ["grants", "reconcile"],
    "resolve": ["grants", "resolve", "--status", "unknown", "granted", "--reason", "they are in the chat", "--yes"],
    "resolve_one": ["grants", "resolve", "r2", "abandon", "--reason", "refunded"],
    "grants_show_decided": ["grants", "show", "r4"],
    "mark_delivered": ["grants", "mark-delivered", "r1", "r3", "r9"],
    "mark_delivered_from": ["grants", "mark-delivered", "--from", "result.csv"],
    "purge": ["grants", "purge", "--delivered-before", "2020-01-01"],
    "ledger_init": ["ledger", "init", "new.db"],
    "ledger_migrate": ["ledger", "migrate", "grants.db"],
    "ledger_missing": ["ledger", "migrate", "--ledger", "none.db"],
    "ledger_copy": ["ledger", "copy", "grants.db", "new.db"],
    "ledger_backup": ["ledger", "backup", "backup.db"],
    "accept_restore": ["ledger", "accept-restore"],
    "webhook_set": ["webhook", "set", "https://shop.example/tgmembership", "--secret-file", "webhook.secret"],
    "webhook_set_again": ["webhook", "set", "https://shop.example/tgmembership"],
    "webhook_set_forced": ["webhook", "set", "https://shop.example/tgmembership", "--force"],
    "webhook_delete": ["webhook", "delete"],
    "webhook_listen": ["webhook", "listen"],
    "bots_add": ["bots", "add", "shop", "8047883872", "--key-file", "bot.key", "--ledger", "grants.db"],
    "bots_list": ["bots", "list", "--format", "csv"],
    "bots_remove": ["bots", "remove", "shop"],
    "access": ["access", "42"],
    "members": ["--project", PROJECT, "members"],
    "ban": ["--project", PROJECT, "ban", "42"],
    "unban": ["--project", PROJECT, "unban", "42"],
    "extend": ["--project", PROJECT, "extend", "42", "--until", "2027-01-01"],
    "plans_of_a_project": ["--project", PROJECT, "plans"],
    "no_server": ["worker"],
}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, and needs a pseudo-terminal")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Return the environment of commands that run in `tmp_path`, with a service and a project of their own."""
    service = FakeService(seed=1, clock=lambda: NOW, silent=[1002])
    monkeypatch.setattr(service.outbox, "probed", lambda _: 200)
    service._clock = lambda: datetime.now(UTC)
    service.inject(Fault("closed", when="after", skip=4, count=1, method="addMember"))
    project = FakeProject(project_id=PROJECT, seed=1, clock=lambda: NOW, users=[42])
    (tmp_path / "members.csv").write_text(MEMBERS)
    (tmp_path / "bot.key").write_text("a" * 40)
    with ExitStack() as servers:
        bot, of_project = (servers.enter_context(serve(one)) for one in (service, project))
        yield {
            **{name: value for name, value in ENVIRONMENT.items() if not name.startswith("TGMEMBERSHIP_")},
            **bot.env(),
            **of_project.env(),
            "TGMEMBERSHIP_LEDGER": "grants.db",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "NO_COLOR": "1",
            "NO_PROXY": "*",
        }


def without_what_varies(shown: str, folder: Path) -> str:
    text = steady(BAR.sub("", shown)).replace(str(folder), "FOLDER")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("columns", [60, 100])
def test_commands_that_change_something(columns: int, environment: dict[str, str], tmp_path: Path) -> None:
    too_wide: list[str] = []
    for name, words in COMMANDS.items():
        terminal = {**environment, "COLUMNS": str(columns)}
        code, shown = on_a_terminal(*words, environment=terminal, folder=tmp_path)
        text = without_what_varies(shown, tmp_path)
        # the length of a folder's path varies, and with it the ends of lines
        approved = text if "FOLDER" not in text else " ".join(text.split()) + "\n"
        approve(f"writing/{name}.{columns}", f"{approved}exit code {code}\n")
        too_wide += [line for line in text.splitlines() if cell_len(line) > columns and len(line.split()) > 1]
    assert too_wide == []


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_the_summary_of_the_demo(columns: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=columns, highlight=False)
    found = Comparison(830, 10, 2, 158, 71, granted_twice=0, granted_unrecorded=0, granted_missing=0)
    resolved = Resolution(3, 71, 84, 990, Counter({"this user has not talked to the bot, or has blocked it": 10}), 0)
    announce(console, "http://127.0.0.1:8000", 1_000, 0.03, 4)
    show(
        console,
        found,
        [["closed before the effect"], [], ["cut after the effect", "latency before the effect"]],
        kills=4,
    )
    show_resolution(console, resolved)
    conclude(console, found, total=1_000, seconds=12.3)
    approve(f"writing/demo.{columns}", out.getvalue())
    assert [line for line in out.getvalue().splitlines() if cell_len(line) > columns] == []
