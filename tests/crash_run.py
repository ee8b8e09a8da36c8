"""Run provisioning under injected faults, kill the process repeatedly, and compare ledger and audit log."""

import subprocess
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import anyio
from attrs import frozen
from command_line import COMMAND, ENVIRONMENT
from forked import Forked

from tgmembership_async.grants import Grant, GrantStatus, SqliteLedger
from tgmembership_async.testing import ChaosProxy, FakeService, Fault, GrantRecord, Trouble, serve

CONCURRENCY = 8
PLAN_ID = 1
_STARTING_TAKES = 0.8
_KILLED_WHILE_STARTING = 0.15
_PATIENCE = 60.0
MOST_RUNS = 5
UNFINISHED = 1
_REPLY_DESTROYED = "error 500 after the effect"


@frozen
class Aftermath:
    """The state after the last run: the ledger, the service's audit log, and the members."""

    refs: list[str]
    grants: dict[str, Grant]
    audit: list[GrantRecord]
    kills: int
    replies_destroyed: int
    exit_code: int

    @property
    def granted_twice(self) -> list[int | None]:
        """Return the members with more than one grant."""
        counts = Counter(grant.member_id for grant in self.audit)
        return [member for member, count in counts.items() if count > 1]

    @property
    def lost(self) -> list[str]:
        """Return the refs that are missing in the ledger or not in a final state (this service refuses none)."""
        ends = (GrantStatus.GRANTED, GrantStatus.UNKNOWN)
        return [ref for ref in self.refs if ref not in self.grants or self.grants[ref].status not in ends]

    @property
    def granted_in_vain(self) -> list[str]:
        """Return the refs whose token in the ledger was never given to this member by the service."""
        given = {(grant.member_id, grant.token) for grant in self.audit}
        return [
            grant.ref
            for grant in self.grants.values()
            if grant.status is GrantStatus.GRANTED and (grant.member_id, grant.token and grant.token.token) not in given
        ]

    @property
    def unknown(self) -> int:
        """Return the number of grants that need a decision."""
        return sum(grant.status is GrantStatus.UNKNOWN for grant in self.grants.values())


def destroyed(service: FakeService, proxy: ChaosProxy) -> int:
    """Return how many answers were destroyed after the service had acted, so that nobody can know."""
    struck = Counter(label for request in service.requests for label in request.faults)
    return struck[_REPLY_DESTROYED] + proxy.replies_destroyed


def told(found: Aftermath) -> str:
    """Return what a long run came to, in one line."""
    return (
        f"\n{len(found.refs):,} members, {found.kills} kills, {found.replies_destroyed} replies destroyed: "
        f"{len(found.audit):,} granted by the service, {len(found.granted_twice)} twice, {len(found.lost)} lost, "
        f"{len(found.granted_in_vain)} in vain, {found.unknown} unknown"
    )


def crash_and_resume(folder: Path, members: int, kills: int, seed: int) -> Aftermath:
    """Provision members, kill the process `kills` times at random points, then let it finish."""
    file = folder / "members.csv"
    refs = [f"order-{number}" for number in range(members)]
    file.write_text("ref,member_id\n" + "".join(f"{ref},{number + 1}\n" for number, ref in enumerate(refs)))
    random = Random(seed)
    service = FakeService(
        faults=[
            Fault("throttled", probability=0.05, retry_after=0.01),
            Fault("error", when="after", probability=0.03),
        ],
        seed=seed,
    )
    resets = Trouble("reset", when="reply", probability=0.02)
    with serve(service) as server, ChaosProxy(server.url, [resets], seed=seed) as proxy:
        environment = {**server.env(), "TGMEMBERSHIP_BASE_URL": proxy.url, "NO_PROXY": "*"}
        for number in range(kills):
            with _worker(folder, file, environment) as worker:
                left = members - service.count_requests()
                _wait_for_its_last_moment(worker, service, random, most=left / (kills - number + 1))
                assert worker.poll() is None, (folder / "stderr").read_text()
                worker.kill()
        for _ in range(MOST_RUNS):
            with _worker(folder, file, environment) as worker:
                exit_code = worker.wait(_PATIENCE)
            if exit_code != UNFINISHED:
                break
        return Aftermath(
            refs=refs,
            grants={grant.ref: grant for grant in anyio.run(_rows, folder)},
            audit=service.audit,
            kills=kills,
            replies_destroyed=destroyed(service, proxy),
            exit_code=exit_code,
        )


@contextmanager
def _worker(folder: Path, file: Path, environment: dict[str, str]) -> Generator[subprocess.Popen[bytes]]:
    options = {"--plan-id": PLAN_ID, "--concurrency": CONCURRENCY, "--attempts": 8, "--ledger": folder / "grants.db"}
    with (
        (folder / "stderr").open("ab") as stderr,
        Forked(
            [*COMMAND, "provision", str(file), *(str(word) for option in options.items() for word in option)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**ENVIRONMENT, **environment},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _wait_for_its_last_moment(
    worker: subprocess.Popen[bytes], service: FakeService, random: Random, *, most: float
) -> None:
    """Wait for a random time during its start, or until shortly after it has sent a random number of requests."""
    enough = service.count_requests() + random.uniform(1, max(1, most))
    starting = random.random() < _KILLED_WHILE_STARTING
    end = time.monotonic() + (random.uniform(0, _STARTING_TAKES) if starting else _PATIENCE)
    while service.count_requests() < enough and worker.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.005))


async def _rows(folder: Path) -> list[Grant]:
    async with SqliteLedger(folder / "grants.db", owner=False) as ledger:
        return [grant async for grant in ledger.grants()]
