"""A temporary PostgreSQL server for tests that stop and start it."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port

USER, PASSWORD = "shop", "s3cret-of-the-database"
_SETTINGS = {
    "fsync": "off",  # tests kill processes, not the machine
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "log_min_messages": "fatal",
}


class PrivatePostgres:
    """A PostgreSQL cluster with one user, who has a password; it can be started and stopped."""

    def __init__(self, folder: Path, binaries: Path, become: list[str]) -> None:
        self._folder = folder
        self._binaries = binaries
        self._become = become
        self.port = free_port()

    @property
    def url(self) -> str:
        return self.url_of(USER, PASSWORD)

    def url_of(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        self._give_away(password)
        self._run("initdb", "--username", USER, "--pwfile", str(password), "--auth", "scram-sha-256", "--no-sync")
        settings = "".join(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"{settings}port = {self.port}\nunix_socket_directories = '{self._folder}'\n")

    def start(self) -> None:
        self._run("pg_ctl", "start", "--wait", "--silent", "--log", str(self._folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode", mode)

    def restart(self) -> None:
        self._run("pg_ctl", "restart", "--wait", "--silent", "--mode", "fast", "--log", str(self._folder / "log"))

    def _run(self, command: str, *arguments: str) -> None:
        # Output to a file: the server inherits it, and would keep a pipe open.
        with (self._folder / "output").open("ab") as output:
            subprocess.run(
                [*self._become, str(self._binaries / command), "--pgdata", str(self._folder / "data"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                check=True,
                timeout=120,
            )

    def _give_away(self, path: Path) -> None:
        if self._become:
            shutil.chown(path, "postgres", "postgres")


@contextlib.contextmanager
def private_postgres() -> Iterator[PrivatePostgres]:
    """Start a cluster, and remove it at the end; skip, or fail as services are required, where that is impossible."""
    binaries, become = _binaries(), _become()
    if binaries is None or become is None:
        why = "no initdb and pg_ctl of PostgreSQL here, or nobody but root to run them"
        if os.environ.get("TGM_REQUIRE_SERVICES") == "1":
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="tgm-postgres-"))
    try:
        server = PrivatePostgres(folder, binaries, become)
        server._give_away(folder)
        server.create()
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # the test has stopped it already
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian's location
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


def _become() -> list[str] | None:
    """Return a command prefix that switches from root to another user, because the server refuses to run as root."""
    if os.geteuid() != 0:
        return []
    with contextlib.suppress(KeyError):
        pwd.getpwnam("postgres")
        if shutil.which("setpriv"):
            return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]
    return None
