"""The coroutines of a Project: what they send, what they return, and what they refuse to send."""

import json
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs
import pytest
from canary import CANARY_KEY
from project.projects import OTHER, PLAN, PROJECT, project, refuses, row, says
from stub_transport import StubTransport, lost, reply

from tgmembership_async import (
    APIError,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Secret,
    UnexpectedReply,
    UsageError,
)
from tgmembership_async.project import BalanceConflict, Project
from tgmembership_async.project.endpoints import ENDPOINTS

UNTIL = datetime(2199, 5, 6, 7, 8, 9, 123_456, tzinfo=UTC)
TURNED_AWAY = reply("", 429, retry_after="0")
BALANCE = says({"balance": "10.00", "currency": "EUR"})


def sent(stub: StubTransport) -> list[tuple[str, str, dict[str, Any]]]:
    """Return verb, path and parameters of all requests."""
    return [(one.verb, one.path or one.method, dict(one.params)) for one in stub.requests]


CALLS: list[tuple[str, Any, Any, tuple[str, str, dict[str, Any]]]] = [
    ("user", lambda p: p.user("4200"), {"user_id": "4200"}, ("GET", "users/4200", {})),
    ("extend", lambda p: p.extend_member(42, UNTIL), {}, ("PATCH", "memberships/42/extend", {"extend": UNTIL})),
    (
        "extend all",
        lambda p: p.extend_everybody(UNTIL, confirm=PROJECT),
        {},
        ("PATCH", "memberships/extend", {"extend": UNTIL}),
    ),
    ("remove", lambda p: p.remove_membership(PLAN.upper()), None, ("DELETE", f"memberships/{PLAN}", {})),
    ("ban", lambda p: p.ban(42), {}, ("PUT", "ban/42", {})),
    ("unban", lambda p: p.unban(42), {}, ("DELETE", "ban/42", {})),
    ("balance", lambda p: p.balance(42), {"balance": "1"}, ("GET", "balance", {"user_id": "42"})),
    ("request", lambda p: p.payment_request(PLAN), {"id": PLAN}, ("GET", f"payment-requests/{PLAN}", {})),
    (
        "create",
        lambda p: p.create_payment_request(42, PLAN, extra={"coupon": "C"}),
        {"id": PLAN},
        ("POST", "payment-requests", {"user_id": "42", "plan_id": PLAN, "coupon": "C"}),
    ),
    (
        "coupon",
        lambda p: p.validate_coupon("SALE", plan_id=PLAN),
        {"valid": True},
        ("POST", "coupons/validate", {"code": "SALE", "plan_id": PLAN}),
    ),
    (
        "webhook",
        lambda p: p.set_webhook("https://shop.example/hook"),
        {"secret": "s"},
        ("POST", "integrations/webhooks", {"url": "https://shop.example/hook"}),
    ),
    ("plans", lambda p: p.plans(), [], ("GET", "plans", {})),
    ("search", lambda p: p.search_users("ann"), [], ("GET", "users/search", {"search": "ann"})),
    ("check", lambda p: p.check(), [], ("GET", "plans", {})),
]


@pytest.mark.parametrize(("call", "data", "expected"), [one[1:] for one in CALLS], ids=[one[0] for one in CALLS])
def test_each_coroutine_sends_its_documented_request(call: Any, data: Any, expected: Any, run: Any) -> None:
    stub = StubTransport(says(data))

    async def scenario() -> None:
        async with project(stub) as client:
            await call(client)

    run(scenario)
    verb, path, params = expected
    params = {name: "2199-05-06T07:08:09.123Z" if value == UNTIL else value for name, value in params.items()}
    assert sent(stub) == [(verb, path, params)]


def test_the_request_on_the_wire_is_what_the_pages_show(run: Any) -> None:
    stub = StubTransport(says())

    async def scenario() -> None:
        async with project(stub) as client:
            await client.request("PATCH", "a/b", {"n": 1})

    run(scenario)
    [request] = stub.requests
    target, headers, body = request.encode()
    assert bytes(target) == f"/v2/projects/{PROJECT}/a/b".encode()
    assert request.url == f"https://api.botsubscription.com/v2/projects/{PROJECT}/a/b"
    assert headers.get("content-type") == "application/json"
    assert headers.get("authorization") is None
    assert body == b'{"n": 1}'
    [(name, value)] = request.account.secret_fields
    assert (name, bytes(value)) == (b"authorization", f"Bearer {CANARY_KEY}".encode())
    assert CANARY_KEY not in repr(request) + repr(request.account)


def test_money_is_exact_and_dates_are_aware(run: Any) -> None:
    stub = StubTransport(says([row(1, odd={"x": "1.10"})], total=1))

    async def scenario() -> None:
        async with project(stub) as client:
            [found] = [one async for one in client.memberships(4201)]
            assert found.ends_at == datetime(2027, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)
            assert found.user_id == 4201
            assert found.plan_duration is not None
            assert found.extra == {"odd": {"x": "1.10"}}
            assert found.is_active(datetime(2026, 6, 1, tzinfo=UTC))
            assert not found.is_active(datetime(2025, 6, 1, tzinfo=UTC))
            assert not found.is_active(found.ends_at)
            stub.steps[:] = [says({"balance": "0.10", "currency": "EUR"})]
            assert (await client.balance(42)).amount.amount == Decimal("0.10")

    run(scenario)


