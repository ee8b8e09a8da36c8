"""The independent service as a program, and its audit."""

import json
import sys
from pathlib import Path

from attrs import frozen
from gateways.programs import Program

HERE = Path(__file__).parent


@frozen
class Event:
    """A line of the audit."""

    name: str
    member: int
    mark: str


class Service(Program):
    """`shares` says which share of the grants meets which fault, `ending` what ends connections: see backend.py."""

    binary = sys.executable

    def __init__(
        self,
        folder: Path,
        *,
        shares: dict[str, float] | None = None,
        seconds: float = 2.0,
        ending: str = "keep",
        certificate: str | None = None,
    ) -> None:
        super().__init__(folder)
        self._settings = {"shares": shares or {}, "seconds": seconds, "ending": ending, "certificate": certificate}
        self._audit = self.folder / "audit"
        self._scheme = "http" if certificate is None else "https"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    def command(self) -> list[str]:
        return [str(HERE / "backend.py"), json.dumps({"port": self.port, "audit": str(self._audit), **self._settings})]

    def events(self) -> list[Event]:
        lines = (line.split() for line in self._audit.read_text().splitlines())
        return [Event(name, int(member), mark) for name, member, mark in lines]
