"""How `tgmembership mcp` starts and ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import COMMAND, ENVIRONMENT
from forked import Forked

from tgmembership_async.cli.mcp.answers import clean, marked, model_of
from tgmembership_async.cli.root import command
from tgmembership_async.values.models import Subscriber

BOT = {"TGMEMBERSHIP_BOT_ID": "1", "TGMEMBERSHIP_API_KEY": "k" * 40, "TGMEMBERSHIP_LEDGER": ""}
HELLO: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def test_decisions_need_a_ledger() -> None:
    done = CliRunner(env=BOT).invoke(command, ["mcp", "--allow-decisions"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--allow-decisions needs a ledger" in done.stderr


def test_a_ledger_that_is_missing_is_not_created(tmp_path: Path) -> None:
    done = CliRunner(env=BOT).invoke(command, ["mcp", "--ledger", str(tmp_path / "grants.db")])
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['mcp'] = None\nfrom tgmembership_async.cli import main\nmain(['mcp'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT | BOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "mcp needs an extra: run pip install '.[mcp]' in the clone of the package" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_though_its_stdin_is_open(ending: signal.Signals) -> None:
    with Forked(
        [*COMMAND, "mcp"], env=ENVIRONMENT | BOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(HELLO) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "tgmembership"
        process.send_signal(ending)
        assert process.wait(60) == -ending


def test_fields_that_the_package_does_not_know_may_be_names_and_are_hidden() -> None:
    row = Subscriber(42, 1, None, None, extra={"user_name": "Ada Lovelace"})
    assert model_of(row, links=False)["hidden_fields"] == 1
    assert "Ada" not in str(model_of(row, links=False))
    assert "Ada" in str(model_of(row, links=True))


@pytest.mark.parametrize("link", ["https://t.me/x?start=a", "t.me/x", "tg://resolve?domain=x", "HTTP://x.example/a"])
def test_links_in_text_are_hidden_unless_wanted(link: str) -> None:
    assert link not in clean(f"open {link} now", links=False)
    assert clean(f"open {link} now", links=True) == f"open {link} now"


def test_what_gives_access_is_hidden_wherever_it_is_repeated() -> None:
    told = marked({"a": ["used: t0ken!"], "t0ken": 1}, links=False, secrets=["t0ken"])
    assert "t0ken" not in str(told)
