"""The demo's service: its faults and the kills depend on the seed alone, not on the order in which requests arrive."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tgmembership_async.cli.demo.audit import Grantee
from tgmembership_async.grants.model import GrantRequest
from tgmembership_async.testing import FakePlan, FakeService
from tgmembership_async.testing.fake.fault_effects import FaultPlan, plan_of
from tgmembership_async.testing.fake.faults import FaultBook, nasty
from tgmembership_async.testing.fake.values import SAMPLE_PLANS

_UNTIL_KILLED: Final = 3600.0  # seconds: longer than any client waits


class Storm(FakeService):
    """A service that has all plans of the requests, refuses one member in a hundred, and calls for kills.

    The faults of a request are drawn from the seed, the member, and how many requests there were for that member. A
    kill point is a member of the file: requests for that member and later ones get no reply, and the kill comes once
    each of `concurrency` grants waits for one. What is in flight at the kill, and what of it took effect, is then the
    same in each run.
    """

    def __init__(
        self, requests: Sequence[GrantRequest], *, fault_rate: float, kills: int, concurrency: int, seed: int
    ) -> None:
        members = sorted({request.member_id for request in requests if request.member_id is not None})
        super().__init__(
            plans=_plans({request.plan_id for request in requests if isinstance(request.plan_id, int)}),
            silent=Random(seed).sample(members, len(members) // 100),  # noqa: S311 - reproducible on purpose
            faults=nasty(fault_rate),
            seed=seed,
        )
        grantees = dict.fromkeys((request.plan_id, request.member_id) for request in requests)
        self._places: dict[Grantee, int] = {grantee: place for place, grantee in enumerate(grantees)}
        self._points = kill_points(len(grantees), kills, seed)
        self._concurrency = concurrency
        self._seed = seed
        self._asked: Counter[bytes] = Counter()
        self._killed: set[Grantee] = set()
        self._kill: Callable[[], object] | None = None
        self._point = self._expected = self._waiting = 0

    def arm(self, kill: Callable[[], object]) -> int | None:
        """Call `kill` at the next kill point. Return how many members are done before it, or None if none is left."""
        with self._lock:
            if not self._points:
                return None
            point = self._points.pop(0)
            left = sum(place >= point for grantee, place in self._places.items() if grantee not in self._killed)
            if not left:
                return None
            self._kill, self._point = kill, point
            self._expected, self._waiting = min(self._concurrency, left), 0
            return point

    def disarm(self) -> bool:
        """Leave out the kills that are left. Return whether requests wait for a reply that will not come."""
        with self._lock:
            self._points.clear()
            waits, self._kill = self._kill is not None and self._waiting > 0, None
            return waits

    def plan_faults(self, verb: str, target: bytes, body: bytes = b"") -> FaultPlan:
        """Record a request, and return what the faults or a kill do to it."""
        method = self._method_of(target)
        with self._lock:
            grantee = _grantee(body)
            if grantee is not None and self._kill is not None and self._places[grantee] >= self._point:
                return self._never_answered(self._record(verb, method, ()), grantee, self._kill)
            self._asked[body] += 1
            book = FaultBook(f"{self._seed}/{grantee}/{self._asked[body]}")
            book.add(self.faults)
            fired = book.draw(method)
            return plan_of(self._record(verb, method, fired), fired, self._refused)

    def _never_answered(self, number: int, grantee: Grantee, kill: Callable[[], object]) -> FaultPlan:
        self._killed.add(grantee)
        self._waiting += 1
        if self._waiting == self._expected:
            self._kill = None
            kill()
        takes_effect = Random(f"{self._seed}/kill/{grantee}").random() < 0.5  # noqa: S311, PLR2004 - a half
        return FaultPlan(number, effect=takes_effect, wait_after=_UNTIL_KILLED)


def kill_points(total: int, kills: int, seed: int) -> list[int]:
    """Return after how many members to kill the process: at random, one in each equal part of the run."""
    random = Random(seed)  # noqa: S311 - reproducible on purpose
    drawn = (int(total * (number + random.uniform(0.3, 0.9)) / (kills + 1)) for number in range(kills))
    return sorted(min(total - 1, point) for point in drawn)


def _grantee(body: bytes) -> Grantee | None:
    """Return the plan and the member that a request names, or None if it is no request to grant."""
    fields: dict[str, int] = json.loads(body) if body else {}
    return (fields["plan_id"], fields["member_id"]) if fields.keys() >= {"plan_id", "member_id"} else None


def _plans(named: set[int]) -> list[FakePlan]:
    missing = sorted(named - {plan.plan_id for plan in SAMPLE_PLANS})
    return [*SAMPLE_PLANS, *(FakePlan(plan_id, f"Plan {plan_id}") for plan_id in missing)]
