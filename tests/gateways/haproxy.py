"""HAProxy in HTTP mode; at a reload a new process takes over from the old one."""

from pathlib import Path

from gateways.programs import Program

_SETTINGS = """
global
    maxconn 256
    stats socket {folder}/socket level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client {client}
    timeout server {server}
    {options}
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server one 127.0.0.1:{backend}
"""


class Haproxy(Program):
    """`hands_over` is whether the new process gets the listening sockets of the old one (`-x`)."""

    binary = "haproxy"

    def __init__(
        self,
        folder: Path,
        backend: int,
        *,
        options: str = "",
        client: str = "5s",
        server: str = "5s",
        hands_over: bool = True,
    ) -> None:
        super().__init__(folder)
        self._hands_over = hands_over
        self._file = self.write(
            "haproxy.cfg",
            _SETTINGS.format(
                folder=self.folder, port=self.port, backend=backend, options=options, client=client, server=server
            ),
        )

    def command(self) -> list[str]:
        return ["-db", "-f", str(self._file)]

    def reload(self) -> None:
        """Start a new process, which tells the old one to finish."""
        taken_over = ["-x", str(self.folder / "socket")] if self._hands_over else []
        self.start(*taken_over, "-sf", str(self.processes[-1].pid))
