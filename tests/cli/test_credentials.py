"""Sources of the credentials: the environment, a file, and a prompt on the terminal."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from canary import CANARY_KEY
from command_line import COMMAND, ENVIRONMENT, Terminal
from forked import Forked
from in_process import run

from tgmembership_async.testing import FakeService, serve
from tgmembership_async.testing.fake.server import FakeServer

PROJECT = "6f1c1f6e-9d4b-4c53-9a57-2b8b0d3c7a10"
NAMES = ("TGMEMBERSHIP_BOT_ID", "TGMEMBERSHIP_API_KEY", "TGMEMBERSHIP_API_KEY_FILE", "TGMEMBERSHIP_BASE_URL")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what `--env-file` sets is undone too


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve(FakeService(api_key=CANARY_KEY)) as running:
        yield running


def test_a_file_of_variables_overrides_the_environment(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "1")
    (tmp_path / "key").write_text("another one")
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY_FILE", str(tmp_path / "key"))
    file = tmp_path / ".env"
    lines = [f"export {name}='{value}'  # mine" for name, value in server.env().items()]
    file.write_text("\ufeff# the bot\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    done = run("--env-file", file, "users")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == '{"total": 0, "breakdown": {}, "extra": {}}\n'


def test_a_file_names_the_ledger_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_LEDGER", "elsewhere.db")
    (tmp_path / ".env").write_text("TGMEMBERSHIP_LEDGER=missing.db\n")
    assert "missing.db" in run("--env-file", tmp_path / ".env", "grants", "list").stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"A=1\nthis is sEcReT\n", ":2: this is not KEY=VALUE"),
        (b"A=1\nB='sEcReT\n", ":2: this is not KEY=VALUE"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
    ],
)
def test_an_invalid_file_is_reported_by_its_line_and_never_quoted(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / ".env"
    file.write_bytes(content)
    done = run("--env-file", file, "users")
    assert done.exit_code == 2
    assert told in done.stderr
    assert "sEcReT" not in done.stderr


def test_a_missing_file_and_missing_credentials_are_wrong_use(tmp_path: Path) -> None:
    assert run("--env-file", tmp_path / "none", "users").exit_code == 2
    done = run("users")
    assert done.exit_code == 2
    assert "set TGMEMBERSHIP_BOT_ID" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["access", "abc"], "Invalid value for 'USER'"),
        (["access", "42", "--plan-id", "abc"], "--plan-id must be a number such as 1, not 'abc'"),
        (["access", "42", "--plan-id", "0"], "--plan-id must be a positive int"),
        (["plans", "--plan-id", "abc"], "Invalid value for '--plan-id'"),
        (["subscribers", "--user-id", "abc"], "Invalid value for '--user-id'"),
        (["--project", "abc", "members"], "--project must be a UUID"),
        (["--project", PROJECT, "access", "42", "--plan-id", "7"], "--plan-id must be a UUID"),
        (["--project", PROJECT, "remove", "abc"], "MEMBERSHIP_ID must be a UUID"),
        (["--project", PROJECT, "extend", "--everybody", "--until", "2090-01-01"], f"add --confirm {PROJECT}"),
        (["webhook", "set", "shop.example", "--force"], "url must be an https:// URL with a host"),
    ],
)
def test_a_wrong_id_is_told_before_missing_credentials(words: list[str], told: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "set " not in done.stderr


def test_rejected_credentials_have_an_exit_code_of_their_own(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**server.env(), "TGMEMBERSHIP_API_KEY": "nobody"}.items():
        monkeypatch.setenv(name, value)
    done = run("users")
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr == "Error: countUsers: 401 wrong bot id or API key; check the credentials: tgmembership doctor\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_prompts_for_missing_credentials_and_hides_the_key(server: FakeServer) -> None:
    told = server.env()
    there = {**ENVIRONMENT, **dict.fromkeys(NAMES, ""), "TGMEMBERSHIP_BASE_URL": server.url, "NO_PROXY": "*"}
    with (
        Terminal() as terminal,
        Forked(
            [*COMMAND, "users"],
            stdin=terminal.theirs,
            stdout=subprocess.PIPE,
            stderr=terminal.theirs,
            env=there,
            start_new_session=True,  # without a terminal of its own, so that it asks on this one
        ) as process,
    ):
        terminal.read_until("Bot id: ")
        terminal.write("abc")
        terminal.read_until("'abc' is no bot id")
        terminal.write(CANARY_KEY + "x")
        terminal.read_until("a text of that length is no bot id")
        terminal.shown = ""  # the terminal itself shows what is typed
        terminal.write(told["TGMEMBERSHIP_BOT_ID"])
        terminal.read_until("API key .*: ")
        terminal.write(told["TGMEMBERSHIP_API_KEY"])
        out, _ = process.communicate(timeout=60)
        terminal.read_until("\n$")
        assert process.returncode == 0, terminal.shown
    assert b'"total": 0' in out
    assert CANARY_KEY not in terminal.shown


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_instead_of_an_answer_is_an_interrupt(server: FakeServer) -> None:
    there = {**ENVIRONMENT, **dict.fromkeys(NAMES, ""), "TGMEMBERSHIP_BASE_URL": server.url}
    with (
        Terminal() as terminal,
        Forked(
            [*COMMAND, "users"], stdin=terminal.theirs, stderr=terminal.theirs, env=there, start_new_session=True
        ) as process,
    ):
        terminal.read_until("Bot id: ")
        terminal.write("\x04", end="")  # Ctrl-D; Ctrl-C is a signal only to who has the terminal for his own
        assert process.wait(60) == 130
        terminal.read_until("Interrupted")
        assert "Traceback" not in terminal.shown
