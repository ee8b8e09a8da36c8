"""Create a schema for one benchmark on the PostgreSQL server of TGM_POSTGRES, by default on this machine."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

SERVER = os.environ.get("TGM_POSTGRES", "postgresql://127.0.0.1:5432/test")


@contextmanager
def own_schema(purpose: str) -> Iterator[str]:
    """Yield the URL of an empty schema, and drop the schema at the end. Without a server, print so and exit with 0."""
    name = f"tgm_bench_{secrets.token_hex(4)}"
    try:
        connection = psycopg.connect(SERVER, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        print(f"skipped: {purpose} needs a PostgreSQL server at TGM_POSTGRES: {' '.join(str(error).split())}")
        sys.exit(0)
    with connection:
        connection.execute("SET client_min_messages = error")
        connection.execute(f"CREATE SCHEMA {name}".encode())
        try:
            yield f"{SERVER}{'&' if '?' in SERVER else '?'}options=-csearch_path%3D{name}&application_name={name}"
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


def about(url: str) -> str:
    """Return the version and settings of the server in one line."""
    with psycopg.connect(url) as connection:
        facts = [
            str((connection.execute(f"SHOW {name}".encode()).fetchone() or ("?",))[0])
            for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_connections")
        ]
    return "PostgreSQL {}, fsync {}, synchronous_commit {}, shared_buffers {}, max_connections {}".format(*facts)


def cpu_of_backends(url: str) -> float | None:
    """Return the CPU seconds of the server's processes for this URL, or None if they are on another machine."""
    name = url.rpartition("application_name=")[2]
    with psycopg.connect(url.replace(f"application_name={name}", "application_name=watcher")) as connection:
        found = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchall()
    try:
        return sum(_cpu_of(pid) for (pid,) in found)
    except OSError:
        return None


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
