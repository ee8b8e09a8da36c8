"""nginx as a reverse proxy, as a shop's host or a company's edge has it."""

from pathlib import Path

from gateways.programs import Program

_SETTINGS = """
daemon off;
pid {folder}/pid;
error_log {folder}/errors;
worker_processes 2;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    limit_req_zone $binary_remote_addr zone=all:1m rate={rate}r/s;
    server {{
        listen 127.0.0.1:{port} {tls};
        {more}
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            {location}
        }}
    }}
}}
"""


class Nginx(Program):
    """`more` and `location` are directives for the server and for its one location; `certificate` makes it TLS."""

    binary = "nginx"

    def __init__(
        self,
        folder: Path,
        backend: int,
        *,
        more: str = "",
        location: str = "",
        rate: int = 1000,
        certificate: str | None = None,
    ) -> None:
        super().__init__(folder)
        if certificate is not None:
            more += f" ssl_certificate {certificate}; ssl_certificate_key {certificate};"
        self._scheme = "http" if certificate is None else "https"
        self._file = self.write(
            "nginx.conf",
            _SETTINGS.format(
                folder=self.folder,
                port=self.port,
                backend=backend,
                more=more,
                location=location,
                rate=rate,
                tls="" if certificate is None else "ssl",
                user="user root;" if self.folder.owner() == "root" else "",
            ),
        )

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    def command(self) -> list[str]:
        return ["-c", str(self._file), "-p", str(self.folder), "-e", str(self.folder / "errors")]

    def limited(self) -> int:
        """Return how many requests it has refused because of its limit."""
        return (self.folder / "errors").read_text(errors="replace").count("limiting requests")
