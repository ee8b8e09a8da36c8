"""Several bots: profiles in a private file, their keys, which settings precede which, and what is never shown."""

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from canary import CANARY_KEY
from click.testing import CliRunner, Result
from command_line import COMMAND, ENVIRONMENT, Terminal
from forked import Forked
from in_process import run
from keyring.backend import KeyringBackend
from keyring.errors import NoKeyringError
from project.projects import PROJECT, row
from scripted_server import ScriptedServer, answering

from tgmembership_async.cli.bots import profiles
from tgmembership_async.cli.root import command
from tgmembership_async.testing import FakeService
from tgmembership_async.testing import serve as served
from tgmembership_async.testing.fake.server import FakeServer

VARIABLES: tuple[str, ...] = ("BOT", "BOT_ID", "API_KEY", "API_KEY_FILE", "BASE_URL", "GENERATION", "LEDGER", "INBOX")
VARIABLES += ("PROJECT_ID", "PROJECT_TOKEN", "PROJECT_TOKEN_FILE", "PROJECT_BASE_URL")
Serve = Callable[..., ScriptedServer]
PASSWORD = "postgresql://shop:sEcReT@db/shop"


class Memory(KeyringBackend):
    """A keyring that is always unlocked; `priority` is below those of the system."""

    priority = 0.01

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in VARIABLES:  # set, so that what a command sets is undone
        monkeypatch.setenv(f"TGMEMBERSHIP_{name}", "")
    monkeypatch.setenv("NO_PROXY", "*")
    return profiles.file()


@pytest.fixture
def in_keyring() -> Iterator[Memory]:
    before, memory = keyring.get_keyring(), Memory()
    keyring.set_keyring(memory)
    yield memory
    keyring.set_keyring(before)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with served(FakeService(api_key=CANARY_KEY)) as running:
        yield running


def add(server: FakeServer, *arguments: object, name: str = "shop") -> Result:
    told = server.env()
    bot = (told["TGMEMBERSHIP_BOT_ID"], "--base-url", server.url)
    done = run("bots", "add", name, *bot, *arguments, stdin=f"{CANARY_KEY}\n")
    assert done.exit_code == 0, done.stderr
    return done


def written(config: Path, text: str, mode: int = 0o600) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    config.chmod(mode)