def test_a_sample_without_ok_counts_as_its_code_says(run: Any) -> None:
    stub = StubTransport(says({"user_id": "7"}, ok=None), refuses(404, ok=None))

    async def scenario() -> None:
        async with project(stub) as client:
            assert (await client.user(7)).user_id == 7
            stub.steps[:] = [says({"user_id": "7"}, 404, ok=None)]
            with pytest.raises(NotFound):
                await client.user(7)
            stub.steps[:] = [says({"user_id": "7"}, ok="yes")]
            with pytest.raises(UnexpectedReply):
                await client.user(7)

    run(scenario)


@pytest.mark.parametrize("key", ["error_code", "code"])
def test_an_error_has_the_name_and_the_words_of_the_service_and_travels(key: str, run: Any) -> None:
    named: dict[str, Any] = {"error_code": None, key: "VALIDATION_ERROR"}
    stub = StubTransport(refuses(422, **named))

    async def scenario() -> None:
        async with project(stub) as client:
            with pytest.raises(APIError, match="422 VALIDATION_ERROR: why") as refused:
                await client.user(7)
            assert refused.value.error_code == "VALIDATION_ERROR"
            assert refused.value.code == 422
            again = pickle.loads(pickle.dumps(refused.value))
            assert vars(again) == vars(refused.value)

    run(scenario)


def test_removing_twice_is_done_and_a_lost_reply_in_between_counts_as_removed(run: Any) -> None:
    steps = (attrs.evolve(says(None, 204), body=b""), refuses(404), lost(), refuses(404), TURNED_AWAY, refuses(404))
    stub = StubTransport(*steps)

    async def scenario() -> None:
        async with project(stub) as client:
            assert await client.remove_membership(PLAN)
            assert not await client.remove_membership(PLAN)
            assert await client.remove_membership(PLAN)
            assert not await client.remove_membership(PLAN), "429: the first attempt did nothing"
            assert not await client.unban(42)

    run(scenario)


def test_a_payment_request_is_never_created_twice(run: Any) -> None:
    stub = StubTransport(lost())

    async def scenario() -> None:
        async with project(stub) as client:
            with pytest.raises(OutcomeUnknown, match="may or may not have acted"):
                await client.create_payment_request(42, PLAN)
            stub.steps[:] = [attrs.evolve(says(None, 204), body=b"")]
            with pytest.raises(OutcomeUnknown, match="the body is empty"):
                await client.create_payment_request(42, PLAN)

    run(scenario)
    assert len(stub.requests) == 2


def test_an_absolute_state_is_set_again_after_a_lost_reply(run: Any) -> None:
    stub = StubTransport(lost(), says({}))

    async def scenario() -> None:
        async with project(stub) as client:
            await client.extend_member(42, UNTIL)

    run(scenario)
    assert len(stub.requests) == 2
    assert stub.requests[0].params == stub.requests[1].params


def change(before: str, after: str) -> Any:
    return says({"previous_balance": before, "new_balance": after, "adjustment": "1.00", "transaction_id": "t"})


@pytest.mark.parametrize("steps", [[BALANCE, change("10.00", "12.50")], [BALANCE, lost(), change("12.50", "12.50")]])
def test_a_balance_is_set_if_it_is_what_was_expected(steps: Any, run: Any) -> None:
    stub = StubTransport(*steps)

    async def scenario() -> None:
        async with project(stub) as client:
            done = await client.set_balance(42, Decimal("12.5"), expecting="10")
            assert done.new_balance == Decimal("12.50")

    run(scenario)
    assert stub.requests[-1].params == {"user_id": "42", "new_balance": "12.50"}


