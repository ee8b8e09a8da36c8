"""The targets of `call.py`: limits for the ratio of two candidates' figures in the same run."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen
from tables import Row

Cases = Mapping[str, Sequence[Mapping[str, Any]]]
ONE, MANY, THOUSAND = "1 task", "64 tasks", "1,000 tasks on 32 connections"
SLOW, WIDE = "64 tasks, 20 ms server", "256 tasks, 20 ms server"
TARGETS = "targets"
EITHER_WIDTH, AFTER_A_BURST = "20 ms server, at either width in turns", "1 task, after a burst"
ON_HTTPX, ON_AIOHTTP = "Session on httpx", "Session on aiohttp"
DEFAULT, SAME = "httpx, default limits", "httpx, same limits"
SDKS = ("openai", "stripe on httpx", "githubkit")


@frozen
class Aim:
    """A limit for one ratio: a maximum for CPU per call or, with `rate`, a minimum for calls per second."""

    who: str
    case: str
    beside: str
    limit: float
    rate: bool = False

    def ratio(self, cases: Cases) -> float | None:
        """Return the measured ratio, or None where one of the two was not measured."""
        what = "calls/s" if self.rate else "CPU µs per call"
        figures = {row["who"]: row[what] for row in cases[self.case]}
        return float(figures[self.who] / figures[self.beside]) if {self.who, self.beside} <= figures.keys() else None


AIMS: Final = (
    Aim(ON_HTTPX, ONE, DEFAULT, 0.90),
    *(Aim(ON_HTTPX, case, SAME, 0.42) for case in (MANY, THOUSAND, SLOW)),
    *(Aim(ON_HTTPX, case, DEFAULT, 0.50) for case in (MANY, THOUSAND, SLOW)),
    *(Aim(ON_HTTPX, case, DEFAULT, 1.7, rate=True) for case in (MANY, THOUSAND, SLOW)),
    Aim(ON_HTTPX, WIDE, DEFAULT, 12, rate=True),
    Aim(f"{ON_HTTPX}, 256 tasks", EITHER_WIDTH, f"{ON_HTTPX}, 64 tasks", 1.15),
    Aim("Session on httpx after 256 at once", AFTER_A_BURST, "fresh Session on httpx", 1.2),
    *(Aim(ON_HTTPX, ONE, sdk, 0.75) for sdk in SDKS),
    *(Aim(ON_HTTPX, MANY, sdk, 0.45) for sdk in SDKS),
    *(Aim(ON_AIOHTTP, case, "aiohttp", 1.45) for case in (ONE, MANY)),
    *(Aim(ON_AIOHTTP, case, "aiogram", 1.0) for case in (ONE, MANY)),
)


def reached(cases: Cases) -> list[Row]:
    """Return each target with the measured ratio."""
    measured = [(aim, ratio) for aim in AIMS if (ratio := aim.ratio(cases)) is not None]
    return [
        {
            "who": aim.who,
            "case": aim.case,
            "next to": aim.beside,
            "figure": "calls/s" if aim.rate else "CPU",
            "target": f"{'≥' if aim.rate else '≤'} {aim.limit:g}",
            "measured": round(ratio, 3),
            "reached": "yes" if (ratio >= aim.limit if aim.rate else ratio <= aim.limit) else "no",
        }
        for aim, ratio in measured
    ]
