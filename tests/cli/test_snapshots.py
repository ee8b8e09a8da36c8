"""The output of every command, in a pipe and on a terminal, compared to approved snapshots."""

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from approved import approve, in_a_pipe, on_a_terminal
from attrs import frozen
from click.testing import CliRunner
from command_line import COMMAND, ENVIRONMENT

from tgmembership_async.cli.root import command as root
from tgmembership_async.testing import FakePlan, FakeService, serve
from tgmembership_async.testing.fake.values import SAMPLE_PLANS

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
READS = {
    "plans": ["plans"],
    "plans_one": ["plans", "--plan-id", "2"],
    "subscribers": ["subscribers", "--user-id"],
    "orders": ["orders"],
    "users": ["users"],
    "revenue": ["revenue"],
    "payment_methods": ["payment-methods"],
    "performance": ["performance"],
    "call": ["call", "getPlans", "plan_id=2"],
    "doctor": ["doctor"],
}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, and needs a pseudo-terminal")


def a_service() -> FakeService:
    plans = (*SAMPLE_PLANS, FakePlan(5, "Клуб \x1b[31m[red]", "1 month", "5"))
    service = FakeService(seed=1, clock=lambda: NOW, plans=plans, silent=[1002], shapes={"countOrders": "orders"})
    service.populate(12)
    service._clock = lambda: datetime.now(UTC)  # doctor compares it with ours
    return service


@pytest.fixture(scope="module")
def service() -> FakeService:
    return a_service()


@frozen
class Commands:
    """Runs commands with an environment, in a pipe or on a terminal."""

    environment: dict[str, str]

    def piped(self, *arguments: str) -> tuple[int, str, str]:
        return in_a_pipe(*arguments, environment=self.environment)

    def on_a_terminal(self, *arguments: str, **environment: str) -> tuple[int, str]:
        return on_a_terminal(*arguments, environment=self.environment | environment)


@pytest.fixture(scope="module")
def commands(service: FakeService) -> Iterator[Commands]:
    """Return commands for a service that no test changes."""
    with serve(service) as server:
        yield Commands({**ENVIRONMENT, **server.env(), "NO_COLOR": "1", "NO_PROXY": "*"})


def arguments_of(name: str, service: FakeService) -> list[str]:
    who = [str(service.subscribers[0].user_id)] if name == "subscribers" else []
    return [*READS[name], *who]


@pytest.mark.parametrize("name", READS)
def test_a_read_in_a_pipe(name: str, service: FakeService, commands: Commands) -> None:
    code, out, err = commands.piped(*arguments_of(name, service))
    assert code == 0, err
    approve(f"{name}.pipe", out + err)


@pytest.mark.parametrize("name", READS)
def test_a_read_on_a_terminal(name: str, service: FakeService, commands: Commands) -> None:
    code, shown = commands.on_a_terminal(*arguments_of(name, service))
    assert code == 0, shown
    approve(f"{name}.terminal", shown)


@pytest.mark.parametrize("name", READS)
def test_a_read_on_a_narrow_terminal(name: str, service: FakeService, commands: Commands) -> None:
    code, shown = commands.on_a_terminal(*arguments_of(name, service), COLUMNS="60")
    assert code == 0, shown
    approve(f"{name}.60", shown)


def paths(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        yield (*before, name)
        if isinstance(found, click.Group):
            yield from paths(found, *before, name)


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("path", [(), *paths(root)], ids=" ".join)
def test_a_help_page_has_an_example_and_breaks_no_word(
    path: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TGMEMBERSHIP_LEDGER", raising=False)
    shown = CliRunner().invoke(root, [*path, "--help"], prog_name="tgmembership", terminal_width=columns - 2).output
    assert [line for line in shown.splitlines() if len(line) > columns and len(line.split()) > 1] == []
    assert re.search(r"Examples?:\n +(export |tgmembership )", shown), "an example that can be pasted"
    approve(f"help/{'.'.join(path) or 'tgmembership'}.{columns}", shown)


def test_a_narrow_terminal_shows_blocks_and_breaks_no_word(commands: Commands) -> None:
    approve("plans.narrow", commands.on_a_terminal("plans", COLUMNS="40")[1])


def test_a_terminal_of_ascii_gets_ascii(commands: Commands) -> None:
    environment = {**commands.environment, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    _, shown = on_a_terminal("plans", environment=environment, python=subprocess.Popen)
    assert shown.isascii()
    approve("plans.ascii", shown)


def test_a_reader_that_closes_the_pipe_is_not_an_error(commands: Commands) -> None:
    with subprocess.Popen(
        [*COMMAND, "subscribers"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=commands.environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


class TestWhatGrants:
    """Commands that change service or ledger: each test has its own."""

    @pytest.fixture
    def folder(self, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        (tmp_path / "members.csv").write_text("ref,member_id,note\nr1,1001,chat 1\nr2,1002,\nr3,1003,\n")
        with serve(a_service()) as server:
            for name, value in {**server.env(), "TGMEMBERSHIP_LEDGER": str(tmp_path / "grants.db")}.items():
                monkeypatch.setitem(commands.environment, name, value)
            yield tmp_path

    @staticmethod
    def provision(folder: Path) -> list[str]:
        return ["provision", str(folder / "members.csv"), "--plan-id", "1", "--concurrency", "1"]

    def test_in_a_pipe(self, folder: Path, commands: Commands) -> None:
        code, out, err = commands.piped("grant", "pi_1", "--plan-id", "1", "--member-id", "42", "--note", "chat 7")
        approve("grant.pipe", (out + err).replace(str(folder), "FOLDER"))
        code, out, err = commands.piped("grant", "pi_2", "--plan-id", "1", "--member-id", "1002")
        assert code == 3
        approve("grant_refused.pipe", out + err)
        code, out, err = commands.piped(*self.provision(folder))
        assert code == 3
        approve("provision.pipe", (out + err).replace(str(folder), "FOLDER"))
        approve("grants_list.pipe", commands.piped("grants", "list")[1])

    def test_on_a_terminal(self, folder: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
        code, shown = commands.on_a_terminal("grant", "pi_1", "--plan-id", "1", "--member-id", "42", "--show-links")
        assert code == 0, shown
        approve("grant.terminal", shown)
        code, shown = commands.on_a_terminal(*self.provision(folder))
        assert code == 3, shown
        assert re.search(r"3/3.*2 granted.*1 refused", shown), "the bar"
        approve("grants_list.terminal", commands.on_a_terminal("grants", "list")[1])
        green = "\x1b[32mgranted"
        assert green not in commands.on_a_terminal("grants", "list")[1], "NO_COLOR is set"
        monkeypatch.delitem(commands.environment, "NO_COLOR")
        assert green in commands.on_a_terminal("grants", "list")[1]
