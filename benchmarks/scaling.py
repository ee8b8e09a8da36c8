"""Estimate the size and the throughput of a ledger on PostgreSQL, up to 100 million members and 1,000 workers.

    python benchmarks/scaling.py [--quick] [--write docs/scaling.md]

The program measures on the server of TGM_POSTGRES: bytes per row of tables with the updates of a ledger, the time of
transactions, their log, and the cost of a heartbeat. From these it computes sizes and simulates fleets. `--write`
writes the tables into a page, between the comments that name them.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import psycopg
from attrs import evolve
from postgres import about, own_schema
from scaling_measure import Costs, costs, live, prepare, sign_of_life, sizes
from scaling_model import Database, Fleet, Outcome, paper, simulate

from tgmembership_async.storage.postgres.database import LANES
from tgmembership_async.storage.postgres.liveness import LEASE

MEMBERS = (1e5, 1e6, 1e7, 1e8)
WORKERS = (1, 2, 4, 10, 32, 100, 320, 1_000)
CORES, FLUSH = 16, 0.001
CALL = 0.0005  # seconds of CPU per exchange, measured by `benchmarks/call.py`
BEAT = LEASE / 3
DAY = 86_400
Rows = Iterable[Iterable[object]]


def table(heads: str, rows: Rows) -> str:
    """Return a Markdown table; all columns but the first are numbers."""
    names = heads.split(" | ")
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def size(number: float) -> str:
    """Return a number of bytes as text with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1_000
    return f"{number:.3g} TB"