def test_a_bot_is_added_used_listed_and_removed(server: FakeServer, config: Path, tmp_path: Path) -> None:
    shown = add(server, "--ledger", tmp_path / "grants.db").stderr
    assert run("--bot", "shop", "users").stdout == '{"total": 0, "breakdown": {}, "extra": {}}\n'
    (row,) = map(json.loads, run("bots", "list").stdout.splitlines())
    assert (row["name"], row["key"]) == ("shop", str(config.with_name("shop.key")))
    assert row["ledger"] == str(tmp_path / "grants.db")
    assert CANARY_KEY not in f"{shown}{row}{config.read_text()}"
    assert run("bots", "path").stdout == f"{config}\n"
    assert run("bots", "remove", "shop").exit_code == 0
    assert list(config.parent.glob("*")) == [config], "the key is gone"
    assert run("--bot", "shop", "users").exit_code == 2


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_only_the_user_may_read_the_profiles_and_the_key(server: FakeServer, config: Path) -> None:
    add(server)
    for path in (config, config.with_name("shop.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config.chmod(0o640)
    done = run("--bot", "shop", "users")
    assert done.exit_code == 2
    assert "chmod 600" in done.stderr


def test_a_key_in_the_keyring_is_in_no_file(server: FakeServer, config: Path, in_keyring: Memory) -> None:
    add(server, "--keyring")
    assert in_keyring.kept == {("tgmembership", "shop"): CANARY_KEY}
    assert not any(CANARY_KEY in path.read_text() for path in config.parent.glob("*"))
    assert run("--bot", "shop", "users").exit_code == 0
    run("bots", "remove", "shop")
    assert in_keyring.kept == {}


def test_a_keyring_that_does_not_answer_is_told(
    server: FakeServer, config: Path, in_keyring: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: str) -> str:
        msg = "no backend"
        raise NoKeyringError(msg)

    add(server, "--keyring")
    in_keyring.kept.clear()
    assert "the keyring has no key of shop" in run("--bot", "shop", "users").stderr
    monkeypatch.setattr(in_keyring, "get_password", locked)
    done = run("--bot", "shop", "users")
    assert (done.exit_code, "NoKeyringError: no backend" in done.stderr) == (2, True)
    done = run("--bot", "shop", "grants", "list", "--ledger", config)
    assert (done.exit_code, "is not a SQLite database" in done.stderr) == (2, True), "it needs no key"


def test_a_key_file_of_your_own_is_used_and_kept(server: FakeServer, tmp_path: Path) -> None:
    key = tmp_path / "own.key"
    key.write_text(CANARY_KEY)
    add(server, "--key-file", key)
    assert run("--bot", "shop", "users").exit_code == 0
    run("bots", "remove", "shop")
    assert key.read_text() == CANARY_KEY


def test_a_named_bot_precedes_the_environment_and_is_not_mixed_with_it(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server)
    for name, value in {"BOT_ID": "1", "API_KEY": "x", "BASE_URL": "https://x.example", "LEDGER": "x.db"}.items():
        monkeypatch.setenv(f"TGMEMBERSHIP_{name}", value)
    assert run("--bot", "shop", "users").exit_code == 0
    assert "Missing option '--ledger'" in run("--bot", "shop", "grants", "list").stderr


def test_a_variable_names_the_bot_unless_another_names_another_bot(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server)
    monkeypatch.setenv("TGMEMBERSHIP_BOT", "shop")
    assert run("users").exit_code == 0
    monkeypatch.setenv("TGMEMBERSHIP_BOT", "shop")
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "1")
    done = run("users")
    assert done.exit_code == 2
    assert "TGMEMBERSHIP_BOT is shop" in done.stderr
    assert run("bots", "list").exit_code == 0


def test_a_file_of_variables_precedes_the_variable_and_the_option_precedes_the_file(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server)
    other = tmp_path / "other.env"
    other.write_text(f"TGMEMBERSHIP_BOT_ID=1\nTGMEMBERSHIP_API_KEY=x\nTGMEMBERSHIP_BASE_URL={server.url}\n")
    monkeypatch.setenv("TGMEMBERSHIP_BOT", "shop")
    assert run("--env-file", other, "users").exit_code == 5, "the service does not know the bot of the file"
    monkeypatch.setenv("TGMEMBERSHIP_BOT", "")
    assert run("--bot", "shop", "--env-file", other, "users").exit_code == 0


def test_a_password_in_a_ledger_is_refused_as_an_argument_and_taken_from_the_private_file(config: Path) -> None:
    done = run("bots", "add", "shop", "1", "--ledger", PASSWORD, stdin="k\n")
    assert done.exit_code == 2
    assert "list of processes" in done.stderr
    written(config, f'[shop]\nbot_id = 1\nkey_file = "/k"\nledger = "{PASSWORD}"\n')
    shown = run("bots", "list").stdout
    assert "postgresql://shop@db/shop" in shown
    profiles.choose("shop", by_variable=False)
    assert os.environ["TGMEMBERSHIP_LEDGER"] == PASSWORD
    assert "sEcReT" not in f"{shown}{done.stderr}{profiles.profile('shop')!r}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[shop]\nbot_id = 'sEcReT'\n", "bot_id is unknown, or not of its type"),
        ("[shop]\nbot_id = 1\napi_key = 'sEcReT'\n", "api_key is unknown"),
        ("[shop]\nbot_id = 1\nproject_id = 'x'\nkeyring = true", "either bot_id or project_id"),
        ("[shop]\nbot_id = 1\n", "either key_file or keyring = true"),
        ("[shop]\nbot_id = 1\nkeyring = true\nledger = 'sEcReT.db'\n", "ledger must be an absolute path"),
        ("[shop]\nbot_id = 1\nkey_file = 'sEcReT'\n", "key_file must be an absolute path"),
        ("[shop]\nbot_id = sEcReT\n", "is not TOML: at line 2"),
        ("shop = 'sEcReT'\n", "a bot is a table"),
    ],
)
def test_a_file_that_is_wrong_is_told_where_and_never_quoted(config: Path, text: str, told: str) -> None:
    written(config, text)
    done = run("--bot", "shop", "users")
    assert done.exit_code == 2
    assert told in done.stderr
    assert "sEcReT" not in done.stderr


