"""The Session without sockets: lifecycle, argument checks, middleware, observers and errors."""

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any, get_type_hints

import anyio
import attrs
import pytest
import trio
from attrs import fields_dict
from canary import CANARY_KEY
from stub_transport import StubTransport, lost, not_sent, reply
from trio.testing import MockClock

from tgmembership_async import (
    CallEnded,
    CallOptions,
    DeadlineExceeded,
    NotSent,
    OutcomeUnknown,
    RateLimit,
    RateLimited,
    ReplyLost,
    Request,
    Response,
    RetryPolicy,
    Safety,
    Secret,
    Session,
    SessionOptions,
    UnexpectedReply,
    UsageError,
    settings,
)
from tgmembership_async.settings import secret_in
from tgmembership_async.storage.postgres.gate import PostgresGate

QUICK = RetryPolicy(transient_base=0, throttled_base=0)
ONCE = RetryPolicy(attempts=1)
GRANTED = reply('{"ok": true, "code": 200, "result": "tok"}')


def session(transport: StubTransport | None = None, **options: Any) -> Session:
    return Session(8047883872, CANARY_KEY, **{"transport": transport or StubTransport(), "retry": QUICK, **options})


@pytest.mark.parametrize(
    "wrong",
    [
        {"bot_id": 0},
        {"bot_id": "1"},
        {"bot_id": True},
        {"api_key": ""},
        {"api_key": None},
        {"api_key": 5},
        *({"api_key": f"abc{c}def"} for c in "/?#% \n\t\x00\x7f\u2028\ud800"),
        *({"base_url": url} for url in ("http://api.tgmembership.com", "ftp://x", "x", "https://", 5, "https://h:0")),
        *({"base_url": f"https://{url}"} for url in ("u:p@h", "h?x=1", "h#f", "h/%2e", "h\n", "ä.example", "h:99999")),
        *({name: 0} for name in ("deadline", "connect_timeout", "read_timeout", "grant_timeout", "max_connections")),
        *({"deadline": value} for value in (-1, float("nan"), float("inf"), "60", True, None)),
        {"max_connections": 1.5},
        {"max_connections": True},
        {"retry": 3},
        {"rate_limit": 5},
        {"middleware": [1]},
        {"middleware": "abc"},
        {"attempt_middleware": 7},
        {"body_format": "xml"},
        {"body_format": []},
        {"proxy": 5},
        {"transport": "carrier pigeon"},
        {"transport": object()},
        {"transport": StubTransport},
        {"gate": PostgresGate},
        {"observer": 5},
    ],
)
def test_wrong_configuration_is_refused_when_the_session_is_built(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"bot_id": 1, "api_key": "abc"}
    with pytest.raises(UsageError) as error:
        Session(**{**good, **wrong})
    assert "abc" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost/", "http://[::1]:5/v", "http://a.localhost"]
)
def test_plain_http_is_for_a_loopback_host(url: str) -> None:
    assert url.rstrip("/") in repr(session(base_url=url))


def test_the_repr_of_a_session_shows_no_key() -> None:
    assert repr(session()) == "<Session of bot 8047883872 at https://api.tgmembership.com, not entered>"


async def test_use_while_not_open_is_refused_with_advice() -> None:
    tg = session(transport := StubTransport())
    with pytest.raises(UsageError, match="async with"):
        await tg.get_plans()
    assert not tg.is_open
    async with tg:
        assert tg.is_open
        with pytest.raises(UsageError, match="already open"):
            await tg.open()
        await tg.get_plans()
    await tg.aclose()
    with pytest.raises(UsageError, match="closed"):
        await tg.get_plans()
    with pytest.raises(UsageError, match="make a new one"):
        await tg.open()
    assert transport.closed == 1


async def test_a_session_that_was_never_entered_closes_quietly() -> None:
    tg = session(transport := StubTransport())
    await tg.aclose()
    assert transport.closed == 0


