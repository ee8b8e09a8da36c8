"""Varnish, which answers each fetch that failed with a page of its own: 503 and `Retry-After: 5`."""

import shutil
import subprocess
from pathlib import Path

from gateways.programs import Program

_SETTINGS = """
vcl 4.1;
backend default {{
    .host = "127.0.0.1";
    .port = "{backend}";
    .first_byte_timeout = {first_byte};
}}
"""


class Varnish(Program):
    binary = "varnishd"

    def __init__(self, folder: Path, backend: int, *, first_byte: str = "1s") -> None:
        super().__init__(folder)
        self._file = self.write("default.vcl", _SETTINGS.format(backend=backend, first_byte=first_byte))
        self._instance = str(self.folder / "instance")
        self._reloads = 0

    def command(self) -> list[str]:
        listen, files = f"{self.host}:{self.port}", ["-n", self._instance, "-f", str(self._file)]
        return ["-F", "-j", "none", "-a", listen, *files, "-s", "malloc,8m", "-p", "thread_pool_min=10"]

    def reload(self) -> None:
        """Load the settings again under a new name, and use that."""
        self._reloads += 1
        self._ask("vcl.load", f"again{self._reloads}", str(self._file))
        self._ask("vcl.use", f"again{self._reloads}")

    def _ask(self, *words: str) -> None:
        binary = shutil.which("varnishadm") or "varnishadm"
        subprocess.run([binary, "-n", self._instance, *words], check=True, capture_output=True, timeout=30)
