"""Measure 1, 2 and 4 workers on one PostgreSQL server: members per second, compared to empty procrastinate jobs.

    python benchmarks/many.py [--quick] [--write docs/scaling.md]

Each worker is a process, and so is the service, which answers after 5 ms. "provision" is `Granter.provision` on a
PostgresLedger, with an equal share of the members for each worker. "as jobs" is the same members as procrastinate jobs,
shared by all workers. "nothing" is jobs whose task returns at once: the cost of the job queue alone.
"""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from server import server

KINDS = ("provision", "as jobs", "nothing")
WORKERS = (1, 2, 4)
DELAY = 0.005
HEADS = "workers | provision | to 1 worker | as jobs | jobs of nothing | provision / nothing | as jobs / nothing"


def run(database: str, service: str, kind: str, workers: int, members: int) -> float:
    """Return the members or jobs per second of all workers together."""
    from many_worker import enqueue  # noqa: PLC0415 - needs procrastinate

    if kind != "provision":
        asyncio.run(enqueue(database, kind, members))
    command = [sys.executable, __file__, "--work", kind, database, service, str(members // workers)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(workers)
        ]
        pipes = [(process.stdin, process.stdout) for process in started if process.stdin and process.stdout]
        assert all(stdout.readline() == "ready\n" for _, stdout in pipes)
        began = time.perf_counter()
        for stdin, _ in pipes:
            stdin.write("go\n")
            stdin.flush()
        assert all(stdout.readline() == "done\n" for _, stdout in pipes)
        return members / (time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    if find_spec("procrastinate") is None:
        print("skipped: this benchmark needs procrastinate: run pip install '.[procrastinate]' in the clone")
        return
    if "--work" in sys.argv:
        from many_worker import work  # noqa: PLC0415 - needs procrastinate

        kind, database, service, share = sys.argv[sys.argv.index("--work") + 1 :]
        asyncio.run(work(kind, database, service, int(share)))
        return
    from postgres import about, own_schema  # noqa: PLC0415 - likewise
    from scaling import write  # noqa: PLC0415 - likewise

    members, rounds = (400, 1) if "--quick" in sys.argv else (2_000, 3)
    rates: dict[tuple[str, int], list[float]] = {}
    with own_schema("this benchmark") as database, server(DELAY) as service:
        print(
            f"{about(database)}, procrastinate {version('procrastinate')}; {os.cpu_count()} cores for all processes\n"
        )
        for _ in range(rounds):
            for workers in WORKERS:
                for kind in KINDS:
                    rates.setdefault((kind, workers), []).append(run(database, service, kind, workers, members))
    lines = [
        f"{members:,} members, 16 at a time in each worker, {1e3 * DELAY:g} ms service; members or jobs a second:",
        f"\n| {HEADS} |\n|{' ---: |' * len(HEADS.split(' | '))}",
    ]
    alone = median(rates["provision", 1])
    for workers in WORKERS:
        direct, grants, nothing = (median(rates[kind, workers]) for kind in KINDS)
        rate = f"{direct:,.0f} | {direct / alone:.2f} | {grants:,.0f} | {nothing:,.0f}"
        lines.append(f"| {workers} | {rate} | {direct / nothing:.2f} | {grants / nothing:.2f} |")
    print("\n".join(lines))
    if "--write" in sys.argv:
        write(Path(sys.argv[sys.argv.index("--write") + 1]), {"many": "\n".join(lines)})


if __name__ == "__main__":
    main()