@pytest.mark.parametrize("keyring_or_file", [["--keyring"], []])
def test_a_project_is_a_profile_too(in_keyring: Memory, serve: Serve, keyring_or_file: list[str]) -> None:
    server = serve(answering(200, {"ok": True, "code": 200, "data": [row(1)], "total": 1}))
    done = run("bots", "add", "vip", PROJECT, "--base-url", server.url, *keyring_or_file, stdin=f"{CANARY_KEY}\n")
    assert done.exit_code == 0, done.stderr
    assert bool(in_keyring.kept) == bool(keyring_or_file)
    assert json.loads(run("--bot", "vip", "members").stdout)["membership_id"]
    assert f"authorization: bearer {CANARY_KEY}".encode().lower() in server.requests[0].lower()
    assert "plans cannot work on a project: choose another with --bot" in run("--bot", "vip", "plans").stderr
    assert "plans cannot work on a project: leave out --project" in run("--project", PROJECT, "plans").stderr
    assert "choose one of --bot and --project" in run("--bot", "vip", "--project", PROJECT, "members").stderr


@pytest.mark.parametrize("arguments", [["shop", "2"], ["a b", "2"], ["x", "0"]])
def test_what_cannot_be_added_changes_nothing(server: FakeServer, config: Path, arguments: list[str]) -> None:
    add(server)
    before = config.read_text()
    assert run("bots", "add", *arguments, stdin="k\n").exit_code == 2
    assert config.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x", "0"], "ID must be a positive int"),
        (["x", "abc"], "ID must be a UUID"),
        (["vip", PROJECT, "--generation", "v1"], "a project has no generation"),
        (["a b", "2"], "a bot's name has up to 64 letters"),
    ],
)
def test_what_is_wrong_is_told_before_the_key_is_read(config: Path, arguments: list[str], told: str) -> None:
    done = run("bots", "add", *arguments, stdin="sEcReT/x\n")
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert not config.exists()


def test_a_generation_in_the_profile_of_a_project_is_refused(config: Path) -> None:
    written(config, f'[vip]\nproject_id = "{PROJECT}"\nkeyring = true\ngeneration = "v1"\n')
    assert "[vip]: a project has no generation" in run("--bot", "vip", "members").stderr


def test_a_key_that_cannot_be_one_is_refused_and_not_shown(config: Path) -> None:
    done = run("bots", "add", "shop", "1", stdin="sEcReT/x\n")
    assert done.exit_code == 2
    assert "sEcReT" not in done.stderr
    assert not config.parent.exists() or not list(config.parent.iterdir())


def test_comments_and_other_bots_stay(server: FakeServer, config: Path) -> None:
    mine = "# mine\n[other]  # the old one\nbot_id = 1\nkeyring = true\n"
    written(config, mine)
    add(server)
    assert [json.loads(line)["name"] for line in run("bots", "list").stdout.splitlines()] == ["other", "shop"]
    run("bots", "remove", "shop")
    assert config.read_text().strip() == mine.strip()


def test_a_shell_completes_the_names_of_bots(server: FakeServer, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(server)
    add(server, name="second")
    monkeypatch.setenv("_TGMEMBERSHIP_COMPLETE", "bash_complete")
    for words, cword in (("tgmembership --bot s", "2"), ("tgmembership bots remove se", "3")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", cword)
        shown = CliRunner().invoke(command, [], prog_name="tgmembership").stdout.split()
        assert shown == (["plain,shop", "plain,second"] if cword == "2" else ["plain,second"])
    config.write_text("nonsense")
    assert CliRunner().invoke(command, [], prog_name="tgmembership").stdout.strip() == ""


def test_doctor_says_which_bot_it_checks(server: FakeServer) -> None:
    add(server)
    (check,) = (line for line in run("--bot", "shop", "doctor").stdout.splitlines() if '"bot"' in line)
    assert "shop, from the file of the bots; its key is in a file" in check


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_prompts_for_the_key_and_does_not_echo_it(config: Path) -> None:
    with (
        Terminal() as terminal,
        Forked(
            [*COMMAND, "bots", "add", "shop", "1"],
            stdin=terminal.theirs,
            stdout=subprocess.PIPE,
            stderr=terminal.theirs,
            env=ENVIRONMENT | {"XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"], "HOME": os.environ["HOME"]},
            start_new_session=True,
        ) as process,
    ):
        terminal.read_until("API key .*: ")
        terminal.write(CANARY_KEY)
        process.communicate(timeout=60)
        terminal.read_until(r"its\s+key\s+in\s")
        assert process.returncode == 0, terminal.shown
    assert CANARY_KEY not in terminal.shown
    assert config.with_name("shop.key").read_text() == f"{CANARY_KEY}\n"
