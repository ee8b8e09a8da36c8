"""`examples/bulk_import.py` as a child process: killed, run again, and with grants that fail."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forked

from tgmembership_async.testing import FakeService, Fault
from tgmembership_async.testing import serve as serve_fake
from tgmembership_async.testing.fake.server import FakeServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "bulk_import.py"
MEMBERS = 40


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def server(service: FakeService) -> Iterator[FakeServer]:
    with serve_fake(service) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id,plan_id\n" + "".join(f"r{number},{number + 1},1\n" for number in range(MEMBERS)))
    return path


def start(file: Path, server: FakeServer) -> subprocess.Popen[str]:
    environment = {**os.environ, **server.env(), "NO_PROXY": "*", "PYTHONWARNINGS": "error"}
    environment["HOME"] = environment["USERPROFILE"] = str(file.parent)  # where the ledger is
    environment["PYTHONPATH"] = str(EXAMPLE.parents[1])  # the package beside the example, installed or not
    return Forked(
        [sys.executable, EXAMPLE, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run(file: Path, server: FakeServer) -> tuple[int, str]:
    with start(file, server) as process:
        out, _ = process.communicate(timeout=30)
    return process.returncode, out


def links(file: Path) -> dict[int, str]:
    with file.with_name("members.csv.links.csv").open(newline="") as rows:
        return {int(member_id): link for _, member_id, link in csv.reader(rows)}


def test_a_file_of_another_name_grants_nobody_again(file: Path, service: FakeService, server: FakeServer) -> None:
    assert run(file, server)[0] == 0
    renamed = file.rename(file.with_name("members (1).csv"))
    assert run(renamed, server)[1].startswith(f"0 granted, {MEMBERS} before")
    renamed.with_name("members (1).csv.db").touch()
    assert run(renamed, server)[0] == 1
    assert len(service.audit) == MEMBERS


def test_every_member_gets_one_link_also_when_run_again(file: Path, service: FakeService, server: FakeServer) -> None:
    assert run(file, server) == (
        0,
        f"{MEMBERS} granted, 0 before; 0 refused, {MEMBERS} links in members.csv.links.csv\n",
    )
    assert links(file) == {token.member_id: token.link for token in service.tokens}
    assert run(file, server) == (0, f"0 granted, {MEMBERS} before; 0 refused, 0 links in members.csv.links.csv\n")
    assert len(service.audit) == MEMBERS


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and modes are POSIX")
def test_a_killed_import_is_resumed_and_its_links_are_still_written(
    file: Path, service: FakeService, server: FakeServer
) -> None:
    service.inject(Fault("latency", when="before", seconds=0.05))
    with start(file, server) as process:
        end = time.monotonic() + 20
        while len(service.audit) < 10 and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    service.clear_faults()
    code, out = run(file, server)
    held = len([line for line in out.splitlines() if " is unknown: " in line])
    assert code == int(held > 0)
    assert held <= 16
    assert service.granted_twice() == {}
    assert len(links(file)) == MEMBERS - held
    assert file.with_name("members.csv.links.csv").stat().st_mode & 0o777 == 0o600


def test_refused_and_unknown_members_are_printed_with_the_next_step(
    file: Path, service: FakeService, server: FakeServer
) -> None:
    service.inject(Fault("error", status=403, count=1), Fault("error", when="after", skip=1, count=1))
    code, out = run(file, server)
    assert code == 1
    assert " is refused: addMember: 403" in out
    assert "Unknown outcomes: 1. Run tgmembership grants reconcile --ledger" in out
    assert "Traceback" not in out


def test_rejected_credentials_end_it_early(file: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**server.env(), "TGMEMBERSHIP_API_KEY": "nobody"}
    monkeypatch.setattr(server, "env", lambda: environment)
    code, out = run(file, server)
    assert code == 1
    assert "Ended early: the service refused the account with 401. Correct this and run the program again." in out
