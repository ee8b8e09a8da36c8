"""Members are granted through a gateway while our process is killed and the gateway is reloaded; all is counted."""

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
from attrs import evolve, field, frozen
from command_line import ENVIRONMENT
from figures import record
from forked import Forked
from gateways.service import Event, Service

from tgmembership_async.grants import Grant, GrantStatus, PostgresLedger, SqliteLedger

WORKER = Path(__file__).parent / "worker.py"
PLANNED_LEFT = 1
_PATIENCE = 120.0
_MOST_RUNS = 5
_KILLED = "the process that sent it died"
_ENDS = frozenset({GrantStatus.GRANTED, GrantStatus.UNKNOWN, GrantStatus.REFUSED})


@frozen
class Figures:
    """What came of a scenario, in members.

    `unknown` are held for a decision; `unarrived` are those of them that no kill explains and whose request never
    arrived at the service. `twice` were granted by more than one request of ours, `twice_by_gateway` by one that the
    gateway repeated, `lost` are in no final state, and `in_vain` are granted in the ledger but not by the service.
    """

    scenario: str
    members: int
    kills: int
    reloads: int
    granted: int
    unknown: int
    unarrived: int
    twice: int
    twice_by_gateway: int
    lost: int
    in_vain: int
    seconds: float
    reasons: dict[str, int] = field(factory=dict)

    def record(self) -> None:
        """Add a row to the recorded figures of the suite."""
        row: dict[str, str | float | None] = {
            "gateway": self.scenario,
            "members": self.members,
            "kills": self.kills,
            "reloads": self.reloads,
            "held as unknown": self.unknown,
            "of these never arrived": self.unarrived,
            "granted twice": self.twice,
            "granted twice by the gateway": self.twice_by_gateway,
            "lost": self.lost,
        }
        record("gateways", "members granted through real gateways", row)


@frozen
class Row:
    """A row of the ledger, and the evidence of its last attempt where that is unknown."""

    grant: Grant
    evidence: str


@frozen
class Scenario:
    """`settings` go to the worker: way, options, proxy, authority."""

    name: str
    settings: dict[str, Any]
    members: int = 1000
    kills: int = 3
    reloads: int = 12
    seed: int = 1

    def run(self, folder: Path, service: Service, base_url: str, ledger: str, reload: Callable[[], None]) -> Figures:
        """Grant them all, with kills and reloads spread over the run in a random order, and count."""
        progress = folder / "progress"
        progress.touch()
        settings = {"base_url": base_url, "ledger": ledger, "progress": str(progress), "members": self.members}
        troubles = ["kill"] * self.kills + ["reload"] * self.reloads
        Random(self.seed).shuffle(troubles)
        done: Counter[str] = Counter()
        began = time.monotonic()
        with workers(folder, {**settings, **self.settings}) as fleet:
            for number, trouble in enumerate(troubles, start=1):
                fleet.wait_until_lines(progress, self.members * number // (len(troubles) + 1))
                if fleet.worker.poll() is not None:
                    break
                done[trouble] += 1
                if trouble == "kill":
                    fleet.kill()
                else:
                    reload()
            fleet.finish()
        rows = anyio.run(read, ledger)
        counted = count(self.name, self.members, rows, service.events())
        took = round(time.monotonic() - began, 1)
        return evolve(counted, kills=done["kill"], reloads=done["reload"], seconds=took)


class Fleet:
    """One worker at a time."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._command = [sys.executable, str(WORKER), json.dumps(settings)]
        self.worker = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with (self._folder / "stderr").open("ab") as stderr:
            return Forked(self._command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=ENVIRONMENT)

    def kill(self) -> None:
        """Kill it, and start the same run again."""
        self.worker.kill()
        self.worker.wait()
        self.worker = self._start()

    def wait_until_lines(self, path: Path, number: int) -> None:
        """Wait until a file has so many lines, or until the worker has ended."""
        end = time.monotonic() + _PATIENCE
        while path.read_bytes().count(b"\n") < number and self.worker.poll() is None:
            assert time.monotonic() < end, "the run makes no progress"
            time.sleep(0.003)

    def finish(self) -> None:
        """Run it to its end, and again while some are still planned."""
        for _ in range(_MOST_RUNS):
            if (code := self.worker.wait(_PATIENCE)) != PLANNED_LEFT:
                break
            self.worker = self._start()
        assert code == 0, (self._folder / "stderr").read_text()[-3000:]


@contextmanager
def workers(folder: Path, settings: dict[str, Any]) -> Generator[Fleet]:
    fleet = Fleet(folder, settings)
    try:
        yield fleet
    finally:
        fleet.worker.kill()
        fleet.worker.wait()


async def read(ledger: str) -> dict[int, Row]:
    """Return the rows of a ledger by member."""
    kept = PostgresLedger(ledger) if ledger.startswith("postgresql:") else SqliteLedger(ledger, owner=False)
    async with kept:
        grants = [grant async for grant in kept.grants()]
        held = {grant.ref for grant in grants if grant.status is GrantStatus.UNKNOWN}
        evidence = {ref: (await kept.attempts(ref))[-1].evidence for ref in held}
    return {grant.member_id or 0: Row(grant, evidence.get(grant.ref, "")) for grant in grants}


def count(name: str, members: int, rows: dict[int, Row], events: list[Event]) -> Figures:
    """Compare the ledger with the service's audit."""
    arrived = {event.member for event in events if event.name == "arrived"}
    effects: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if event.name == "acted":
            effects[event.member].append(event.mark)
    granted = {member for member, row in rows.items() if row.grant.status is GrantStatus.GRANTED}
    unknown = [row for row in rows.values() if row.grant.status is GrantStatus.UNKNOWN]
    unexplained = [
        row for row in unknown if row.grant.member_id not in arrived and not row.evidence.startswith(_KILLED)
    ]
    return Figures(
        scenario=name,
        members=members,
        kills=0,
        reloads=0,
        granted=len(granted),
        unknown=len(unknown),
        unarrived=len(unexplained),
        twice=sum(len(set(marks)) > 1 for marks in effects.values()),
        twice_by_gateway=sum(len(marks) > len(set(marks)) for marks in effects.values()),
        lost=sum(member not in rows or rows[member].grant.status not in _ENDS for member in range(1, members + 1)),
        in_vain=len(granted - effects.keys()),
        seconds=0,
        reasons=dict(Counter(row.evidence for row in unknown)),
    )
