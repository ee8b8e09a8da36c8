"""AccessCheck: one request for callers that ask at once, cached, and an older answer while the service is down."""

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from stub_transport import StubTransport, not_sent, reply

from tgmembership_async import CallError, NotSent, RetryPolicy, Session, Unauthorized, UsageError
from tgmembership_async.access import Access, AccessCheck
from tgmembership_async.project import Project

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
START = datetime(2026, 1, 1, tzinfo=UTC)
MEMBER = reply('{"ok": true, "code": 200, "result": {"user_id": 7, "plan_id": 1, "expires_at": "2026-02-01"}}')
NOBODY = reply('{"ok": true, "code": 200, "result": []}')
DOWN = reply("<h1>502</h1>", 502)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def opened(*steps: Any, **options: Any) -> tuple[Session, AccessCheck, StubTransport, Clock]:
    transport, clock = StubTransport(*steps), Clock()
    session = Session(1, "k" * 40, transport=transport, retry=RetryPolicy(attempts=1))
    return session, AccessCheck(session, clock=clock, **options), transport, clock


def test_an_answer_is_kept_for_its_time_and_expires_in_between(run: Run) -> None:
    async def scenario() -> None:
        session, check, transport, clock = opened(MEMBER, NOBODY, ttl=60)
        async with session:
            access = await check(7, 1)
            assert access == Access(
                allowed=True, plans=frozenset({1}), expires_at=datetime(2026, 2, 1, tzinfo=UTC), checked_at=START
            )
            assert await check(7)
            assert not await check(7, 2), "another plan, from the same answer"
            clock.sleep(59)
            assert await check(7, 1)
            assert len(transport.requests) == 1
            clock.sleep(1)
            assert not await check(7, 1)
            assert len(transport.requests) == 2

    run(scenario)


def test_an_answer_is_not_kept_for_longer_when_the_clock_is_set_back(run: Run) -> None:
    async def scenario() -> None:
        session, check, transport, clock = opened(NOBODY, MEMBER, ttl=60)
        async with session:
            assert not await check(7)
            clock.sleep(-86_400)
            assert await check(7)
            clock.sleep(59)
            assert await check(7)
            assert len(transport.requests) == 2

    run(scenario)


def test_a_subscription_that_is_over_does_not_count(run: Run) -> None:
    async def scenario() -> None:
        session, check, _, clock = opened(MEMBER, ttl=100 * 86_400)
        async with session:
            assert await check(7)
            clock.now = datetime(2026, 2, 1, tzinfo=UTC)
            over = await check(7)
            assert (over.allowed, over.plans, over.expires_at) == (False, frozenset(), None)

    run(scenario)


def test_callers_that_ask_at_once_share_one_request(run: Run) -> None:
    async def scenario() -> None:
        session, check, transport, _ = opened(MEMBER)
        answers: list[Access] = []

        async def ask() -> None:
            answers.append(await check(7))

        async with session, anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask)
        assert all(answers)
        assert len(answers) == 20
        assert len(transport.requests) == 1

    run(scenario)


def test_callers_that_ask_at_once_share_a_failure(run: Run) -> None:
    async def scenario() -> None:
        async def fail(_: Any) -> Any:
            await anyio.wait_all_tasks_blocked()
            raise not_sent()

        session, check, transport, _ = opened(fail, MEMBER)
        failures: list[CallError] = []

        async def ask() -> None:
            try:
                await check(7)
            except CallError as error:
                failures.append(error)

        async with session:
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(ask)
            assert len(failures) == 5
            assert len(transport.requests) == 1
            assert await check(7), "a failure is not remembered"

    run(scenario)


def test_who_waits_for_a_caller_that_is_cancelled_asks_anew(run: Run) -> None:
    async def scenario() -> None:
        async def never(_: Any) -> Any:
            await anyio.sleep_forever()

        session, check, transport, _ = opened(never, MEMBER)
        found: list[Access] = []
        first = anyio.CancelScope()

        async def leader() -> None:
            with first:
                await check(7)

        async def follower() -> None:
            found.append(await check(7))

        async with session, anyio.create_task_group() as group:
            group.start_soon(leader)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(follower)
            await anyio.wait_all_tasks_blocked()
            first.cancel()
        assert found
        assert found[0].allowed
        assert len(transport.requests) == 2

    run(scenario)


@pytest.mark.parametrize(
    "failure", [not_sent(), DOWN, *(reply(f'{{"ok": false, "code": {code}}}', code) for code in (500, 421, 425, 429))]
)
def test_while_the_service_is_down_an_older_answer_serves_and_says_so(failure: Any, run: Run) -> None:
    async def scenario() -> None:
        session, check, _, clock = opened(MEMBER, failure, failure, ttl=60, grace=600)
        async with session:
            await check(7)
            clock.sleep(100)
            access = await check(7)
            assert access.allowed
            assert access.stale
            assert access.checked_at == START
            clock.sleep(600)
            with pytest.raises(CallError):
                await check(7)

    run(scenario)


def test_a_refusal_is_no_outage(run: Run) -> None:
    async def scenario() -> None:
        session, check, _, clock = opened(MEMBER, reply('{"ok": false, "code": 401}'))
        async with session:
            await check(7)
            clock.sleep(100)
            with pytest.raises(Unauthorized):
                await check(7)

    run(scenario)


