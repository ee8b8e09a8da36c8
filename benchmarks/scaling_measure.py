"""Measure a ledger on PostgreSQL: bytes per row, transactions, their log, and heartbeats."""

import asyncio
import time
from statistics import median
from typing import Any

import psycopg
from attrs import frozen
from postgres import cpu_of_backends

from tgmembership_async.grants import GrantRequest, GrantStatus, PostgresLedger, Settlement
from tgmembership_async.grants.model import dump_token
from tgmembership_async.grants.postgres.statements import abandoned
from tgmembership_async.storage.postgres.liveness import ALIVE
from tgmembership_async.values.models import AccessToken

BATCH = 20_000
AT_ONCE = 16
_LINK = "https://t.me/my_shop_bot?start="
_ID = "left(md5(number::text), 24)"
# Payment ids and tokens are random letters, so that the indexes fill as in production.
_LIFE = (
    f"""
    INSERT INTO tgm_grants (ref, plan_id, member_id, note, status, attempts, updated_at, worker, claim)
    SELECT 'stripe:pi_' || {_ID}, 1 + number %% 4, 4200000000 + number, '', 'sending', 1, now(), 1, number
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
    """,
    """
    INSERT INTO tgm_attempt (grant_id, number, began_at)
    SELECT id, 1, updated_at FROM tgm_grants WHERE id BETWEEN %(first)s AND %(last)s
    """,
    """
    UPDATE tgm_grants SET status = 'granted', updated_at = now(), token = replace(%(token)s, '@', left(md5(ref), 24))
    WHERE id BETWEEN %(first)s AND %(last)s
    """,
    """
    UPDATE tgm_attempt SET ended_at = now(), status = 'granted', evidence = 'ok: true'
    WHERE grant_id BETWEEN %(first)s AND %(last)s
    """,
    "UPDATE tgm_grants SET status = 'delivered', updated_at = now() WHERE id BETWEEN %(first)s AND %(last)s",
)
_SIZES = """
    SELECT c.relname, c.relkind FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'i')
"""
_SIZE = "SELECT CASE WHEN relkind = 'r' THEN pg_table_size(oid) ELSE pg_relation_size(oid) END FROM pg_class"
_SHARE_OF_DEAD = 0.2  # autovacuum's default threshold


@frozen
class Costs:
    """Costs in seconds: CPU of the server per transaction, one flush of its log, `claim` and `settle` with waiting.

    `log` is the bytes of log per member, and `worker` the worker's CPU per member without the exchange.
    """

    cpu: float
    worker: float
    flush: float
    log: float
    claim: float
    settle: float


def prepare(url: str) -> None:
    """Create the tables by opening a ledger."""

    async def make() -> None:
        async with PostgresLedger(url):
            pass

    asyncio.run(make())


def live(connection: psycopg.Connection[Any], first: int, last: int) -> None:
    """Claim, grant and deliver rows, and vacuum as often as autovacuum would."""
    token = AccessToken("@", f"{_LINK}@", {"access_token": "@", "link": f"{_LINK}@"})
    dead = dict.fromkeys(("tgm_grants", "tgm_attempt"), 0)
    for begin in range(first, last, BATCH):
        end = min(begin + BATCH, last)
        for statement in _LIFE:
            values = {"first": begin + 1, "last": end, "token": dump_token(token)}
            connection.execute(statement.encode(), values)
        dead["tgm_grants"] += 2 * (end - begin)
        dead["tgm_attempt"] += end - begin
        for table, rows in dead.items():
            if rows > _SHARE_OF_DEAD * end:
                connection.execute(f"VACUUM {table}".encode())
                dead[table] = 0


def sizes(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Return the bytes of each table (without its indexes) and of each index."""
    found = connection.execute(_SIZES).fetchall()
    return {
        name: (connection.execute(f"{_SIZE} WHERE oid = %s::regclass".encode(), (name,)).fetchone() or (0,))[0]
        for name, _ in found
    }


def costs(url: str, members: int) -> Costs:
    """Return the costs of claiming and settling, with the existing rows."""
    rounds = [asyncio.run(_some(url, number, members // 4)) for number in range(4)]
    cpu = [one["cpu"] for one in rounds if one["cpu"] is not None]
    return Costs(
        cpu=median(cpu) if cpu else min(one["claim"] for one in rounds),
        worker=median(one["worker"] for one in rounds),
        flush=_flush(url),
        log=min(one["log"] for one in rounds),  # other clients of the server write to the same log
        claim=median(one["claim"] for one in rounds),
        settle=median(one["settle"] for one in rounds),
    )


async def _some(url: str, number: int, members: int) -> dict[str, Any]:
    granted = Settlement(GrantStatus.GRANTED, token=AccessToken("t" * 24, f"{_LINK}{'t' * 24}", "t" * 24))
    spent = {"claim": 0.0, "settle": 0.0}
    async with PostgresLedger(url) as ledger:
        refs = iter([f"bench:{number}:{time.time_ns()}:{one}" for one in range(members)])

        async def work() -> None:
            for ref in refs:
                began = time.perf_counter()
                await ledger.claim(GrantRequest(ref, 1, 42))
                claimed = time.perf_counter()
                await ledger.settle(ref, granted)
                spent["claim"] += claimed - began
                spent["settle"] += time.perf_counter() - claimed

        await ledger.claim(GrantRequest(f"warm:{number}:{time.time_ns()}", 1, 42))
        log, cpu, own = _log(url), cpu_of_backends(url), time.process_time()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        own = time.process_time() - own
        used = cpu_of_backends(url)
        written = _log(url) - log
    return {
        "cpu": None if cpu is None or used is None else (used - cpu) / members / 2,
        "worker": own / members,
        "log": written / members,
        "claim": spent["claim"] / members,
        "settle": spent["settle"] / members,
    }


def _log(url: str) -> int:
    with psycopg.connect(url) as connection:
        return int((connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone() or (0,))[0])


def _flush(url: str, times: int = 200) -> float:
    """Return the additional seconds of a commit that waits for the disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS probe (number integer)")
        took: dict[str, float] = {}
        for setting in ("off", "on"):
            connection.execute(f"SET synchronous_commit = {setting}".encode())
            single = []
            for number in range(times):
                began = time.perf_counter()
                connection.execute("INSERT INTO probe VALUES (%s)", (number,))
                single.append(time.perf_counter() - began)
            took[setting] = median(single)
        connection.execute("DROP TABLE probe")
    return max(took["on"] - took["off"], 1e-5)


def sign_of_life(url: str, workers: int, times: int = 50) -> float:
    """Return the server's seconds for one heartbeat, with `workers` live workers."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")  # exclude the flush
        connection.execute(
            "INSERT INTO tgm_worker (id, label, server_started, lease_until)"
            " SELECT n, 'bench', pg_postmaster_start_time(), now() + interval '1 h' FROM generate_series(1, %s) AS n",
            (workers,),
        )
        connection.execute(
            "SELECT pg_advisory_lock('tgm_worker'::regclass::oid::integer, id) FROM tgm_worker ORDER BY id"
        )
        took = []
        for _ in range(times):
            began = time.perf_counter()
            connection.execute("UPDATE tgm_worker SET lease_until = now() + interval '1 h' WHERE id = 1")
            abandoned(connection)
            connection.execute(f"DELETE FROM tgm_worker WHERE id NOT IN ({ALIVE})".encode())
            took.append(time.perf_counter() - began)
        connection.execute("TRUNCATE tgm_worker")
    return median(took)
