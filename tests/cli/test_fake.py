"""`tgmembership fake`: the printed environment variables, the service, and a clean end."""

import os
import re
import signal
import socket
import subprocess
from contextlib import ExitStack

import anyio
import pytest
from command_line import COMMAND, ENVIRONMENT, Terminal, started, tgmembership
from forked import Forked

from tgmembership_async import CallError, Session


def environment_of(process: subprocess.Popen[str], lines: int = 3) -> dict[str, str]:
    assert process.stdout is not None
    return dict(process.stdout.readline().strip().split("=", 1) for _ in range(lines))


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


async def use() -> tuple[int, int]:
    async with Session.from_env(proxy=None) as tg:
        token = await tg.add_member(plan_id=1, member_id=42)
        assert token.link is not None
        return len(await tg.get_plans()), int(await tg.count_orders())


def test_a_session_connects_with_the_printed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("fake", "--seed", "7") as process:
        environment = environment_of(process)
        assert list(environment) == ["TGMEMBERSHIP_BOT_ID", "TGMEMBERSHIP_API_KEY", "TGMEMBERSHIP_BASE_URL"]
        for name, value in environment.items():
            monkeypatch.setitem(os.environ, name, value)
        assert anyio.run(use) == (4, 60)
        code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert "Ctrl-C ends it.\n" in err
    assert err.endswith("3 requests, 1 grant.\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("generation", "names"),
    [
        ("v1", ["BOT_ID", "API_KEY", "BASE_URL", "GENERATION"]),
        ("v2", ["PROJECT_ID", "PROJECT_TOKEN", "PROJECT_BASE_URL"]),
    ],
)
def test_the_variables_are_those_of_the_generation(generation: str, names: list[str]) -> None:
    with started("fake", "--generation", generation) as process:
        environment = environment_of(process, len(names))
        assert list(environment) == [f"TGMEMBERSHIP_{name}" for name in names]
        code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert "0 requests, 0 " in err


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("sh", "export TGMEMBERSHIP_BOT_ID=8047883872"),
        ("fish", "set -gx TGMEMBERSHIP_BOT_ID 8047883872"),
        ("powershell", "$env:TGMEMBERSHIP_BOT_ID = '8047883872'"),
    ],
)
def test_the_variables_can_be_pasted_into_a_shell(shell: str, line: str) -> None:
    with started("fake", "--shell", shell) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{line}\n"
        assert ended(process)[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_lines_to_paste_and_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**ENVIRONMENT, "SHELL": "/bin/bash"}
    with (
        Terminal() as terminal,
        Forked([*COMMAND, "fake"], stdout=terminal.theirs, stderr=terminal.theirs, env=environment) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)  # also where a check fails, so that leaving `process` does not wait for ever
        terminal.read_until("Ctrl-C ends it")
        for name, value in re.findall(r"export (\w+)=(\S+)", terminal.shown):
            monkeypatch.setitem(os.environ, name, value)
        anyio.run(use)
        terminal.read_until("3  GET countOrders")
        assert re.search(r"\d\d:\d\d:\d\d +1  POST addMember", terminal.shown)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_fault_rate_injects_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("fake", "--fault-rate", "1") as process:
        for name, value in environment_of(process).items():
            monkeypatch.setitem(os.environ, name, value)
        with pytest.raises(CallError):
            anyio.run(use)
        assert ended(process)[0] == 0


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = tgmembership("fake", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--host", "0.0.0.0"], "loopback only"),
        (["--port", "70000"], "from 0"),
        (["--port", "x"], "'x' is not a valid integer.\n"),
        (["--fault-rate", "2"], "range"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], why: str) -> None:
    done = tgmembership("fake", *arguments)
    assert done.returncode == 2
    assert why in done.stderr