def test_another_event_loop_is_refused() -> None:
    tg = session()

    async def use() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await tg.get_plans()

    asyncio.run(tg.open())
    asyncio.run(use())
    anyio.run(use, backend="trio")


async def test_it_is_entered_and_left_in_different_tasks() -> None:
    tg = session()
    await asyncio.create_task(tg.open())
    assert await asyncio.create_task(tg.get_plans()) == []
    await asyncio.create_task(tg.aclose())


def test_the_environment_names_the_bot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOP_BOT_ID", " 42 ")
    monkeypatch.setenv("SHOP_API_KEY", f"{CANARY_KEY}\n")
    monkeypatch.setenv("SHOP_BASE_URL", "http://localhost:9")
    assert "bot 42 at http://localhost:9" in repr(Session.from_env("SHOP_"))
    monkeypatch.delenv("SHOP_API_KEY")
    (tmp_path / "key").write_text(f"{CANARY_KEY}\n")
    monkeypatch.setenv("SHOP_API_KEY_FILE", str(tmp_path / "key"))
    assert "bot 42 at https://other.example" in repr(Session.from_env("SHOP_", base_url="https://other.example"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "set X_BOT_ID to the id of your bot, and X_API_KEY or X_API_KEY_FILE to its key"),
        ({"X_API_KEY": "k"}, "set X_BOT_ID to the id of your bot$"),
        ({"X_BOT_ID": "seven", "X_API_KEY": "k"}, "its value is not a number"),
        ({"X_BOT_ID": "\u0667", "X_API_KEY": "k"}, "its value is not a number"),
        ({"X_BOT_ID": "7"}, "set either X_API_KEY or X_API_KEY_FILE$"),
        ({"X_BOT_ID": "7", "X_API_KEY": "k", "X_API_KEY_FILE": "f"}, "not both"),
        ({"X_BOT_ID": "7", "X_API_KEY_FILE": "/nowhere/at/all"}, "cannot be read: No such file"),
        ({"X_BOT_ID": "7", "X_API_KEY_FILE": __file__}, "white space"),
    ],
)
def test_an_incomplete_environment_is_named(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        Session.from_env("X_")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_key_may_begin_with_a_byte_order_mark(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("X_BOT_ID", "7")
    (tmp_path / "key").write_text(f"{CANARY_KEY}\r\n", encoding=encoding)
    assert secret_in(tmp_path / "key", "the key").reveal() == CANARY_KEY
    monkeypatch.setenv("X_API_KEY_FILE", str(tmp_path / "key"))
    Session.from_env("X_")
    monkeypatch.delenv("X_API_KEY_FILE")
    monkeypatch.setenv("X_API_KEY", f"\ufeff{CANARY_KEY}")
    Session.from_env("X_")


def test_a_key_file_that_is_no_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("X_BOT_ID", "7")
    monkeypatch.setenv("X_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(UsageError, match="not UTF-8"):
        Session.from_env("X_")


def test_a_misspelt_option_is_named_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_BOT_ID", "7")
    monkeypatch.setenv("X_API_KEY", CANARY_KEY)
    with pytest.raises(
        UsageError, match=r"^Session\.from_env takes no option 'max_conections': did you mean 'max_conn"
    ):
        Session.from_env("X_", max_conections=16)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"^with_options takes no option 'deadlin': did you mean 'deadline'"):
        session().with_options(deadlin=5)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"'base_url': it takes deadline, connect_timeout, .*, retry$"):
        session().with_options(base_url="https://x.example")  # type: ignore[call-arg]


def test_the_option_types_are_those_of_the_session() -> None:
    parameters = get_type_hints(Session.__init__)
    options = get_type_hints(SessionOptions)
    assert options == {name: kind for name, kind in parameters.items() if name not in {"bot_id", "api_key", "return"}}
    assert get_type_hints(CallOptions) == {name: options[name] for name in fields_dict(settings.Options)}


async def test_each_method_is_one_request() -> None:
    transport = StubTransport(reply('{"ok": true, "code": 200, "result": null}'))
    async with session(transport) as tg:
        await tg.add_member(1, 42, extra={"note": "x"})
        await tg.get_subscribers(7)
        await tg.delete_webhook()
        assert (await tg.set_webhook("https://shop.example/h")).secret is None
        transport.steps = [reply('{"ok": true, "code": 200, "result": 5}')]
        await tg.count_orders()
        assert int(await tg.count_users()) == 5
        await tg.get_revenue()
        transport.steps = [reply()]
        await tg.get_plans(3)
        await tg.most_popular_payment_methods()
        await tg.plans_performance()
    assert [(r.verb, r.method, dict(r.params)) for r in transport.requests] == [
        ("POST", "addMember", {"plan_id": 1, "member_id": 42, "note": "x"}),
        ("GET", "getSubscribers", {"user_id": 7}),
        ("DELETE", "webhook", {}),
        ("POST", "webhook", {"url": "https://shop.example/h"}),
        ("GET", "countOrders", {}),
        ("GET", "countUsers", {}),
        ("GET", "getRevenue", {}),
        ("GET", "getPlans", {"plan_id": 3}),
        ("GET", "mostPopularPaymentMethods", {}),
        ("GET", "plansPerformance", {}),
    ]


async def test_wrong_arguments_send_nothing() -> None:
    async with session(transport := StubTransport()) as tg:
        for call in (
            lambda: tg.add_member(0),
            lambda: tg.add_member(1, -5),
            lambda: tg.get_plans("1"),  # type: ignore[arg-type]
            lambda: tg.set_webhook("http://shop.example"),
            lambda: tg.call(""),
            lambda: tg.call("x", params={"a": 1.5}),  # type: ignore[dict-item]
        ):
            with pytest.raises(UsageError):
                await call()
    assert transport.requests == []


async def test_any_method_can_be_called_by_name() -> None:
    body = '{"ok": true, "code": "201", "description": "d", "request_id": "r", "result": {"total": "7"}}'
    async with session(StubTransport(not_sent(), reply(body))) as tg:
        answer = await tg.call("newThing", verb="POST", params={"a": 1}, into=dict[str, int])
    assert (answer.result, answer.code, answer.description, answer.request_id) == ({"total": 7}, 201, "d", "r")
    assert answer.attempts == 2
    assert answer.elapsed >= 0


async def test_a_result_that_does_not_fit_says_so_and_that_it_was_done() -> None:
    async with session(StubTransport(reply('{"ok": true, "code": 200, "result": "tok"}'))) as tg:
        with pytest.raises(UnexpectedReply) as error:
            await tg.call("addMember", verb="POST", into=int)
    assert error.value.maybe_applied
    assert "tok" not in str(error.value)
    assert error.value.attempts == 1


async def test_a_view_shares_all_but_its_options() -> None:
    transport = StubTransport(not_sent())
    async with session(transport, retry=RetryPolicy(transient_base=0)) as tg:
        view = tg.with_options(retry=RetryPolicy(attempts=1), deadline=5)
        with pytest.raises(NotSent):
            await view.get_plans()
        assert len(transport.requests) == 1
        assert view.retry_tokens == tg.retry_tokens == 500
        with pytest.raises(NotSent):
            await tg.get_plans()
        assert view.retry_tokens == tg.retry_tokens == 500 - 3 * 14
        assert tg.with_options(own_budget=True).retry_tokens == 500
        with pytest.raises(UsageError, match="deadline must be"):
            tg.with_options(deadline=0)
        for verb in (view.open, view.aclose):
            with pytest.raises(UsageError, match="view"):
                await verb()
    with pytest.raises(UsageError, match="closed"):
        await view.get_plans()


async def test_middleware_wraps_the_call_and_each_attempt() -> None:
    seen: list[str] = []

    def ring(name: str) -> Any:
        async def around(request: Request, call_next: Any) -> Response:
            seen.append(f"{name} {request.attempt}")
            answer: Response = await call_next(attrs.evolve(request, headers=request.headers.with_("x-trace", name)))
            seen.append(f"{name} {answer.status}")
            return answer

        return around

    transport = StubTransport(not_sent(), reply())
    async with session(transport, middleware=[ring("outer")], attempt_middleware=[ring("inner")]) as tg:
        await tg.get_plans()
    assert seen == ["outer 0", "inner 0", "inner 1", "inner 200", "outer 200"]
    assert transport.requests[-1].headers.get("X-Trace") == "inner"


async def test_a_middleware_may_return_its_own_response() -> None:
    async def cached(_request: Request, _call_next: Any) -> Response:
        return reply('{"ok": true, "code": 200, "result": 3}')

    async with session(transport := StubTransport(), middleware=[cached]) as tg:
        assert int(await tg.count_users()) == 3
    assert transport.requests == []


async def test_a_middleware_that_repeats_a_grant_is_stopped() -> None:
    async def stubborn(request: Request, call_next: Any) -> Response:
        try:
            first: Response = await call_next(request)
        except Exception:  # noqa: BLE001 - that is the point
            first = await call_next(request)
        return first

    for where in ("middleware", "attempt_middleware"):
        transport = StubTransport(lost(), reply())
        async with session(transport, **{where: [stubborn]}) as tg:
            with pytest.raises(OutcomeUnknown):
                await tg.add_member(1, 42)
        assert len(transport.requests) == 1


@pytest.mark.parametrize("where", ["middleware", "attempt_middleware"])
async def test_a_middleware_that_sends_a_grant_twice_at_a_time_is_stopped(where: str) -> None:
    async def refused(call_next: Any, request: Request) -> None:
        with pytest.raises(UsageError, match="a middleware repeated addMember") as error:
            await call_next(request)
        stopped.append(error.value)

    async def hedging(request: Request, call_next: Any) -> Response:
        answers: list[Response] = []

        async def send() -> None:
            answers.append(await call_next(request))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await begun.wait()
            await refused(call_next, request)
            release.set()
        return answers[0]

    async def slow(_request: Request) -> Response:
        begun.set()
        await release.wait()
        return reply('{"ok": true, "code": 200, "result": "tok"}')

    begun, release = anyio.Event(), anyio.Event()
    stopped: list[UsageError] = []
    async with session(transport := StubTransport(slow), **{where: [hedging]}) as tg:
        assert (await tg.add_member(1, 42)).token == "tok"
    assert len(stopped) == len(transport.requests) == 1


@pytest.mark.parametrize("error", [AssertionError("not mocked"), ValueError("bug"), RuntimeError("x")])
async def test_a_foreign_exception_is_never_retried(error: Exception) -> None:
    transport = StubTransport(error)
    async with session(transport) as tg:
        with pytest.raises(type(error)) as unchanged:
            await tg.get_plans()
        assert unchanged.value is error
        with pytest.raises(OutcomeUnknown) as unknown:
            await tg.add_member(1, 42)
    assert unknown.value.__cause__ is error
    assert isinstance(unknown.value.cause, ReplyLost)
    assert len(transport.requests) == 2


@pytest.mark.parametrize("where", ["middleware", "attempt_middleware"])
@pytest.mark.parametrize("wrong", [lambda _: None, lambda answer: attrs.evolve(answer, body=answer.body.decode())])
async def test_a_middleware_that_returns_no_response_ends_the_call(wrong: Any, where: str) -> None:
    async def forgets(request: Request, call_next: Any) -> Any:
        return wrong(await call_next(request))

    async with session(transport := StubTransport(), **{where: [forgets]}) as tg:
        with pytest.raises(OutcomeUnknown) as unknown:
            await tg.add_member(1, 42)
        with pytest.raises((TypeError, AttributeError)):
            await tg.get_plans()
    assert isinstance(unknown.value.cause, ReplyLost)
    assert len(transport.requests) == 2


async def test_a_middleware_that_raises_before_a_grant_makes_nothing_unknown() -> None:
    async def forbid(_request: Request, _call_next: Any) -> Response:
        msg = "not on Sundays"
        raise PermissionError(msg)

    async def forbid_attempt(_request: Request, _call_next: Any) -> Response:
        raise KeyError

    async with session(transport := StubTransport(), middleware=[forbid]) as tg:
        with pytest.raises(PermissionError):
            await tg.add_member(1, 42)
    async with session(transport, attempt_middleware=[forbid_attempt]) as tg:
        with pytest.raises(KeyError):
            await tg.add_member(1, 42)
    assert transport.requests == []


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ConnectionResetError("x"), TimeoutError()])
async def test_an_os_error_of_a_transport_is_judged(error: OSError) -> None:
    async with session(StubTransport(error)) as tg:
        with pytest.raises(ReplyLost) as reads:
            await tg.get_plans()
        assert reads.value.attempts == 4
        with pytest.raises(OutcomeUnknown):
            await tg.add_member(1, 42)


