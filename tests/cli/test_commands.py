"""`plans`, `orders` and the other reads, `call` and `grant`: formats, exit codes, and hidden secrets."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from in_process import run

from tgmembership_async.cli.exit_codes import MEANINGS, Exit
from tgmembership_async.cli.root import command
from tgmembership_async.testing import FakePlan, FakeService, Fault, serve

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    plans = [FakePlan(1, 'Клуб, "gold"', "1 month", "9.99"), FakePlan(2, "-", "0", "0")]
    service = FakeService(plans=plans, silent=[7], clock=lambda: NOW, shapes={"countOrders": "orders"})
    service.order(1, 42, "Stripe")
    service.order(1, 43, "PayPal")
    with serve(service) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": ""}.items():
            monkeypatch.setenv(name, value)
        yield service


def stdout_of(*arguments: object) -> str:
    done = run(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.usefixtures("service")
class TestFormats:
    """The same rows in each format."""

    def test_json_is_one_array_and_numbers_are_exact(self) -> None:
        plans = json.loads(stdout_of("plans", "--format", "json"))
        assert [plan["plan_id"] for plan in plans] == [1, 2]
        assert plans[0]["price"] == "9.99"
        assert json.loads(stdout_of("subscribers", "--user-id", "1", "--format", "json")) == []

    def test_json_of_a_single_result_is_an_object(self) -> None:
        assert json.loads(stdout_of("orders", "--format", "json")) == {
            "total": 2,
            "breakdown": {"plan_1": 2},
            "extra": {},
        }

    def test_csv_reads_back_to_the_same(self) -> None:
        rows = list(csv.DictReader(io.StringIO(stdout_of("plans", "--format", "csv"))))
        assert [(row["name"], Decimal(row["price"]), row["recurring"]) for row in rows] == [
            ('Клуб, "gold"', Decimal("9.99"), "false"),
            ("-", Decimal(0), "false"),
        ]

    def test_csv_without_rows_has_its_header(self) -> None:
        shown = stdout_of("subscribers", "--user-id", "1", "--format", "csv")
        assert shown == "user_id,plan_id,started_at,expires_at,extra\n"

    def test_csv_keeps_objects_as_json_and_moments_as_iso(self) -> None:
        [row] = csv.DictReader(io.StringIO(stdout_of("subscribers", "--user-id", "42", "--format", "csv")))
        assert row["started_at"] == "2026-11-20T12:00:00+00:00"
        [row] = csv.DictReader(io.StringIO(stdout_of("orders", "--format", "csv")))
        assert json.loads(row["breakdown"]) == {"plan_1": 2}

    def test_a_table_without_rows_is_a_note(self) -> None:
        done = run("subscribers", "--user-id", "1", "--format", "table")
        assert (done.stdout, done.stderr) == ("", "No rows.\n")

    def test_a_table_in_a_pipe_has_unlimited_width(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        assert "Клуб" in run("plans", "--format", "table").stdout

    def test_a_pipe_gets_json_lines(self) -> None:
        assert stdout_of("plans") == stdout_of("plans", "--format", "jsonl") == stdout_of("plans", "--format", "auto")


class TestCall:
    """`tgmembership call`."""

    @pytest.mark.usefixtures("service")
    def test_a_result_that_is_not_an_object_gets_a_name(self) -> None:
        done = run("call", "COUNTUSERS")
        assert (done.exit_code, done.stdout) == (0, '{"result": "2"}\n')
        assert done.stderr.startswith("200, 1 attempt, ")

    def test_digits_are_sent_as_a_number(self, service: FakeService) -> None:
        told = run("call", "addMember", "plan_id=1", "member_id=9", "--show-secrets")
        assert told.exit_code == 0
        assert [(grant.plan_id, grant.member_id) for grant in service.audit] == [(1, 9)]

    @pytest.mark.parametrize("verb", [[], ["--verb", "GET"], ["--verb", "post"]])
    @pytest.mark.parametrize("method", ["addMember", "ADDMEMBER", "webhook"])
    def test_a_method_that_returns_secrets_needs_show_secrets(
        self, service: FakeService, method: str, verb: list[str]
    ) -> None:
        done = run("call", method, "plan_id=1", "url=https://shop.example/", *verb)
        assert done.exit_code == 2
        assert "Nothing was sent" in done.stderr
        assert service.count_requests() == 0

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["getPlans", "plan_id"], 2),
            (["getPlans", "=1"], 2),
            (["get/Plans"], 2),
            (["getPlans", "plan_id=-1"], 3),
            (["noSuchMethod"], 3),
        ],
    )
    def test_invalid_parameters_are_an_error(self, service: FakeService, arguments: list[str], code: int) -> None:
        done = run("call", *arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        assert service.count_requests() == (1 if code == 3 else 0)

    @pytest.mark.parametrize(
        "wrong", [["getPlans", "plan_id"], ["getPlans", "plan_id=9999999999999999999"], ["get/Plans"]]
    )
    def test_a_wrong_parameter_is_refused_before_credentials_are_read(
        self, wrong: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TGMEMBERSHIP_API_KEY", raising=False)
        refused = run("call", *wrong)
        assert refused.exit_code == 2
        assert "parameter" in refused.stderr or "method" in refused.stderr
        assert "API_KEY" not in refused.stderr

    def test_a_lost_reply_of_an_unsafe_call_is_unknown_and_sent_once(self, service: FakeService) -> None:
        service.inject(Fault("closed", when="after"))
        assert run("call", "webhook", "--verb", "delete").exit_code == 1, "idempotent: tried again, and lost again"
        before = service.count_requests()
        assert run("call", "somethingNew", "--verb", "POST").exit_code == 4
        assert service.count_requests() == before + 1


class TestGrant:
    """`tgmembership grant`."""

    def test_a_ref_is_granted_once_and_the_link_is_printed_on_request(
        self, service: FakeService, tmp_path: Path
    ) -> None:
        arguments = ["grant", "pi_1", "--plan-id", 1, "--member-id", 42, "--ledger", tmp_path / "grants.db"]
        first, again, shown = run(*arguments), run(*arguments), run(*arguments, "--show-links")
        assert [done.exit_code for done in (first, again, shown)] == [0, 0, 0]
        assert first.stdout == again.stdout
        [token] = service.tokens
        assert token.value not in first.output
        assert json.loads(shown.stdout)["link"] == token.link
        assert "--show-links" in first.stderr

    def test_another_plan_under_the_same_ref_is_refused(self, service: FakeService, tmp_path: Path) -> None:
        ledger = ("--ledger", tmp_path / "grants.db")
        assert run("grant", "pi_1", "--plan-id", 1, *ledger).exit_code == 0
        assert run("grant", "pi_1", "--plan-id", 2, *ledger).exit_code == 3
        assert len(service.audit) == 1

    def test_an_unknown_outcome_is_held(self, service: FakeService, tmp_path: Path) -> None:
        service.inject(Fault("reset", method="addMember", when="after", count=1))
        arguments = ["grant", "pi_1", "--plan-id", 1, "--ledger", tmp_path / "grants.db"]
        held = [run(*arguments), run(*arguments)]
        assert [done.exit_code for done in held] == [4, 4]
        assert "may or may not have been granted" in held[1].stderr
        assert len(service.audit) == 1

    def test_a_member_who_is_silent_is_refused(self, service: FakeService, tmp_path: Path) -> None:
        done = run("grant", "pi_1", "--plan-id", 1, "--member-id", 7, "--ledger", tmp_path / "grants.db")
        assert (done.exit_code, service.audit) == (3, [])

    def test_without_a_ledger_nothing_is_sent(self, service: FakeService) -> None:
        assert run("grant", "pi_1", "--plan-id", 1).exit_code == 2
        assert service.count_requests() == 0


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield (*path, name), found
            if isinstance(found, click.Group):
                yield from commands(found, (*path, name))


ALL = dict(commands(command))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_each_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    assert done.exit_code == 0
    examples = done.stdout.split("Options:")[1].replace("tgmembership --project ID ", "tgmembership ")
    assert f"tgmembership {' '.join(path)}" in examples, "an example"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_no_flag_takes_a_key(path: tuple[str, ...]) -> None:
    names = {name for parameter in ALL[path].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert not names & {"--api-key", "--key", "--token", "--secret", "--password", "--bot-id"}


def test_help_tells_every_exit_code() -> None:
    shown = run("--help").stdout
    assert {int(code) for code in Exit} == {0, 1, 2, 3, 4, 5, 130, 141}
    for code, meaning in MEANINGS.items():
        assert f"{code:<4d} {meaning}" in shown


def test_the_documentation_tells_every_exit_code_and_command() -> None:
    page = (Path(__file__).parents[2] / "docs/command_line.md").read_text(encoding="utf-8")
    told = {int(code): meaning.replace("\\|", "|") for code, meaning in re.findall(r"(?m)^\| (\d+) \| (.*) \|$", page)}
    assert told == dict(MEANINGS)
    named = set(re.findall(r"`([a-z-]+)(?: …)?`", page.partition("| --- |")[2].partition("\n\n")[0]))
    assert named == {path[0] for path in ALL}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    assert "_TGMEMBERSHIP_COMPLETE" in stdout_of("completion", shell)


def test_completion_lists_commands_and_options_without_importing_them() -> None:
    done = completed("tgmembership pl", 1)
    assert done.splitlines() == ["plain,plans"]
    assert "plain,--plan-id" in completed("tgmembership plans --", 2)
    assert "plain,jsonl" in completed("tgmembership plans --format js", 3)


def completed(words: str, number: int) -> str:
    told: dict[str, Any] = {"_TGMEMBERSHIP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    return CliRunner().invoke(command, [], env=told, prog_name="tgmembership").stdout


def test_help_loads_little_of_what_a_command_needs() -> None:
    code = (
        "import sys\nbefore = {*sys.modules}\nfrom tgmembership_async.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(*{*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & {"httpx", "rich", "sqlite3", "cattrs", "attrs", "anyio", "asyncio", "dotenv", "json"} == set()
    assert len(loaded) < 140, "a call needs 600 more than an interpreter alone"