def span(seconds: float) -> str:
    """Return a number of seconds as text with a unit."""
    for unit, length in (("days", DAY), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def row_table(at: dict[int, dict[str, int]]) -> str:
    """Return bytes per member of each table and index, at each measured number of rows."""
    names = [name for name, _ in sorted(at[max(at)].items(), key=lambda pair: -pair[1]) if at[max(at)][name] > max(at)]
    rows = [(f"`{name}`", *(f"{found[name] / count:.0f}" for count, found in at.items())) for name in names]
    totals = ("together", *(f"{sum(found[name] for name in names) / count:,.0f}" for count, found in at.items()))
    return table(" | ".join(("bytes per member", *(f"{count:,} rows" for count in at))), [*rows, totals])


def size_table(per_row: dict[str, float], cost: Costs) -> str:
    """Return the sizes for each number of members."""

    def one(members: float) -> Iterable[str]:
        grants, attempts = per_row["tgm_grants"], per_row["tgm_attempt"]
        indexes = sum(per_row.values()) - grants - attempts
        yield f"{members:,.0f}"
        yield from (size(members * part) for part in (grants, attempts, indexes, sum(per_row.values())))
        yield size(members * hot_index(per_row))
        yield size(members * cost.log)

    heads = "members | grants | attempts | their indexes | together | of these always hot | log written"
    return table(heads, map(one, MEMBERS))


def hot_index(per_row: dict[str, float]) -> float:
    """Return the bytes per row of the index of refs, which claims read at random positions."""
    return max((size for name, size in per_row.items() if "ref" in name), default=0.0)


def cost_table(cost: Costs, lives: dict[int, float]) -> str:
    """Return the measured costs of transactions and heartbeats."""
    rows = [
        ("transactions for a member: claim, settle", "2"),
        ("claim, as a worker sees it, 16 at a time", f"{1e3 * cost.claim:.1f} ms"),
        ("settle, likewise", f"{1e3 * cost.settle:.1f} ms"),
        ("CPU of a worker for a member, without the exchange", f"{1e6 * cost.worker:.0f} µs"),
        ("CPU of the server for a transaction", f"{1e6 * cost.cpu:.0f} µs"),
        ("flush of the log", f"{1e3 * cost.flush:.2f} ms"),
        ("log written for a member", size(cost.log)),
        *((f"one sign of life, {count:,} workers living", f"{1e3 * took:.1f} ms") for count, took in lives.items()),
    ]
    return table("measured | ", rows)


def fleet_table(fleet: Fleet, database: Database, lives: dict[int, float], log: float) -> str:
    """Return the throughput of fleets of each size."""
    return table(
        "workers | connections | members/s | on paper | cores busy | signs of life, cores | log | 100 million take",
        (fleet_row(evolve(fleet, workers=workers), database, lives, log) for workers in WORKERS),
    )


def fleet_row(fleet: Fleet, database: Database, lives: dict[int, float], log: float) -> Iterable[str]:
    """Return the row of a fleet."""
    beats = beats_of(fleet.workers, lives)
    found = simulate(fleet, left(database, beats))
    yield f"{fleet.workers:,}"
    yield f"{fleet.workers * (LANES + 1):,}"
    yield f"{found.rate:,.0f}"
    yield bound_of(fleet, left(database, beats))
    yield f"{found.busy:.0%}"
    yield f"{beats:.2f}"
    yield f"{size(found.rate * log)}/s"
    yield span(1e8 / found.rate)


def beats_of(workers: int, lives: dict[int, float]) -> float:
    """Return the cores used by heartbeats, interpolated linearly between the measurements."""
    (low, took), (high, longer) = min(lives.items()), max(lives.items())
    each = took + (longer - took) * max(0, workers - low) / (high - low)
    return workers / BEAT * each


def left(database: Database, beats: float) -> Database:
    """Return the server with the cores that heartbeats leave for transactions."""
    share = max(0.02, 1 - beats / database.cores)
    return evolve(database, cpu=database.cpu / share)


def bound_of(fleet: Fleet, database: Database) -> str:
    """Return the smallest of the calculated bounds."""
    part, rate = min(paper(fleet, database).items(), key=lambda pair: pair[1])
    return f"{rate:,.0f} ({part})"


def change_table(many: Fleet, database: Database, lives: dict[int, float]) -> str:
    """Return the throughput with one parameter changed at a time."""
    cases: list[tuple[str, Fleet, Database]] = [
        ("as above", many, database),
        ("the service allows 30 a second", evolve(many, rate=30.0), database),
        ("the service takes 1 s", evolve(many, latency=1.0), database),
        ("4 cores", many, evolve(database, cores=4)),
        ("a flush takes 10 ms", many, evolve(database, flush=0.010)),
        ("one connection for each worker", evolve(many, pool=1), database),
        ("100 workers with 80 in flight each", evolve(many, workers=100, in_flight=80), database),
        ("100 workers, 80 in flight, 64 cores", evolve(many, workers=100, in_flight=80), evolve(database, cores=64)),
    ]

    def one(name: str, fleet: Fleet, server: Database) -> Iterable[str]:
        beats = beats_of(fleet.workers, lives)
        found: Outcome = simulate(fleet, left(server, beats))
        yield name
        yield f"{found.rate:,.0f}"
        yield f"{found.busy:.0%}"
        yield bound_of(fleet, left(server, beats))
        yield span(1e8 / found.rate)

    return table(
        "a thousand workers | members/s | cores busy | on paper | 100 million take",
        (one(*case) for case in cases),
    )


def write(page: Path, tables: dict[str, str]) -> None:
    """Write each table between the comments with its name."""
    text = page.read_text(encoding="utf-8")
    for name, found in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, found=found: f"{match[1]}\n{found}\n\n{match[2]}", text)  # type: ignore[misc]
        assert count == 1, f"{page} has no comments for {name}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, compute and print; with `--write`, also write the page."""
    quick = "--quick" in sys.argv
    steps = (20_000, 50_000) if quick else (100_000, 1_000_000)
    at: dict[int, dict[str, int]] = {}
    with own_schema("this benchmark") as url:
        print(about(url), flush=True)
        prepare(url)
        with psycopg.connect(url, autocommit=True) as connection:
            for before, rows in zip((0, *steps), steps, strict=False):
                live(connection, before, rows)
                at[rows] = sizes(connection)
        cost = costs(url, 800 if quick else 4_000)
        lives = {workers: sign_of_life(url, workers) for workers in (10, 100, 1_000)}
        server = about(url)
    per_row = {name: count / steps[-1] for name, count in at[steps[-1]].items() if count > steps[-1]}
    fleet = Fleet(1_000, pool=LANES, cpu=CALL + cost.worker)
    database = Database(cores=CORES, cpu=cost.cpu, flush=FLUSH)
    tables = {
        "server": f"{server}.",
        "rows": row_table(at),
        "costs": cost_table(cost, lives),
        "sizes": size_table(per_row, cost),
        "fleets": fleet_table(fleet, database, lives, cost.log),
        "changes": change_table(fleet, database, lives),
    }
    for found in tables.values():
        print(f"\n{found}", flush=True)
    if "--write" in sys.argv:
        write(Path(sys.argv[sys.argv.index("--write") + 1]), tables)


if __name__ == "__main__":
    main()
