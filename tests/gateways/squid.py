"""Squid as a company has it: a forward proxy by CONNECT, or a reverse proxy."""

from pathlib import Path

from gateways.programs import Program

_SETTINGS = """
http_port 127.0.0.1:{port} {accel}
{peer}
http_access allow all
cache deny all
access_log none
cache_log stdio:{folder}/log
pid_filename none
coredump_dir none
netdb_filename none
shutdown_lifetime 1 seconds
via on
"""


class Squid(Program):
    """With `backend`, the port of a service on loopback, it is a reverse proxy of that."""

    binary = "squid"
    needs_other_user = True

    def __init__(self, folder: Path, backend: int | None = None) -> None:
        super().__init__(folder)
        accel = "" if backend is None else "accel defaultsite=127.0.0.1"
        peer = "" if backend is None else f"cache_peer 127.0.0.1 parent {backend} 0 no-query originserver"
        self._file = self.write(
            "squid.conf", _SETTINGS.format(folder=self.folder, port=self.port, accel=accel, peer=peer)
        )

    def restart(self) -> None:
        """Kill it and start it again: asked to end, it would finish what it has first."""
        self.processes[-1].kill()
        super().restart()

    def command(self) -> list[str]:
        return ["-N", "-f", str(self._file)]
