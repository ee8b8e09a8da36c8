"""Simulate a fleet of workers, a service and one PostgreSQL server, and calculate bounds of the throughput.

Each member in flight passes these stages: the worker computes on its one core; claim, a transaction; the exchange with
the service; settle, a transaction. A transaction needs a connection of its worker's pool, then a core of the server,
then a flush of the log, which all waiting transactions share. The costs are parameters; nothing is measured here.
"""

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

from attrs import frozen

STAGES = ("worker", "connection", "core", "flush", "gate", "service")
_LEAST, _MOST = 6_000, 150_000


@frozen
class Database:
    """A server: its cores, and seconds for one transaction on a core and for one flush of the log."""

    cores: int
    cpu: float
    flush: float


@frozen
class Fleet:
    """Workers, members in flight and connections per worker, and the service's seconds per exchange (`latency`).

    `cpu` is the worker's seconds of CPU per member. `rate` is the service's limit in exchanges per second, or None;
    whether the service limits bots is not documented.
    """

    workers: int
    in_flight: int = 8
    pool: int = 4
    cpu: float = 0.001
    latency: float = 0.2
    rate: float | None = None


@frozen
class Outcome:
    """Members per second, the load of the cores (0 to 1), and the seconds per member at each of STAGES."""

    rate: float
    busy: float
    seconds: dict[str, float]


def paper(fleet: Fleet, database: Database) -> dict[str, float]:
    """Return the members per second that each part alone would allow; the smallest is a bound."""
    transaction = database.cpu + 1.5 * database.flush
    bounds = {
        "service": fleet.workers * fleet.in_flight / (fleet.cpu + fleet.latency + 2 * transaction),
        "worker": fleet.workers / fleet.cpu,
        "core": database.cores / (2 * database.cpu),
        "connection": fleet.workers * fleet.pool / (2 * transaction),
    }
    return bounds if fleet.rate is None else bounds | {"gate": fleet.rate}


def simulate(fleet: Fleet, database: Database, *, rounds: int = 6, seed: int = 0) -> Outcome:
    """Simulate `rounds` members (on average) for every slot of the fleet; the first third is a discarded warm-up."""
    return _Simulation(fleet, database, seed).run(max(_LEAST, min(_MOST, rounds * fleet.workers * fleet.in_flight)))


class _Simulation:
    """Events in a heap, queues in deques; a member is an index, and its next step a function."""

    def __init__(self, fleet: Fleet, database: Database, seed: int) -> None:
        self.fleet, self.database = fleet, database
        self.random = Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[int], None], int]] = []
        self.number = 0
        self.computing = [0.0] * fleet.workers
        self.connections = [fleet.pool] * fleet.workers
        self.wanting: list[deque[int]] = [deque() for _ in range(fleet.workers)]
        self.cores, self.runnable = database.cores, deque[int]()
        self.flushing, self.committing = False, list[int]()
        self.gate = 0.0
        places = fleet.workers * fleet.in_flight
        self.settling = [False] * places
        self.since = [0.0] * places
        self.spent = dict.fromkeys(STAGES, 0.0)
        self.used = 0.0
        self.done = 0

    def run(self, members: int) -> Outcome:
        """Return the outcome of the last two thirds of the members."""
        for place in range(len(self.since)):
            # Spread the starts: workers do not start in the same microsecond.
            self.at(self.random.uniform(0, self.fleet.latency), self.start, place)
        warm = members // 3
        start, used, spent = 0.0, 0.0, dict(self.spent)
        while self.done < members:
            self.now, _, what, place = heapq.heappop(self.events)
            what(place)
            if not start and self.done >= warm:
                start, used, spent = self.now, self.used, dict(self.spent)
        seconds, counted = self.now - start, members - warm
        return Outcome(
            rate=counted / seconds,
            busy=(self.used - used) / seconds / self.database.cores,
            seconds={stage: (self.spent[stage] - spent[stage]) / counted for stage in STAGES},
        )

    def at(self, after: float, what: Callable[[int], None], place: int) -> None:
        """Schedule a step `after` seconds from now."""
        self.number += 1
        heapq.heappush(self.events, (self.now + after, self.number, what, place))

    def passed(self, stage: str, place: int) -> None:
        """Add the time since the last call to the stage."""
        self.spent[stage] += self.now - self.since[place]
        self.since[place] = self.now

    def start(self, place: int) -> None:
        """Take the next member, and compute after the worker's earlier members."""
        self.since[place] = self.now
        worker = place // self.fleet.in_flight
        self.computing[worker] = max(self.computing[worker], self.now) + self.fleet.cpu
        self.at(self.computing[worker] - self.now, self.begin, place)

    def begin(self, place: int) -> None:
        """Acquire a connection of the worker's pool, or wait for one."""
        self.passed("service" if self.settling[place] else "worker", place)
        worker = place // self.fleet.in_flight
        if self.connections[worker]:
            self.connections[worker] -= 1
            self.connected(place)
        else:
            self.wanting[worker].append(place)

    def connected(self, place: int) -> None:
        """Acquire a core, or wait for one."""
        self.passed("connection", place)
        if self.cores:
            self.cores -= 1
            self.compute(place)
        else:
            self.runnable.append(place)

    def compute(self, place: int) -> None:
        """Use the core."""
        self.used += self.database.cpu
        self.at(self.database.cpu, self.computed, place)

    def computed(self, place: int) -> None:
        """Release the core, and wait for the next flush."""
        self.passed("core", place)
        if self.runnable:
            self.compute(self.runnable.popleft())
        else:
            self.cores += 1
        self.committing.append(place)
        if not self.flushing:
            self.flush()

    def flush(self) -> None:
        """Start one flush of the log for all waiting transactions."""
        self.flushing = True
        together, self.committing = self.committing, []
        for place in together[:-1]:
            self.at(self.database.flush, self.committed, place)
        self.at(self.database.flush, self.flushed, together[-1])

    def flushed(self, place: int) -> None:
        """End a flush, and start the next one if transactions are waiting."""
        self.flushing = False
        self.committed(place)
        if self.committing and not self.flushing:
            self.flush()

    def committed(self, place: int) -> None:
        """Release the connection; continue with the service, or with the next member."""
        self.passed("flush", place)
        worker = place // self.fleet.in_flight
        if self.wanting[worker]:
            self.connected(self.wanting[worker].popleft())
        else:
            self.connections[worker] += 1
        self.settling[place] = not self.settling[place]
        if self.settling[place]:
            self.ask(place)
        else:
            self.done += 1
            self.start(place)

    def ask(self, place: int) -> None:
        """Wait for the rate limit, if there is one."""
        if self.fleet.rate is None:
            self.send(place)
            return
        self.gate = max(self.gate, self.now) + 1 / self.fleet.rate
        self.at(self.gate - self.now, self.send, place)

    def send(self, place: int) -> None:
        """Send to the service: half of the latency is constant, the other half exponentially distributed."""
        self.passed("gate", place)
        half = self.fleet.latency / 2
        self.at(half + self.random.expovariate(1 / half), self.begin, place)