def test_without_grace_nothing_is_stale(run: Run) -> None:
    async def scenario() -> None:
        session, check, _, clock = opened(MEMBER, not_sent(), grace=0)
        async with session:
            await check(7)
            clock.sleep(60)
            with pytest.raises(NotSent):
                await check(7)

    run(scenario)


def test_a_user_who_is_forgotten_during_a_request_is_asked_about_again(run: Run) -> None:
    """The request was sent before the grant, and its answer arrives afterwards."""

    async def scenario() -> None:
        async def granted_meanwhile(_: Any) -> Any:
            check.forget(7)
            return NOBODY

        session, check, transport, _ = opened(granted_meanwhile, MEMBER)
        async with session:
            assert await check(7)
            assert await check(7)
        assert len(transport.requests) == 2

    run(scenario)


def test_a_user_who_is_forgotten_during_a_request_that_fails_has_no_older_answer(run: Run) -> None:
    async def scenario() -> None:
        async def banned_meanwhile(_: Any) -> Any:
            check.forget(7)
            raise not_sent()

        session, check, _, clock = opened(MEMBER, banned_meanwhile, ttl=60, grace=600)
        async with session:
            assert await check(7)
            clock.sleep(100)
            with pytest.raises(CallError):
                await check(7)

    run(scenario)


def test_what_the_service_tells_about_others_is_not_this_users(run: Run) -> None:
    others = '[{"user_id": 8, "plan_id": 1}, {"plan_id": 2}]'

    async def scenario() -> None:
        session, check, _, _ = opened(reply(f'{{"ok": true, "code": 200, "result": {others}}}'))
        async with session:
            assert (await check(7)).plans == {2}
            assert (await check(8)).plans == {1, 2}

    run(scenario)


def test_what_is_forgotten_is_asked_again_and_only_so_many_are_remembered(run: Run) -> None:
    async def scenario() -> None:
        session, check, transport, _ = opened(NOBODY, NOBODY, NOBODY, NOBODY, MEMBER, size=2)
        async with session:
            for user in (7, 2, 3):
                await check(user)
            await check(7)
            assert len(transport.requests) == 4, "7 was pushed out by 3"
            check.forget(7)
            assert await check(7)

    run(scenario)


@pytest.mark.parametrize("wrong", [{"ttl": 0}, {"grace": -1}, {"size": 0}, {"session": None}])
def test_a_wrong_argument_is_refused(wrong: dict[str, Any]) -> None:
    arguments = {"session": Session(1, "k" * 40, transport=StubTransport()), **wrong}
    with pytest.raises(UsageError, match="(?i)" + next(iter(wrong))):
        AccessCheck(arguments.pop("session"), **arguments)


def test_a_wrong_id_is_refused_before_anything_is_asked(run: Run) -> None:
    async def scenario() -> None:
        session, check, transport, _ = opened()
        async with session:
            for arguments in ((0,), ("7",), (7, -1)):
                with pytest.raises(UsageError):
                    await check(*arguments)
        assert not transport.requests

    run(scenario)


def membership(number: int, plan: str, start: str, end: str | None) -> dict[str, Any]:
    return {
        "membership_id": f"m{number}",
        "user_id": "7",
        "plan_id": plan,
        "membership_start_date": start,
        "membership_end_date": end,
        "subscription_status": "cancelled",
    }


def test_a_project_is_asked_for_memberships_and_their_dates_decide(run: Run) -> None:
    plans = [f"{number}1111111-2222-4333-8444-55555555555a" for number in range(4)]
    rows = [
        membership(1, plans[0].upper(), "2025-12-01T00:00:00.000Z", "2026-02-01T00:00:00.000Z"),
        membership(2, plans[1], "2025-01-01T00:00:00.000Z", "2025-02-01T00:00:00.000Z"),
        membership(3, plans[2], "2026-03-01T00:00:00.000Z", "2026-04-01T00:00:00.000Z"),
        membership(4, plans[3], "2025-03-01T00:00:00.000Z", None),
    ]

    async def pages(request: Any) -> Any:
        offset = request.params["offset"]
        assert request.params["user_id"] == "7"
        return reply(json.dumps({"ok": True, "code": 200, "data": rows[offset : offset + 3], "total": 4}))

    async def scenario() -> None:
        transport, clock = StubTransport(pages), Clock()
        project = Project(plans[0], "k" * 40, transport=transport)
        check = AccessCheck(project, clock=clock)
        async with project:
            access = await check(7, plans[0])
            assert access.allowed
            assert access.plans == {plans[0], plans[3]}
            assert access.expires_at == datetime(2026, 2, 1, tzinfo=UTC)
            assert not await check(7, plans[1]), "it is past"
            assert not await check(7, plans[2]), "it has not begun"
            assert await check(7, plans[3].upper()), "it does not end"
            assert len(transport.requests) == 2, "one lookup of two pages"
            with pytest.raises(UsageError):
                await check(7, 1)

    run(scenario)


def test_api_v1_cannot_be_asked_who_has_access(run: Run) -> None:
    async def scenario() -> None:
        async with Session(1, "k" * 40, transport=StubTransport(), generation="v1") as session:
            with pytest.raises(UsageError, match="API v1 has no getSubscribers"):
                await AccessCheck(session)(7)

    run(scenario)
