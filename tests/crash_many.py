"""Provisioning runs of several worker processes on one PostgreSQL, all of which are killed again and again."""

import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from subprocess import DEVNULL, Popen

import anyio
from attrs import field, mutable
from command_line import COMMAND, ENVIRONMENT
from crash_run import CONCURRENCY, PLAN_ID, Aftermath
from forked import Forked
from private_postgres import PrivatePostgres

from tgmembership_async.grants import Grant, PostgresLedger
from tgmembership_async.testing import ChaosProxy, FakeService, Fault, Trouble, serve

WORKERS = 4
_PATIENCE = 600.0
_COMING_BACK_TAKES = 0.5
_MOST_RUNS = 5
_UNFINISHED = 1
_REPLY_DESTROYED = "error 500 after the effect"


@mutable
class Fleet:
    """Worker processes, each with a file of members of its own; what ends unfinished is started again."""

    folder: Path
    ledger: str
    environment: dict[str, str]
    workers: dict[int, "Popen[bytes]"] = field(factory=dict)
    exit_codes: dict[int, int] = field(factory=dict)
    runs: Counter[int] = field(factory=Counter)

    def start(self, number: int) -> None:
        options = {"--plan-id": PLAN_ID, "--concurrency": CONCURRENCY, "--attempts": 8, "--ledger": self.ledger}
        with (self.folder / "stderr").open("ab") as stderr:
            self.workers[number] = Forked(
                [
                    *COMMAND,
                    "provision",
                    str(self.file(number)),
                    *(str(w) for option in options.items() for w in option),
                ],
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=stderr,
                env={**ENVIRONMENT, **self.environment},
            )

    def file(self, number: int) -> Path:
        return self.folder / f"members-{number}.csv"

    def kill(self, number: int) -> None:
        """Kill a worker with SIGKILL, and start it again: what its service manager would do."""
        worker = self.workers[number]
        worker.kill()
        worker.wait()
        self.start(number)

    def alive(self) -> list[int]:
        return [number for number, worker in self.workers.items() if worker.poll() is None]

    def finish(self) -> None:
        """Let all of them come to their end; the budget of one, or its database, may be empty or away for a while."""
        for number in self.workers:
            for _ in range(_MOST_RUNS):
                self.exit_codes[number] = self.workers[number].wait(_PATIENCE)
                if self.exit_codes[number] != _UNFINISHED:
                    break
                self.start(number)

    def end(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()


@contextmanager
def _fleet(folder: Path, ledger: str, environment: dict[str, str]) -> Generator[Fleet]:
    fleet = Fleet(folder, ledger, environment)
    try:
        for number in range(WORKERS):
            fleet.start(number)
        yield fleet
    finally:
        fleet.end()


def crash_many(
    folder: Path, postgres: PrivatePostgres, members: int, kills: int, restart_at: int, seed: int
) -> Aftermath:
    """Provision members, half of them twice, by four workers; kill one so often, and restart the database once."""
    random = Random(seed)
    refs = [f"order-{number}" for number in range(members)]
    wishes = [(ref, number + 1) for number, ref in enumerate(refs)]
    wishes += random.sample(wishes, members // 2)
    random.shuffle(wishes)
    service = FakeService(
        faults=[
            Fault("throttled", probability=0.03, retry_after=0.01),
            Fault("error", when="after", probability=0.01),
        ],
        seed=seed,
    )
    resets = Trouble("reset", when="reply", probability=0.01)
    with serve(service) as server, ChaosProxy(server.url, [resets], seed=seed) as proxy:
        environment = {**server.env(), "TGMEMBERSHIP_BASE_URL": proxy.url, "NO_PROXY": "*"}
        for number in range(WORKERS):
            rows = "".join(f"{ref},{member}\n" for ref, member in wishes[number::WORKERS])
            (folder / f"members-{number}.csv").write_text("ref,member_id\n" + rows)
        with _fleet(folder, postgres.url, environment) as fleet:
            for kill in range(kills):
                # A little later than when its share was sent, so that kills come at all moments of an exchange.
                _wait_until_sent(service, fleet, random.uniform(kill + 0.5, kill + 1.5) * members / (kills + 2))
                time.sleep(random.uniform(0, 0.02))
                if kill == restart_at:
                    postgres.restart()
                    # Who dies before it could come back passes for alive as long as a lease, and is waited for.
                    time.sleep(_COMING_BACK_TAKES)
                fleet.kill(random.choice(fleet.alive() or list(fleet.workers)))
            fleet.finish()
        struck = Counter(label for request in service.requests for label in request.faults)
        return Aftermath(
            refs=refs,
            grants={grant.ref: grant for grant in anyio.run(_rows, postgres.url)},
            audit=service.audit,
            kills=kills,
            replies_destroyed=struck[_REPLY_DESTROYED] + proxy.replies_destroyed,
            exit_code=max(fleet.exit_codes.values()),
        )


def _wait_until_sent(service: FakeService, fleet: Fleet, requests: float) -> None:
    end = time.monotonic() + _PATIENCE
    while service.count_requests() < requests and fleet.alive() and time.monotonic() < end:
        time.sleep(0.005)


async def _rows(url: str) -> list[Grant]:
    async with PostgresLedger(url) as ledger:
        return [grant async for grant in ledger.grants()]
