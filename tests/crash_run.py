"""Run provisioning under injected faults, kill the process repeatedly, and compare ledger and audit log."""

import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from attrs import frozen
from command_line import COMMAND, ENVIRONMENT
from figures import record
from forked import Forked

from tgmembership_async.grants import Grant, GrantRequest, GrantStatus, Ledger, SqliteLedger
from tgmembership_async.storage.sqlite.generations import from_facts
from tgmembership_async.storage.sqlite.owner_lock import read_facts_of
from tgmembership_async.testing import ChaosProxy, FakeService, Fault, GrantRecord, Trouble, serve

CONCURRENCY = 8
PLAN_ID = 1
MOST_RUNS = 5
UNFINISHED = 1
_STARTING_TAKES = 0.8
_KILLED_WHILE_STARTING = 0.15
_PATIENCE = 60.0
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
    held: int = 0
    """How many refs are held because an older copy of the ledger was restored."""

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

    def check(self) -> None:
        """Assert what every run promises."""
        assert self.granted_twice == []
        assert self.lost == []
        assert self.granted_in_vain == []
        assert self.unknown <= self.kills * CONCURRENCY + self.replies_destroyed + self.held
        # Each token that is missing in the ledger belongs to a row with the status unknown.
        granted = sum(grant.status is GrantStatus.GRANTED for grant in self.grants.values())
        assert granted <= len(self.audit) <= granted + self.unknown
        assert self.exit_code == (4 if self.unknown else 0)

    def publish(self, suite: str, scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Print what a long run came to, and record it as a row of figures."""
        row: dict[str, str | int] = {
            "scenario": scenario,
            "members": len(self.refs),
            "kills": self.kills,
            "replies destroyed": self.replies_destroyed,
            "granted by the service": len(self.audit),
            "granted twice": len(self.granted_twice),
            "lost": len(self.lost),
            "granted in vain": len(self.granted_in_vain),
            "unknown": self.unknown,
            "of these held after a restore": self.held,
        }
        with capsys.disabled():
            print(f"\n{row}")  # noqa: T201 - what the long run is for
        record(suite, "Kills", row)


@frozen
class Shop:
    """A service and a network that fail, and what a worker needs to reach them."""

    service: FakeService
    proxy: ChaosProxy
    environment: dict[str, str]

    def worker(self, folder: Path, file: Path, ledger: Path | str) -> "subprocess.Popen[bytes]":
        """Start to provision the members in a file."""
        options = {"--plan-id": PLAN_ID, "--concurrency": CONCURRENCY, "--attempts": 8}
        with (folder / "stderr").open("ab") as stderr:
            return Forked(
                [*COMMAND, "provision", str(file), *(str(word) for option in options.items() for word in option)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**ENVIRONMENT, **self.environment, "TGMEMBERSHIP_LEDGER": str(ledger)},
            )

    def requests_at_rest(self) -> int:
        """Return the number of requests when those of a worker that was just killed have all arrived."""
        before, now = -1, self.service.count_requests()
        while now != before:
            time.sleep(0.3)
            before, now = now, self.service.count_requests()
        return now

    def aftermath(self, refs: list[str], ledger: Ledger, kills: int, exit_code: int, held: int = 0) -> Aftermath:
        """Compare the ledger with the audit log."""
        struck = Counter(label for request in self.service.requests for label in request.faults)
        return Aftermath(
            refs=refs,
            grants={grant.ref: grant for grant in anyio.run(_rows, ledger)},
            audit=self.service.audit,
            kills=kills,
            replies_destroyed=struck[_REPLY_DESTROYED] + self.proxy.replies_destroyed,
            exit_code=exit_code,
            held=held,
        )


@contextmanager
def shop(seed: int, *, throttled: float, failed: float, reset: float) -> Generator[Shop]:
    """Serve with these shares of throttled requests, of 500 after the effect, and of lost replies."""
    service = FakeService(
        faults=[
            Fault("throttled", probability=throttled, retry_after=0.01),
            Fault("error", when="after", probability=failed),
        ],
        seed=seed,
    )
    resets = Trouble("reset", when="reply", probability=reset)
    with serve(service) as server, ChaosProxy(server.url, [resets], seed=seed) as proxy:
        yield Shop(service, proxy, {**server.env(), "TGMEMBERSHIP_BASE_URL": proxy.url, "NO_PROXY": "*"})


@contextmanager
def ended(worker: "subprocess.Popen[bytes]") -> Generator["subprocess.Popen[bytes]"]:
    """Kill a worker at the end, unless it has exited."""
    with worker:
        try:
            yield worker
        finally:
            worker.kill()


@frozen
class Run:
    """A bulk run on a ledger in a file, whose file of members may grow."""

    folder: Path
    shop: Shop
    refs: list[str]

    @property
    def members(self) -> Path:
        return self.folder / "members.csv"

    @property
    def ledger(self) -> Path:
        return self.folder / "grants.db"

    def write(self, count: int) -> None:
        """Write the first members into the file."""
        rows = (f"{ref},{number + 1}\n" for number, ref in enumerate(self.refs[:count]))
        self.members.write_text("ref,member_id\n" + "".join(rows))

    def kill_one(self, random: Random, most: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Start a worker, and kill it at a random moment in which it has sent `most` requests at most."""
        with ended(self.shop.worker(self.folder, self.members, self.ledger)) as worker:
            _wait_for_its_last_moment(worker, self.shop.service, random, most=most)
            meanwhile()
            assert worker.poll() is None, (self.folder / "stderr").read_text()

    def finish(self) -> int:
        """Run until nothing is left, and return the exit code."""
        for _ in range(MOST_RUNS):
            with ended(self.shop.worker(self.folder, self.members, self.ledger)) as worker:
                exit_code = worker.wait(_PATIENCE)
            if exit_code != UNFINISHED:
                break
        return exit_code

    def put(self, copy: Path) -> None:
        """Put a copy in place of the ledger. It is refused, and nothing is sent."""
        self.journal.unlink(missing_ok=True)  # it belongs to the file that is replaced
        shutil.copyfile(copy, self.ledger)
        before = self.shop.requests_at_rest()
        with ended(self.shop.worker(self.folder, self.members, self.ledger)) as worker:
            assert worker.wait(_PATIENCE) in (1, 2), "1: damaged, as a live copy may be; 2: an older copy"
        assert self.shop.service.count_requests() == before

    @property
    def journal(self) -> Path:
        return self.folder / "grants.db-journal"

    def try_older(self, copy: Path) -> None:
        """Put an older copy in place of the ledger, and then the latest file again.

        A copy that only lacks changes of the last second before a kill cannot be recognized until the file was used
        again; the run that was killed since may not have come so far.
        """
        counted = from_facts(read_facts_of(self.ledger))
        if counted is not None and _number_in(copy) == counted.number:
            return
        for file in (self.ledger, self.journal):
            if file.exists():
                shutil.copyfile(file, f"{file}.latest")
        self.put(copy)
        for file in (self.ledger, self.journal):
            latest = Path(f"{file}.latest")
            if latest.exists():
                latest.rename(file)


def crash_and_resume(folder: Path, members: int, kills: int, seed: int) -> Aftermath:
    """Provision members, kill the process `kills` times at random points, then let it finish."""
    refs, random = [f"order-{number}" for number in range(members)], Random(seed)
    with shop(seed, throttled=0.05, failed=0.03, reset=0.02) as market:
        run = Run(folder, market, refs)
        run.write(members)
        for number in range(kills):
            run.kill_one(random, (members - market.service.count_requests()) / (kills - number + 1))
        return market.aftermath(refs, SqliteLedger(run.ledger, owner=False), kills, run.finish())


def crash_and_restore(folder: Path, members: int, kills: int, seed: int) -> Aftermath:
    """As `crash_and_resume`, with members that arrive in the course of it, and a ledger that people copy and restore.

    Of six runs the first and third are copied with `cp` while the ledger is in use, and each copy is put in its place
    after the next kill: it is refused, and the latest file is put back. In the sixth, a backup from before the run is
    restored after the kill, and accepted.
    """
    refs, random, held = [f"order-{number}" for number in range(members)], Random(seed), 0
    wave = members // (kills + 2)
    copy, backup = folder / "copy.db", folder / "backup.db"
    with shop(seed, throttled=0.05, failed=0.03, reset=0.02) as market:
        run = Run(folder, market, refs)
        for number in range(kills):
            restores = number % 6 == 5
            if restores:
                anyio.run(_back_up, run.ledger, backup)
            began = datetime.now(UTC)
            paid = (number + 2) * wave
            run.write(paid)
            most = 0.8 * (paid - market.service.count_requests() - held)
            if restores:
                run.kill_one(random, most)
                run.put(backup)
                backup.unlink()
                held += anyio.run(_accept, run.ledger, refs[:paid], began)
            elif number % 2:
                run.kill_one(random, most)
                run.try_older(copy)
            else:
                run.kill_one(random, most, lambda: shutil.copyfile(run.ledger, copy))
        run.write(members)
        return market.aftermath(refs, SqliteLedger(run.ledger, owner=False), kills, run.finish(), held)


def _number_in(copy: Path) -> object:
    """Return the counter of writes in a copy, or None if it is damaged, as a live copy may be."""
    with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as connection, suppress(sqlite3.Error):
        return connection.execute("SELECT number FROM generation").fetchone()[0]
    return None


async def _back_up(ledger: Path, target: Path) -> None:
    async with SqliteLedger(ledger, owner=False) as opened:
        await opened.backup(target)


async def _accept(ledger: Path, refs: list[str], paid_at: datetime) -> int:
    """Accept a restored copy, and ask again for every ref that may have been sent since; return how many are held."""
    async with SqliteLedger(ledger, owner=False) as opened:
        before = sum([grant.status is GrantStatus.UNKNOWN async for grant in opened.grants()])
    async with SqliteLedger(ledger, restored=True) as opened:
        for number, ref in enumerate(refs):
            await opened.plan(GrantRequest(ref, PLAN_ID, number + 1, paid_at=paid_at))
        return sum([grant.status is GrantStatus.UNKNOWN async for grant in opened.grants()]) - before


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


async def _rows(ledger: Any) -> list[Grant]:
    async with ledger:
        return [grant async for grant in ledger.grants()]