@pytest.mark.parametrize(
    ("steps", "requests", "is_written", "found"),
    [
        ([says({"balance": "9.99"})], 1, False, "9.99"),
        ([BALANCE, change("11.00", "12.50")], 2, True, "11.00"),
        ([BALANCE, change("12.50", "12.50")], 2, True, "12.50"),
        ([BALANCE, TURNED_AWAY, change("12.50", "12.50")], 3, True, "12.50"),
        ([BALANCE, change("10.00", "12.00")], 2, True, "10.00"),
    ],
)
def test_a_change_by_somebody_else_is_told(steps: Any, requests: int, is_written: Any, found: str, run: Any) -> None:
    stub = StubTransport(*steps)

    async def scenario() -> None:
        async with project(stub) as client:
            with pytest.raises(BalanceConflict) as conflict:
                await client.set_balance(42, "12.50", expecting=10, reason="refund")
            assert conflict.value.maybe_applied is is_written
            assert conflict.value.found == Decimal(found)
            assert conflict.value.expected == 10
            assert not conflict.value.retryable
            assert vars(pickle.loads(pickle.dumps(conflict.value))) == vars(conflict.value)

    run(scenario)
    assert len(stub.requests) == requests


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: p.extend_member("", UNTIL),
        lambda p: p.extend_member(None, UNTIL),
        lambda p: p.extend_member("../7", UNTIL),
        lambda p: p.extend_member(42, datetime(2199, 1, 1)),  # noqa: DTZ001 - the point
        lambda p: p.extend_member(42, datetime.now(UTC) - timedelta(1)),
        lambda p: p.extend_everybody(UNTIL, confirm=OTHER),
        lambda p: p.remove_membership("extend"),
        lambda p: p.search_users("an "),
        lambda p: p.set_balance(42, 0.1, expecting=0),
        lambda p: p.set_balance(42, "1.001", expecting=0),
        lambda p: p.set_balance(42, "-1", expecting=0),
        lambda p: p.validate_coupon(" "),
        lambda p: p.set_webhook("http://shop.example"),
        lambda p: p.request("HEAD", "plans"),
        lambda p: p.request("GET", "plans?x=1"),
        lambda p: p.request("GET", "a//b"),
        lambda p: p.request("GET", "../other"),
        lambda p: p.request("PATCH", "/Memberships/extend", {"extend": 1}),
        lambda p: p.request("POST", "plans", {"x": Decimal(1)}),
        lambda p: p.request("POST", "plans", safety="maybe"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(wrong: Any, run: Any) -> None:
    stub = StubTransport()

    async def scenario() -> None:
        async with project(stub) as client:
            with pytest.raises(UsageError):
                await wrong(client)

    run(scenario)
    assert stub.requests == []


def test_any_other_method_is_called_by_its_path(run: Any) -> None:
    stub = StubTransport(says({"x": ["1"]}, 201, total=5))

    async def scenario() -> None:
        async with project(stub) as client:
            reply = await client.request(
                "POST", "/things/new", {"of": [{"n": 1}]}, safety="idempotent", into=dict[str, list[int]]
            )
            assert reply.result == {"x": [1]}
            assert reply.request_id == "r-1"
            assert reply.extra["total"] == 5

    run(scenario)
    assert sent(stub) == [("POST", "things/new", {"of": [{"n": 1}]})]


def test_a_429_waits_as_its_body_says(run: Any) -> None:
    stub = StubTransport(refuses(429, "RATE_LIMIT_EXCEEDED", retry_after=3600))

    async def scenario() -> None:
        async with project(stub) as client:
            with pytest.raises(RateLimited) as limited:
                await client.user(7)
            assert limited.value.retry_after == 3600

    run(scenario)


@pytest.mark.parametrize("reset", ["3600", "{unix}", "{milliseconds}"])
def test_the_last_call_that_a_limit_allows_pauses_the_next(reset: str, run: Any) -> None:
    unix = int(datetime.now(UTC).timestamp()) + 3600
    told = reset.format(unix=unix, milliseconds=1000 * unix)
    stub = StubTransport(
        says({"user_id": 7}, headers={"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": told}),
        says({"user_id": 7}, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": told}),
    )

    async def scenario() -> None:
        async with project(stub) as client:
            await client.user(7)
            await client.user(7)
            with pytest.raises(RateLimited, match="nothing was sent") as paused:
                await client.user(7)
            assert 3500 < (paused.value.retry_after or 0) <= 3601

    run(scenario)
    assert len(stub.requests) == 2


def test_it_is_built_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"set TGMEMBERSHIP_PROJECT_ID .*, and TGMEMBERSHIP_PROJECT_TOKEN or"):
        Project.from_env()
    monkeypatch.setenv("TGMEMBERSHIP_PROJECT_ID", PROJECT)
    (tmp_path / "token").write_text(f"{CANARY_KEY}\n")
    monkeypatch.setenv("TGMEMBERSHIP_PROJECT_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("TGMEMBERSHIP_PROJECT_BASE_URL", "https://api.example")
    built = Project.from_env(deadline=5)

    assert repr(built) == f"<Project {PROJECT} at https://api.example, not entered>"
    assert built.deadline == 5
    with pytest.raises(UsageError, match="takes no option"):
        Project.from_env(body_format="form")  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [("7", CANARY_KEY), (PROJECT, ""), (PROJECT, f"{CANARY_KEY}\n"), (PROJECT, None)])
def test_wrong_credentials_are_refused_and_not_shown(wrong: Any) -> None:
    with pytest.raises(UsageError) as error:
        Project(*wrong)
    assert CANARY_KEY not in str(error.value)
    assert Project(PROJECT, Secret(CANARY_KEY)).project_id == PROJECT


def test_use_before_entering_says_how(run: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(UsageError, match=r"`async with Project\(\.\.\.\) as project:`"):
            await project(StubTransport()).plans()

    run(scenario)


def test_the_table_has_each_path_once() -> None:
    assert len({(one.method, one.verb) for one in ENDPOINTS}) == len(ENDPOINTS)
    assert json.dumps([one.method for one in ENDPOINTS]).count("memberships/extend") == 1
