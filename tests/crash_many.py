"""Run several provisioning workers on one PostgreSQL, and kill each of them repeatedly."""

import signal
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from subprocess import Popen

import psycopg
from attrs import field, mutable
from crash_run import MOST_RUNS, UNFINISHED, Aftermath, Shop, shop
from private_postgres import PrivatePostgres

from tgmembership_async.grants import PostgresLedger
from tgmembership_async.testing import FakeService

WORKERS = 4
_PATIENCE = 600.0
_COMING_BACK_TAKES = 0.5
_STOPPED_FOR = 3.0  # longer than a claim is believed, and shorter than a lease
_READ_ONLY_FOR = 1.0


@mutable
class Fleet:
    """Worker processes, each with its own file of members; a worker that exits early is restarted."""

    folder: Path
    ledger: str
    shop: Shop
    workers: dict[int, Popen[bytes]] = field(factory=dict)
    exit_codes: dict[int, int] = field(factory=dict)
    runs: Counter[int] = field(factory=Counter)

    def start(self, number: int) -> None:
        self.workers[number] = self.shop.worker(self.folder, self.file(number), self.ledger)

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
                if self.exit_codes[number] != UNFINISHED:
                    break
                self.start(number)

    def end(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()


@contextmanager
def _fleet(folder: Path, ledger: str, market: Shop) -> Generator[Fleet]:
    fleet = Fleet(folder, ledger, market)
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
    via: str | None = None,
) -> Aftermath:
    """Provision members, half of them twice, by four workers; kill one so often, and restart the database once.

    `troubled`: three of four kills come with another trouble, one of `_TROUBLES` in turn. `via` is the URL of a pooler,
    which the workers use.
    """
    random = Random(seed)
    refs = [f"order-{number}" for number in range(members)]
    wishes = [(ref, number + 1) for number, ref in enumerate(refs)]
    wishes += random.sample(wishes, members // 2)
    random.shuffle(wishes)
    with shop(seed, throttled=0.03, failed=0.01, reset=0.01) as market:
        for number in range(WORKERS):
            rows = "".join(f"{ref},{member}\n" for ref, member in wishes[number::WORKERS])
            (folder / f"members-{number}.csv").write_text("ref,member_id\n" + rows)
        with _fleet(folder, via or postgres.url, market) as fleet:
            for kill in range(kills):
                # Kill a little after its share was sent, so that kills happen at all points of an exchange.
                _wait_until_sent(market.service, fleet, random.uniform(kill + 0.5, kill + 1.5) * members / (kills + 2))
                time.sleep(random.uniform(0, 0.02))
                if kill == restart_at:
                    postgres.restart()
                    # A worker that dies before it reconnects counts as alive until its lease ends.
                    time.sleep(_COMING_BACK_TAKES)
                elif troubled and kill % 4:
                    _TROUBLES[kill % 4 - 1](fleet, postgres, random)
                fleet.kill(random.choice(fleet.alive() or list(fleet.workers)))
            fleet.finish()
        exit_code = max(fleet.exit_codes.values(), key=lambda code: (code == UNFINISHED, code))
        return market.aftermath(refs, PostgresLedger(postgres.url), kills, exit_code)


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
