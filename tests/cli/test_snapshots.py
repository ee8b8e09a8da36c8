"""Every command as its user sees it: a process in a pipe and on a terminal, against approved outputs."""

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import command_line
import pytest
from approved import approve, on_a_terminal
from command_line import COMMAND, tgmembership

from tgmembership_async.testing import FakePlan, FakeService, serve
from tgmembership_async.testing.values import SAMPLE_PLANS

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
    "report": ["report"],
}
needs_a_terminal = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


def a_service() -> FakeService:
    plans = (*SAMPLE_PLANS, FakePlan(5, "Клуб \x1b[31m[red]", "1 month", "5"))
    service = FakeService(seed=1, clock=lambda: NOW, plans=plans, silent=[1002], shapes={"countOrders": "orders"})
    service.populate(12)
    return service


@pytest.fixture(scope="module")
def service() -> FakeService:
    return a_service()


@pytest.fixture(scope="module")
def environment(service: FakeService) -> Iterator[dict[str, str]]:
    """Serve the service that nobody changes, and give what points to it."""
    with serve(service) as server:
        yield {**server.env(), "NO_COLOR": "1", "NO_PROXY": "*"}


@pytest.fixture
def around(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in environment.items():
        monkeypatch.setitem(command_line.ENVIRONMENT, name, value)
    return environment


def arguments_of(name: str, service: FakeService) -> list[str]:
    who = [str(service.subscribers[0].user_id)] if name == "subscribers" else []
    return [*READS[name], *who]


@pytest.mark.usefixtures("around")
@pytest.mark.parametrize("name", READS)
def test_a_read_in_a_pipe(name: str, service: FakeService) -> None:
    done = tgmembership(*arguments_of(name, service))
    assert done.returncode == 0, done.stderr
    approve(f"{name}.pipe", done.stdout + done.stderr)


@needs_a_terminal
@pytest.mark.usefixtures("around")
@pytest.mark.parametrize("name", READS)
def test_a_read_on_a_terminal(name: str, service: FakeService) -> None:
    code, shown = on_a_terminal(*arguments_of(name, service))
    assert code == 0, shown
    approve(f"{name}.terminal", shown)


@needs_a_terminal
@pytest.mark.usefixtures("around")
def test_a_narrow_terminal_shows_blocks_and_breaks_no_word() -> None:
    _, shown = on_a_terminal("plans", COLUMNS="40")
    approve("plans.narrow", shown)


@needs_a_terminal
@pytest.mark.usefixtures("around")
def test_a_terminal_of_ascii_gets_ascii() -> None:
    _, shown = on_a_terminal("plans", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert shown.isascii()
    approve("plans.ascii", shown)


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes as POSIX has them")
@pytest.mark.usefixtures("around")
def test_who_reads_one_line_only_is_no_error() -> None:
    with subprocess.Popen(
        [*COMMAND, "subscribers"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=command_line.ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


class TestWhatGrants:
    """Each step has a service and a ledger of its own, and is looked at in a pipe or on a terminal."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        (tmp_path / "members.csv").write_text("ref,member_id,note\nr1,1001,chat 1\nr2,1002,\nr3,1003,\n")
        with serve(a_service()) as server:
            told = {
                **server.env(),
                "NO_PROXY": "*",
                "NO_COLOR": "1",
                "TGMEMBERSHIP_LEDGER": str(tmp_path / "grants.db"),
            }
            for name, value in told.items():
                monkeypatch.setitem(command_line.ENVIRONMENT, name, value)
            yield tmp_path

    @staticmethod
    def provision(folder: Path) -> list[str]:
        return ["provision", str(folder / "members.csv"), "--plan-id", "1", "--concurrency", "1"]

    def test_in_a_pipe(self, folder: Path) -> None:
        granted = tgmembership("grant", "pi_1", "--plan-id", "1", "--member-id", "42", "--note", "chat 7")
        approve("grant.pipe", granted.stdout + granted.stderr)
        refused = tgmembership("grant", "pi_2", "--plan-id", "1", "--member-id", "1002")
        assert refused.returncode == 3
        approve("grant_refused.pipe", refused.stdout + refused.stderr)
        done = tgmembership(*self.provision(folder))
        assert done.returncode == 3
        approve("provision.pipe", (done.stdout + done.stderr).replace(str(folder), "FOLDER"))
        approve("grants_list.pipe", tgmembership("grants", "list").stdout)

    @needs_a_terminal
    def test_on_a_terminal(self, folder: Path) -> None:
        code, shown = on_a_terminal("grant", "pi_1", "--plan-id", "1", "--member-id", "42", "--show-links")
        assert code == 0, shown
        approve("grant.terminal", shown)
        code, shown = on_a_terminal(*self.provision(folder))
        assert code == 3, shown
        assert re.search(r"3/3.*2 granted.*1 refused", shown), "the bar"
        approve("grants_list.terminal", on_a_terminal("grants", "list")[1])
        green = "\x1b[32mgranted"
        assert green not in on_a_terminal("grants", "list")[1], "NO_COLOR is set"
        assert green in on_a_terminal("grants", "list", NO_COLOR="")[1]
