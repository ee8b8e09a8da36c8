"""`tgmembership worker` and `provision --enqueue`: several processes on one PostgreSQL, stopped and killed."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from command_line import ENVIRONMENT, started, tgmembership
from in_process import run
from own_schema import own_schema
from waiting import wait_for

from tgmembership_async import StorageError
from tgmembership_async.grants import Grant, GrantRequest, GrantStatus, PostgresLedger
from tgmembership_async.testing import FakeService, Fault, serve

pytest.importorskip("procrastinate")


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


@pytest.fixture
def service() -> FakeService:
    return FakeService(silent=[1003])


@pytest.fixture
def setenv(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Set a variable in this process and its child processes."""

    def setenv(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(ENVIRONMENT, name, value)

    return setenv


@pytest.fixture(autouse=True)
def surroundings(service: FakeService, url: str, setenv: Callable[[str, str], None]) -> Iterator[None]:
    """Set the variables of the service and the ledger."""
    with serve(service) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": url}.items():
            setenv(name, value)
        yield


@pytest.fixture
def members(tmp_path: Path) -> Callable[[int], Path]:
    def write(count: int) -> Path:
        path = tmp_path / "members.csv"
        path.write_text("ref,member_id\n" + "".join(f"r{number},{number + 1000}\n" for number in range(count)))
        return path

    return write


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rows(url: str) -> dict[str, Grant]:
    async def read() -> dict[str, Grant]:
        async with PostgresLedger(url) as ledger:
            return {grant.ref: grant async for grant in ledger.grants()}

    return anyio.run(read)


def test_enqueued_members_are_granted_once(members: Callable[[int], Path], service: FakeService, url: str) -> None:
    """Two concurrent workers share members that were enqueued twice, and print each member once."""
    file = members(60)
    first = run("provision", file, "--plan-id", 1, "--enqueue")
    assert (first.exit_code, json.loads(first.stdout)) == (0, {"members": 60, "enqueued": 60, "conflicts": 0})
    assert f"Process them: tgmembership worker --ledger '{url}'" in first.stderr
    assert json.loads(run("provision", file, "--plan-id", 1, "--enqueue").stdout)["enqueued"] == 0
    with started("worker", "--until-empty") as one, started("worker", "--until-empty") as two:
        told = [worker.communicate(timeout=60) for worker in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), told
    listed = [line for stdout, _ in told for line in lines(stdout)]
    assert Counter(line["status"] for line in listed) == {"granted": 59, "refused": 1}
    assert {line["ref"] for line in listed} == rows(url).keys()
    assert service.granted_twice() == {}
    assert len(service.audit) == 59
    assert not any("link" in line for line in listed)


def test_several_machines_provision_the_same_file_at_once(
    members: Callable[[int], Path], service: FakeService, url: str
) -> None:
    file = members(60)
    service.inject(Fault("latency", seconds=0.02))
    arguments = ("provision", str(file), "--plan-id", "1")
    with started(*arguments) as one, started(*arguments) as two:
        told = [worker.communicate(timeout=60) for worker in (one, two)]
    assert (one.returncode, two.returncode) == (3, 3), "one was refused, on either machine"
    for stdout, _ in told:
        assert Counter(line["status"] for line in lines(stdout)) == {"granted": 59, "refused": 1}
    assert service.granted_twice() == {}
    assert len(service.audit) == 59 == sum(grant.status is GrantStatus.GRANTED for grant in rows(url).values())


def test_machines_share_one_rate(members: Callable[[int], Path], service: FakeService, tmp_path: Path) -> None:
    whole = members(60).read_text().splitlines()
    halves = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for half, rows in zip(halves, (whole[1:31], whole[31:]), strict=True):
        half.write_text("\n".join([whole[0], *rows]))
    options = ("--plan-id", "1", "--rate", "10", "--concurrency", "16")
    with started("provision", str(halves[0]), *options) as one, started("provision", str(halves[1]), *options) as two:
        for worker in (one, two):
            worker.communicate(timeout=60)
    moments = [request.at for request in service.requests]
    assert len(moments) == 60
    # 10 at once, and 10 a second for both of them together; with a rate of its own each would take 2 seconds. The first
    # requests may arrive late on a busy machine.
    assert (max(moments) - min(moments)).total_seconds() > 3.5


def test_a_worker_that_is_stopped_finishes_what_is_in_flight(
    members: Callable[[int], Path], service: FakeService, url: str
) -> None:
    service.inject(Fault("latency", seconds=1, method="addMember", when="after"))
    run("provision", members(20), "--plan-id", 1, "--enqueue")
    with started("worker", "--concurrency", "2", "--show-links") as worker:
        wait_for(lambda: service.count_requests() >= 2)
        worker.send_signal(signal.SIGTERM)
        stdout, stderr = worker.communicate(timeout=60)
    assert worker.returncode == 0, stderr
    assert "Stopping: waiting for the grants in flight" in stderr
    told = lines(stdout)
    assert {line["status"] for line in told} == {"granted"}
    assert all(line["link"] for line in told)
    assert len(told) == len(service.audit) < 20
    assert Counter(grant.status for grant in rows(url).values()) == {"granted": len(told), "planned": 20 - len(told)}


def test_a_worker_that_is_killed_leaves_what_it_sent_unknown(
    members: Callable[[int], Path], service: FakeService, url: str
) -> None:
    run("provision", members(8), "--plan-id", 1, "--enqueue")
    service.inject(Fault("latency", seconds=60, method="addMember", when="after", count=2))
    with started("worker", "--concurrency", "2") as worker:
        wait_for(lambda: len(service.audit) >= 2)
        worker.kill()
    with psycopg.connect(url, autocommit=True) as connection:  # as a minute later
        connection.execute("UPDATE procrastinate_workers SET last_heartbeat = 'epoch'")
        connection.execute(
            "SELECT procrastinate_retry_job_v1(id, now(), NULL, NULL, NULL) FROM procrastinate_jobs"
            " WHERE status = 'doing'"
        )
    done = tgmembership("worker", "--until-empty")
    assert done.returncode == 0, done.stderr
    ends = Counter(line["status"] for line in lines(done.stdout))
    assert ends == {"granted": 5, "refused": 1, "unknown": 2}
    assert "Ended: 5 granted, 1 refused, 2 unknown." in done.stderr
    assert len(service.audit) == 7
    assert service.granted_twice() == {}
    assert sum(grant.status is GrantStatus.UNKNOWN for grant in rows(url).values()) == 2


def test_rejected_credentials_stop_the_worker_and_the_other_jobs_wait(
    members: Callable[[int], Path], service: FakeService, setenv: Callable[[str, str], None]
) -> None:
    file = members(20)
    run("provision", file, "--plan-id", 1, "--enqueue")
    setenv("TGMEMBERSHIP_API_KEY", "nobody")
    done = tgmembership("worker", "--concurrency", "1")
    assert done.returncode == 5
    assert "Ended early: the service refused the account with 401" in done.stderr
    assert [line["status"] for line in lines(done.stdout)] == ["planned"]
    assert service.count_requests() == 1
    assert json.loads(run("provision", file, "--plan-id", 1, "--enqueue").stdout)["enqueued"] == 1


def test_a_service_that_fails_stops_the_worker(
    members: Callable[[int], Path], service: FakeService, setenv: Callable[[str, str], None], refused_port: int
) -> None:
    run("provision", members(100), "--plan-id", 1, "--enqueue")
    setenv("TGMEMBERSHIP_BASE_URL", f"http://127.0.0.1:{refused_port}")
    done = tgmembership("worker", "--concurrency", "16", "--attempts", "8")
    assert done.returncode == 1
    assert "Ended early: the retry budget is empty" in done.stderr
    assert {line["status"] for line in lines(done.stdout)} == {"planned"}
    assert service.count_requests() == 0


def test_a_ref_of_another_member_is_a_conflict(tmp_path: Path, service: FakeService) -> None:
    path, exits = tmp_path / "members.csv", []
    for member in (1, 2):
        path.write_text(f"ref,member_id\na,{member}\n")
        exits.append(run("provision", path, "--plan-id", 1, "--enqueue").exit_code)
        tgmembership("worker", "--until-empty")
    assert exits == [0, 3]
    assert len(service.audit) == 1


def test_a_ref_that_waits_for_another_member_is_a_conflict(tmp_path: Path, url: str) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id\na,1\nb,2\n")
    assert run("provision", path, "--plan-id", 1, "--enqueue").exit_code == 0
    path.write_text("ref,member_id\na,1\nb,3\nc,4\n")
    done = run("provision", path, "--plan-id", 1, "--enqueue", "--ledger", url)
    assert done.exit_code == 3
    assert json.loads(done.stdout) == {"members": 3, "enqueued": 1, "conflicts": 1}
    assert "b is planned with plan 1 and member 2" in done.stderr
    assert "1 of 3 members are enqueued; 1 were waiting in the queue already." in done.stderr


def test_queues_need_a_server(members: Callable[[int], Path], tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    for arguments in (("worker",), ("provision", members(1), "--plan-id", 1, "--enqueue")):
        done = run(*arguments, "--ledger", path)
        assert done.exit_code == 2
        assert "requires a ledger on a server: --ledger postgresql://" in done.stderr
    assert not path.exists()


def test_a_ledger_that_fails_is_told_by_the_exit_code(
    members: Callable[[int], Path], url: str, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, full = PostgresLedger.claim, StorageError("the disk is full")

    async def failing(ledger: PostgresLedger, request: GrantRequest) -> Any:
        if request.ref == "r1":
            raise full
        return await claim(ledger, request)

    assert run("provision", members(3), "--plan-id", 1, "--enqueue").exit_code == 0
    assert {grant.status for grant in rows(url).values()} == {"planned"}
    with monkeypatch.context() as patched:
        patched.setattr(PostgresLedger, "claim", failing)
        done = run("worker", "--until-empty")
    assert done.exit_code == 1
    assert "The ledger failed for 1 of them. They are back in the queue" in done.stderr
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    assert run("worker", "--until-empty").exit_code == 0
    assert {ref: grant.status for ref, grant in rows(url).items()} == {
        "r0": "granted",
        "r1": "granted",
        "r2": "granted",
    }
    assert len(service.audit) == 3
