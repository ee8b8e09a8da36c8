"""PgBouncer between workers and PostgreSQL."""

from pathlib import Path

from gateways.programs import Program

_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = 20
max_client_conn = 200
{more}
"""


class Pgbouncer(Program):
    """`mode` is "session" or "transaction"."""

    binary = "pgbouncer"
    needs_other_user = True

    def __init__(self, folder: Path, server: int, user: str, password: str, *, mode: str, more: str = "") -> None:
        super().__init__(folder)
        self.write("users", f'"{user}" "{password}"\n')
        self._file = self.write(
            "pgbouncer.ini",
            _SETTINGS.format(folder=self.folder, port=self.port, server=server, mode=mode, more=more),
        )

    def command(self) -> list[str]:
        return [str(self._file)]
