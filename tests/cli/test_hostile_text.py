"""Hostile file names, refs, notes and texts of the service are escaped for terminals, shells and spreadsheets."""

import csv
import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from click.testing import Result
from in_process import run

from tgmembership_async.cli.ledger_option import Server, check_there
from tgmembership_async.cli.output import hint, writing
from tgmembership_async.cli.provision.summary import sentences
from tgmembership_async.errors import OutcomeUnknown, UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.grants.provisioning import Summary
from tgmembership_async.testing import FakePlan, FakeService, serve

HOSTILE = "a\x1b[2J\x9b31m\r\nAll is well.\x07\u202e"
SHELL = "$(touch x) `y`; 'z'"
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0"]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    plans = [FakePlan(number, name, "0", "-5") for number, name in enumerate([*FORMULAS, "fine"], 1)]
    with serve(FakeService(plans=plans)) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": ""}.items():
            monkeypatch.setenv(name, value)
        yield server.service


def check_harmless(done: Result) -> None:
    told = done.stdout + done.stderr
    assert r"a\x1b[2J\x9b31m\r\nAll is well.\x07\u202e" in told.replace("\n", "")
    assert {c for c in told if not c.isprintable()} <= {"\n"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--env-file", HOSTILE, "plans"),
        (HOSTILE,),
        ("plans", f"--{HOSTILE}"),
        ("provision", HOSTILE),
        ("completion", HOSTILE),
        ("call", "getPlans", HOSTILE),
        ("grants", "list", "--ledger", HOSTILE),
        ("grants", "list", "--since", HOSTILE, "--ledger", __file__),
        ("grants", HOSTILE),
        ("ledger", "copy", HOSTILE, "there.db"),
        ("ledger", "init", "--ledger", f"ftp://{HOSTILE}", "--queue"),
        ("webhook", "verify", "--headers", HOSTILE, __file__),
        ("webhook", "sign", "--secret-file", HOSTILE, __file__),
    ],
    ids=lambda arguments: " ".join(arguments).replace(HOSTILE, "..."),
)
def test_an_argument_is_quoted_without_its_control_characters(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert {c for c in done.stderr if not c.isprintable()} <= {"\n"}
    assert "\nAll is well." not in done.stderr


def test_a_hostile_file_name_is_escaped(tmp_path: Path) -> None:
    members = tmp_path / HOSTILE
    members.write_text("ref,member_id\nx,nobody\n")
    for arguments in (("provision", members, "--plan-id", 1), ("demo", "--members", members)):
        done = run(*arguments)
        assert done.exit_code == 2
        check_harmless(done)


def test_a_hostile_ledger_name_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / HOSTILE
    done = run("ledger", "init", "--ledger", path)
    assert done.exit_code == 0
    check_harmless(done)
    copied = run("ledger", "copy", path, tmp_path / "there.db")
    assert copied.exit_code == 0
    check_harmless(copied)
    check_harmless(run("grants", "show", HOSTILE, "--ledger", path))


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_a_hostile_note_is_escaped_on_a_terminal(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grants.db"

    async def fill() -> None:
        async with SqliteLedger(path) as ledger:
            await ledger.claim(GrantRequest("pi_1", 1, 42, note=HOSTILE))
            await ledger.settle(
                "pi_1", Settlement(GrantStatus.UNKNOWN, error=OutcomeUnknown(HOSTILE), evidence=HOSTILE)
            )

    anyio.run(fill)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")  # without colours of our own
    for name in ("list", "show"):
        done = run("grants", name, *(["pi_1"] if name == "show" else []), "--ledger", path, "--format", form)
        assert done.exit_code == 0
        assert not set("\x1b\x9b\x07\r\u202e") & set(done.stdout)


@pytest.mark.usefixtures("service")
def test_no_cell_of_csv_is_a_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(run("plans", "--format", "csv").stdout, newline="")))
    assert [row["name"] for row in rows] == [*(f"'{formula}" for formula in FORMULAS), "fine"]
    assert {row["price"] for row in rows} == {"-5"}, "a number is none"


def test_no_heading_of_csv_is_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    with writing("csv", ("=1+1", "b")) as out:
        out.row({"=1+1": 1, "b": "@x"})
    assert capsys.readouterr().out == "'=1+1,b\n1,'@x\n"


def test_a_hint_may_be_pasted_into_a_shell() -> None:
    ledger = f"{SHELL}.db"
    summary = Summary(granted=1, refused=1, unknown=1)
    told = list(sentences(summary, 3, 0.5, Path(ledger), links=False))
    assert sum(shlex.quote(ledger) in sentence for sentence in told) == 3
    for sentence in told:
        _, found, hinted = sentence.partition("tgmembership ")
        assert not found or shlex.split(hinted.partition(", then ")[0])[-1] == ledger
    assert shlex.split(hint("grants", "show", SHELL)) == ["tgmembership", "grants", "show", SHELL]


def test_the_hint_of_a_database_without_a_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgmembership_async.cli.ledger_option.is_there", lambda *_: False)
    place = Server(f"postgresql://db/shop?application_name={SHELL}")
    with pytest.raises(UsageError) as raised:
        check_there(place)
    assert shlex.split(str(raised.value).partition("create one: ")[2])[-1] == str(place)


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("ref", [SHELL, "-x", "--help", "pi_1"])
def test_the_hint_of_a_grant_shows_that_grant(tmp_path: Path, ref: str) -> None:
    ledger = str(tmp_path / "grants.db")
    done = run("grant", "--plan-id", 6, "--member-id", 42, "--ledger", ledger, "--", ref)
    assert done.exit_code == 0
    words = shlex.split(done.stderr.partition("Show the link: ")[2])
    assert words[:3] == ["tgmembership", "grants", "show"]
    shown = run("grants", "show", "--format", "json", *words[3:])
    assert (shown.exit_code, '"link": "https://' in shown.stdout) == (0, True)