async def test_a_transport_that_does_not_set_begun_counts_as_having_sent() -> None:
    class Silent(StubTransport):
        async def send(self, request: Request) -> Response:
            self.requests.append(request)
            raise not_sent()

    async with session(Silent()) as tg:
        with pytest.raises(OutcomeUnknown):
            await tg.add_member(1, 42)


async def test_an_observer_is_called_at_the_end_of_each_call(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[CallEnded] = []
    transport = StubTransport(reply(), lost(), reply('{"ok": true, "code": 200, "result": "what"}'))
    async with session(transport, observer=heard.append) as tg:
        await tg.get_plans()
        with pytest.raises(OutcomeUnknown):
            await tg.add_member(1, 42)
        with pytest.raises(UnexpectedReply):
            await tg.get_plans()
    assert [(h.method, h.attempts, h.maybe_applied, type(h.error)) for h in heard] == [
        ("getPlans", 1, False, type(None)),
        ("addMember", 1, True, OutcomeUnknown),
        ("getPlans", 1, False, UnexpectedReply),
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_observer_that_raises_does_not_affect_the_call(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: CallEnded) -> None:
        raise ZeroDivisionError

    async with session(observer=broken) as tg:
        assert await tg.get_plans() == []
    assert "an observer raised" in caplog.text


async def test_a_log_handler_that_raises_does_not_affect_the_call() -> None:
    class Down(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            raise ConnectionError

    def broken(_: CallEnded) -> None:
        raise ZeroDivisionError

    seen: list[str] = []
    logger, handler = logging.getLogger("tgmembership_async"), Down()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        async with session(StubTransport(GRANTED), observer=broken) as tg:
            assert (await tg.add_member(1, 42)).token == "tok"
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert [text for text in seen if text.startswith("addMember done")]


async def test_a_cancelled_grant_warns_once_and_raises_the_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[CallEnded] = []

    async def hang(_request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError

    async with session(StubTransport(hang), observer=heard.append) as tg:
        for call in (tg.add_member(1, 42), tg.get_plans()):
            task = asyncio.create_task(call)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "addMember was cancelled during its exchange" in warnings[0].getMessage()
    assert [(h.method, h.maybe_applied) for h in heard] == [("addMember", True), ("getPlans", False)]


async def test_closing_ends_reads_at_once_and_waits_for_a_grant() -> None:
    release = anyio.Event()
    sent = anyio.Event()

    async def slow(_request: Request) -> Response:
        sent.set()
        await release.wait()
        return reply('{"ok": true, "code": 200, "result": "tok"}')

    async def late_release() -> None:
        await asyncio.sleep(0.05)
        release.set()

    tg = await session(StubTransport(slow)).open()
    grant = asyncio.create_task(tg.add_member(1, 42))
    read = asyncio.create_task(tg.get_plans())
    await sent.wait()
    await asyncio.sleep(0)
    asyncio.get_running_loop().create_task(late_release())
    await tg.aclose()
    assert (await grant).token == "tok"
    with pytest.raises(UsageError, match="closed during the call"):
        await read


async def test_a_grant_that_was_turned_away_is_not_sent_again_while_closing() -> None:
    async def turned_away(_request: Request) -> Response:
        sent.set()
        await release.wait()
        return reply("", 429, retry_after="0")

    async def grant() -> None:
        with pytest.raises(UsageError, match="the Session was closed during the call"):
            await tg.add_member(1, 42)

    sent, release = anyio.Event(), anyio.Event()
    tg = await session(transport := StubTransport(turned_away, GRANTED)).open()
    async with anyio.create_task_group() as group:
        group.start_soon(grant)
        await sent.wait()
        group.start_soon(tg.aclose)
        await anyio.wait_all_tasks_blocked()
        release.set()
    assert len(transport.requests) == 1


async def test_closing_does_not_wait_for_a_grant_beyond_its_timeout() -> None:
    async def hang(_request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError

    tg = await session(StubTransport(hang), grant_timeout=0.05).open()
    grant = asyncio.create_task(tg.call("newThing", verb="POST"))
    await asyncio.sleep(0.01)
    await tg.aclose()
    with pytest.raises(OutcomeUnknown, match="closed during the exchange"):
        await grant


def on_trio(scenario: Any) -> None:
    """Run on a clock that skips all sleeps."""
    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_pause_holds_all_calls_for_retry_after() -> None:
    async def scenario() -> None:
        times: list[float] = []

        async def timed(request: Request) -> Response:
            times.append(anyio.current_time())
            if len(times) == 1:
                return reply("", 429, retry_after="10")
            del request
            return reply()

        async with session(StubTransport(timed)) as tg:
            start = anyio.current_time()
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(tg.get_plans)
        first, *early_or_late = times
        # All eight slots were taken when the 429 arrived: those requests were in flight already.
        held = [at for at in early_or_late if at - start >= 10]
        assert len(held) >= 13
        assert all(at - start <= 11.1 for at in held)
        assert first == start

    on_trio(scenario)


def test_no_call_without_a_slot_is_sent_during_a_pause() -> None:
    async def scenario() -> None:
        times: list[float] = []

        async def timed(_request: Request) -> Response:
            times.append(anyio.current_time())
            await anyio.sleep(1)
            return reply("", 429, retry_after="100") if len(times) == 1 else reply()

        async with session(StubTransport(timed), max_connections=1, deadline=300) as tg:
            start = anyio.current_time()
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(tg.get_plans)
            assert sum(at - start < 101 for at in times) == 1

    on_trio(scenario)


def test_a_pause_that_exceeds_the_deadline_raises_at_once() -> None:
    async def scenario() -> None:
        transport = StubTransport(reply("", 429, retry_after="100"))
        async with session(transport) as tg:
            start = anyio.current_time()
            for _ in range(3):
                with pytest.raises(RateLimited) as limited:
                    await tg.add_member(1, 42)
                assert limited.value.retry_after == pytest.approx(100, abs=1)
                assert not limited.value.maybe_applied
            assert anyio.current_time() == start
        assert len(transport.requests) == 1

    on_trio(scenario)


def test_a_rate_limit_spaces_requests() -> None:
    async def scenario() -> None:
        times: list[float] = []

        async def timed(_request: Request) -> Response:
            times.append(anyio.current_time())
            return reply()

        limited = session(StubTransport(timed), rate_limit=RateLimit(2, 1.0), deadline=1000)
        async with limited as tg, anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(tg.get_plans)
        gaps = [round(at - times[0], 6) for at in times]
        assert gaps == [0, 0, *(0.5 * n for n in range(1, 19))]

    on_trio(scenario)


def test_a_rate_limit_waits_out_a_pause_too() -> None:
    async def scenario() -> None:
        transport = StubTransport(reply("", 429, retry_after="5"), reply(), reply("", 429, retry_after="500"))
        async with session(transport, rate_limit=RateLimit(1, 1.0)) as tg:
            start = anyio.current_time()
            await tg.get_plans()
            assert 5 <= anyio.current_time() - start <= 6
            with pytest.raises(RateLimited):
                await tg.get_plans()

    on_trio(scenario)


def test_a_429_without_retry_after_is_backed_off_from() -> None:
    async def scenario() -> None:
        transport = StubTransport(reply("", 429), reply("", 429), reply())
        async with session(transport, retry=RetryPolicy()) as tg:
            await tg.get_plans()
        assert len(transport.requests) == 3

    on_trio(scenario)


def test_a_backoff_longer_than_the_deadline_is_not_begun() -> None:
    async def scenario() -> None:
        policy = RetryPolicy(transient_base=1e6, backoff_cap=1e9)
        async with session(StubTransport(not_sent()), retry=policy, deadline=1) as tg:
            with pytest.raises(DeadlineExceeded, match="no time for another attempt") as late:
                await tg.add_member(1, 42)
        assert not late.value.maybe_applied
        assert isinstance(late.value.__cause__, NotSent)

    on_trio(scenario)


@pytest.mark.parametrize(("method", "expected"), [("get_plans", DeadlineExceeded), ("add_member", OutcomeUnknown)])
def test_the_deadline_cuts_an_exchange(method: str, expected: type[Exception]) -> None:
    async def scenario() -> None:
        async def hang(_request: Request) -> Response:
            await anyio.sleep_forever()
            raise AssertionError

        async with session(StubTransport(hang), deadline=20, grant_timeout=60) as tg:
            start = anyio.current_time()
            with pytest.raises(expected):
                await getattr(tg, method)(*([1] if method == "add_member" else []))
            assert anyio.current_time() - start == pytest.approx(20)

    on_trio(scenario)


def test_a_grant_that_a_middleware_holds_until_the_deadline_is_done() -> None:
    async def slow(request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        await anyio.sleep(60)
        return answer

    async def scenario() -> None:
        async with session(StubTransport(GRANTED), middleware=[slow], deadline=20) as tg:
            assert (await tg.add_member(1, 42)).token == "tok"
            with pytest.raises(DeadlineExceeded):
                await tg.get_plans()

    on_trio(scenario)


async def test_the_deadline_holds_in_a_task_that_was_cancelled() -> None:
    async def hang(_request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError

    async def cleans_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            for call, error in ((tg.get_plans, DeadlineExceeded), (tg.add_member, OutcomeUnknown)):
                with pytest.raises(error):
                    await call(1)
                ended.append(error)

    ended: list[type[Exception]] = []
    async with session(StubTransport(hang), deadline=0.05) as tg:
        task = asyncio.create_task(cleans_up())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended == [DeadlineExceeded, OutcomeUnknown]


def test_a_call_that_is_refused_during_a_pause_does_not_lengthen_it() -> None:
    async def scenario() -> None:
        async with session(StubTransport(reply("", 429, retry_after="100"), reply()), deadline=150) as tg:
            start = anyio.current_time()
            impatient = tg.with_options(deadline=10)
            for _ in range(30):
                with pytest.raises(RateLimited):
                    await impatient.get_plans()
                await anyio.sleep(1.003)
            await tg.get_plans()
            assert anyio.current_time() - start <= 100 + 10  # the jitter

    on_trio(scenario)


def test_the_deadline_counts_the_queue() -> None:
    async def scenario() -> None:
        sent = anyio.Event()

        async def slow(_request: Request) -> Response:
            sent.set()
            await anyio.sleep(25)
            return reply('{"ok": true, "code": 200, "result": "tok"}')

        tg = await session(StubTransport(slow), max_connections=1, deadline=40).open()
        async with anyio.create_task_group() as group:
            group.start_soon(tg.add_member, 1)
            await sent.wait()
            with pytest.raises(DeadlineExceeded) as late:
                await tg.with_options(deadline=10).add_member(1, 42)
        await tg.aclose()
        assert not late.value.maybe_applied

    on_trio(scenario)


async def test_a_call_that_begins_while_calls_are_ended_is_not_sent() -> None:
    begun = anyio.Event()
    refused: list[int] = []

    async def waiting(request: Request) -> Response:
        request.progress.begun = False  # as while a connection is made
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            group.start_soon(second)
        raise AssertionError

    async def granted(_request: Request) -> Response:
        await anyio.sleep(0.05)
        return reply('{"ok": true, "code": 200, "result": "tok"}')

    async def first() -> None:
        with pytest.raises(UsageError, match="was closed during the call"):
            await tg.add_member(1, 42)

    async def second() -> None:
        with pytest.raises(UsageError, match="was closed during the call"):
            await tg.add_member(1, 43)
        refused.append(43)

    async with session(transport := StubTransport(waiting, granted)) as tg:
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await begun.wait()
            await tg.end_calls()
        assert (refused, len(transport.requests)) == ([43], 1)
        assert (await tg.add_member(1, 44)).token == "tok"


async def test_tracebacks_of_our_errors_have_no_frames_of_lower_layers() -> None:
    async with session(StubTransport(lost())) as tg:
        with pytest.raises(OutcomeUnknown) as unknown:
            await tg.add_member(1, 42)
    shown = "".join(traceback.TracebackException.from_exception(unknown.value, capture_locals=True).format())
    assert CANARY_KEY not in shown
    assert "stub_transport" not in shown
    assert unknown.value.__context__ is None


async def test_a_secret_serves_as_a_key() -> None:
    async with Session(1, Secret(CANARY_KEY), transport=(transport := StubTransport())) as tg:
        await tg.get_plans()
    assert CANARY_KEY.encode() in bytes(transport.requests[0].encode()[0])


async def test_the_body_format_can_be_form() -> None:
    async with session(transport := StubTransport(), body_format="form") as tg:
        await tg.add_member(1, 42)
    assert transport.requests[0].encode()[2] == b"plan_id=1&member_id=42"


async def test_a_reply_that_echoes_the_key_is_cleaned() -> None:
    echo = f'{{"ok": false, "code": 404, "description": "no /bot8047883872/{CANARY_KEY}/x, {CANARY_KEY}"}}'
    heads: list[Response] = []

    async def look(request: Request, call_next: Any) -> Response:
        heads.append(await call_next(request))
        return heads[-1]

    async with session(StubTransport(reply(echo, location=f"/{CANARY_KEY}")), attempt_middleware=[look]) as tg:
        with pytest.raises(Exception, match=r"404 no /bot8047883872/-/x, \*\*\*"):
            await tg.get_plans()
    assert heads[0].headers.get("location") == "/***"


async def test_a_key_that_the_end_of_a_reply_cuts_off_is_not_shown() -> None:
    line = f"GET /bot8047883872/{CANARY_KEY}/getPlans "
    for cut in range(len(line)):
        body = (line * 100)[: 60 * len(line) + cut]
        async with session(StubTransport(attrs.evolve(reply(body, 500), truncated=True)), retry=ONCE) as tg:
            with pytest.raises(UnexpectedReply, match="too large") as told:
                await tg.get_plans()
        assert CANARY_KEY[:4].encode() not in told.value.body
        assert told.value.body.startswith(b"GET /bot8047883872/-/getPlans ")


async def test_safety_can_be_given() -> None:
    transport = StubTransport(lost())
    async with session(transport) as tg:
        with pytest.raises(ReplyLost):
            await tg.call("newThing", verb="POST", safety=Safety.IDEMPOTENT)
    assert len(transport.requests) == 4
