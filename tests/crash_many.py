"""Run several provisioning workers on one PostgreSQL, and kill each of them repeatedly."""

import signal
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from subprocess import DEVNULL, Popen

import anyio
import psycopg
from attrs import field, mutable
from command_line import COMMAND, ENVIRONMENT
from crash_run import CONCURRENCY, MOST_RUNS, PLAN_ID, UNFINISHED, Aftermath, destroyed
from forked import Forked
from private_postgres import PrivatePostgres

from tgmembership_async.grants import Grant, PostgresLedger
from tgmembership_async.testing import ChaosProxy, FakeService, Fault, Trouble, serve

WORKERS = 4
_PATIENCE = 600.0
_COMING_BACK_TAKES = 0.5
_STARTED_AGAIN = (UNFINISHED, 2)  # 2: the server only read when it was opened, and nothing was sent
_STOPPED_FOR = 3.0  # longer than a claim is believed, and shorter than a lease
_READ_ONLY_FOR = 1.0


@mutable
class Fleet:
    """Worker processes, each with its own file of members; a worker that exits early is restarted."""

    folder: Path
    ledger: str
    environment: dict[str, str]
    workers: dict[int, "Popen[bytes]"] = field(factory=dict)
    exit_codes: dict[int, int] = field(factory=dict)
    runs: Counter[int] = field(factory=Counter)

    def start(self, number: int) -> None:
        options = {"--plan-id": PLAN_ID, "--concurrency": CONCURRENCY, "--attempts": 8}
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
                env={**ENVIRONMENT, **self.environment, "TGMEMBERSHIP_LEDGER": self.ledger},
            )

    def file(self, number: int) -> Path:
        return self.folder / f"members-{number}.csv"

    def kill(self, number: int) -> None:
        """Kill a worker with SIGKILL, and restart it, as a service manager would."""
        worker = self.workers[number]
        worker.kill()
        worker.wait()
        self.start(number)

    def alive(self) -> list[int]:
        return [number for number, worker in self.workers.items() if worker.poll() is None]

    def finish(self) -> None:
        """Wait until all workers finish, restarting those whose budget was empty or whose database was down."""
        for number in self.workers:
            for _ in range(MOST_RUNS):
                self.exit_codes[number] = self.workers[number].wait(_PATIENCE)
                if self.exit_codes[number] not in _STARTED_AGAIN:
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
    folder: Path,
    postgres: PrivatePostgres,
    members: int,
    kills: int,
    restart_at: int,
    seed: int,
    *,
    troubled: bool = False,
) -> Aftermath:
    """Provision members, half of them twice, by four workers; kill one so often, and restart the database once.

    `troubled`: three of four kills come with another trouble, one of `_TROUBLES` in turn.
    """
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
                # Kill a little after its share was sent, so that kills happen at all points of an exchange.
                _wait_until_sent(service, fleet, random.uniform(kill + 0.5, kill + 1.5) * members / (kills + 2))
                time.sleep(random.uniform(0, 0.02))
                if kill == restart_at:
                    postgres.restart()
                    # A worker that dies before it reconnects counts as alive until its lease ends.
                    time.sleep(_COMING_BACK_TAKES)
                elif troubled and kill % 4:
                    _TROUBLES[kill % 4 - 1](fleet, postgres, random)
                fleet.kill(random.choice(fleet.alive() or list(fleet.workers)))
            fleet.finish()
        return Aftermath(
            refs=refs,
            grants={grant.ref: grant for grant in anyio.run(_rows, postgres.url)},
            audit=service.audit,
            kills=kills,
            replies_destroyed=destroyed(service, proxy),
            exit_code=max(fleet.exit_codes.values(), key=lambda code: (code in _STARTED_AGAIN, code)),
        )


def _terminate_backends(_: Fleet, postgres: PrivatePostgres, __: Random) -> None:
    """End every connection of every worker."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tgmembership-async'"
        )


def _fail_over(_: Fleet, postgres: PrivatePostgres, __: Random) -> None:
    """Let the server only read for a while, as one that was demoted."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        time.sleep(_READ_ONLY_FOR)
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")


def _stop_and_go_on(fleet: Fleet, _: PrivatePostgres, random: Random) -> None:
    """Stop a worker with SIGSTOP, and let it go on."""
    worker = fleet.workers[random.choice(list(fleet.workers))]
    worker.send_signal(signal.SIGSTOP)
    time.sleep(_STOPPED_FOR)
    worker.send_signal(signal.SIGCONT)


_TROUBLES = (_terminate_backends, _fail_over, _stop_and_go_on)


def _wait_until_sent(service: FakeService, fleet: Fleet, requests: float) -> None:
    end = time.monotonic() + _PATIENCE
    while service.count_requests() < requests and fleet.alive() and time.monotonic() < end:
        time.sleep(0.005)


async def _rows(url: str) -> list[Grant]:
    async with PostgresLedger(url) as ledger:
        return [grant async for grant in ledger.grants()]
