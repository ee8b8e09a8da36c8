"""A Project on the fake project: absolute states under faults, a storm of cancellations, deadlines and odd samples."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from attrs import evolve
from canary import CANARY_KEY
from project.projects import QUICK

from tgmembership_async import DeadlineExceeded, OutcomeUnknown
from tgmembership_async.project import Project
from tgmembership_async.testing import FakeProject, FakeTransport, Fault

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
USER, UNTIL = 42, datetime(2199, 1, 1, tzinfo=UTC)
BOTH: Any = ("before", "after")
FAULTS = [
    *(Fault(kind, when=when) for kind in ("damaged", "cut", "closed", "reset") for when in BOTH),
    *(Fault("error", status=500, when=when) for when in BOTH),
    *(Fault("html", status=status, when=when) for status in (404, 502) for when in BOTH),
    *(Fault("throttled", status=status) for status in (421, 425, 429, 503)),
]
ABSOLUTE: Mapping[str, Callable[[Project, FakeProject], Awaitable[Any]]] = {
    "memberships/{user_id}/extend": lambda project, _: project.extend_member(USER, UNTIL),
    "balance/adjust": lambda project, _: project.set_balance(USER, "5.00", expecting=0),
    "ban/{user_id}": lambda project, _: project.unban(USER),
    "memberships/{membership_id}": lambda project, service: project.remove_membership(
        service.memberships[0].membership_id
    ),
}


def fake(**options: Any) -> FakeProject:
    service = FakeProject(token=CANARY_KEY, **{"per_minute": None, "burst": None, **options})
    service.pay(USER)
    service.ban(str(USER))
    return service


def of(service: FakeProject, **options: Any) -> Project:
    return Project(**service.session_options(), transport=FakeTransport(service), **{"retry": QUICK, **options})


@pytest.mark.parametrize("method", ABSOLUTE)
def test_an_absolute_state_is_reached_whatever_happens_to_one_attempt(method: str, run: Run) -> None:
    async def scenario() -> None:
        for fault in FAULTS:
            service = fake(faults=[evolve(fault, method=method, count=1)])
            async with of(service) as project:
                assert await ABSOLUTE[method](project, service) is not False
                if method == "memberships/{user_id}/extend":
                    assert [one.end for one in service.memberships] == [UNTIL]
                elif method == "balance/adjust":
                    assert str(service.balance(USER)) == "5.00"
                elif method == "ban/{user_id}":
                    assert service.banned == []
                else:
                    assert service.memberships == []

    run(scenario)


def test_a_cancelled_payment_request_is_made_once_or_never(run: Run) -> None:
    async def scenario() -> None:
        service, chance = fake(faults=[Fault("latency", seconds=0.001, probability=0.5)]), random.Random(7)
        before = Counter(effect.what for effect in service.audit)["payment request"]
        done: list[str] = []

        async def ask(project: Project) -> None:
            made = await project.create_payment_request(USER, service.plans[0].plan_id)
            done.append(made.payment_request_id)

        async with of(service, max_connections=3) as project:
            for _ in range(40):
                async with anyio.create_task_group() as group:
                    for _ in range(4):
                        group.start_soon(ask, project)
                    for _ in range(chance.randrange(12)):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
            await ask(project)
        made = Counter(effect.value for effect in service.audit if effect.what == "payment request")
        assert set(made.values()) == {1}
        assert made.keys() >= set(done)
        assert len(done) <= len(made) - before <= 40 * 4 + 1

    run(scenario)


def test_the_deadline_bounds_a_call_to_a_slow_service(run: Run) -> None:
    async def scenario() -> None:
        service = fake(faults=[Fault("latency", seconds=600)])
        async with of(service, deadline=0.05) as project:
            with pytest.raises(DeadlineExceeded):
                await project.plans()
            with pytest.raises(OutcomeUnknown) as unknown:
                await project.create_payment_request(USER, service.plans[0].plan_id)
            assert unknown.value.attempts == 1

    run(scenario)


@pytest.mark.parametrize("sample", ["no ok", "error.code"])
def test_contradictory_samples_of_the_pages_are_understood(sample: str, run: Run) -> None:
    async def scenario() -> None:
        service = fake(samples=[sample])
        async with of(service) as project:
            assert [one.user_id async for one in project.memberships()] == [USER]
            assert await project.remove_membership("99999999-2222-4333-8444-555555555555") is False

    run(scenario)
