"""The Receiver without a server: what is answered, who is told, what a repeat and a failure lead to."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from canary import CANARY_SECRET
from webhook_deliveries import Clock, Seen, body, signed

from tgmembership_async.errors import UsageError
from tgmembership_async.webhooks import (
    Event,
    HandlingPolicy,
    MembershipTerminated,
    MemoryReplay,
    OrderCompleted,
    Receiver,
    SqliteInbox,
    UnknownEvent,
    Verifier,
)

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
PATIENT = HandlingPolicy(backoff_base=0.01)


def receiver(inbox: SqliteInbox | None = None, *, policy: HandlingPolicy = PATIENT, **options: Any) -> Receiver:
    verifier = Verifier(CANARY_SECRET, clock=options["clock"]) if "clock" in options else Verifier(CANARY_SECRET)
    return Receiver(verifier, inbox, policy=policy, **options)


async def deliver(to: Receiver, content: bytes, **how: Any) -> int:
    return (await to.handle(signed(content, **how), content)).status


class TestRouting:
    def test_a_handler_gets_the_events_of_its_name_or_class(self, run: Run) -> None:
        async def scenario() -> None:
            to = receiver()
            paid, ended, everything, rest = Seen(), Seen(), Seen(), Seen()
            to.on("order_completed")(paid)
            to.on(MembershipTerminated)(ended)
            for number, event in enumerate(["order_completed", "membership_terminated"]):
                assert await deliver(to, body(number, event=event)) == 200
            to.on(Event)(everything)
            to.on_unknown(rest)
            assert await deliver(to, body(3, event="donation_received")) == 200
            assert [type(event) for event in paid.events] == [OrderCompleted]
            assert [type(event) for event in ended.events] == [MembershipTerminated]
            assert [event.name for event in everything.events] == ["donation_received"]
            assert rest.events == []

        run(scenario)

    def test_on_unknown_gets_what_nobody_else_takes(self, run: Run) -> None:
        async def scenario() -> None:
            to = receiver()
            paid, rest = Seen(), Seen()
            to.on("order_completed")(paid)
            to.on_unknown(rest)
            await deliver(to, body(1))
            await deliver(to, body(2, event="donation_received"))
            assert [type(event) for event in rest.events] == [UnknownEvent]
            assert len(paid.events) == 1

        run(scenario)

    def test_an_event_that_nobody_takes_is_answered_and_reported_once(
        self, run: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario() -> None:
            to = receiver()
            for number in range(3):
                assert await deliver(to, body(number)) == 200

        run(scenario)
        assert [record.getMessage()[:32] for record in caplog.records if record.levelno == logging.WARNING] == [
            "no handler is registered for the"
        ]

    def test_the_decorators_give_the_function_back(self) -> None:
        to = receiver()

        async def handler(event: Event) -> None: ...

        assert to.on("x")(handler) is handler
        assert to.on(Event)(handler) is handler
        assert to.on_unknown(handler) is handler

    @pytest.mark.parametrize("what", ["", " ", 7, int, [], print])
    def test_what_cannot_happen_cannot_be_registered(self, what: Any) -> None:
        register: Any = receiver().on
        with pytest.raises(UsageError, match="for the name of an event"):
            register(what)(Seen())

    @pytest.mark.parametrize("handler", [print, Seen, None, "name"])
    def test_a_handler_is_an_async_function(self, handler: Any) -> None:
        with pytest.raises(UsageError, match="async function"):
            receiver().on("order_completed")(handler)


class TestAnswers:
    def test_of_every_kind(self, run: Run) -> None:
        async def scenario() -> None:
            to = receiver(max_body=200)
            content = body()
            assert (await to.handle({}, content)).status == 401
            assert (await to.handle(signed(b"other"), content)).status == 401
            assert (await to.handle(signed(b"x" * 201), b"x" * 201)).status == 413
            assert await deliver(to, b"not json") == 400
            assert await deliver(to, content) == 200
            assert (await to.handle({}, b"")).status == 401

        run(scenario)

    @pytest.mark.parametrize("version", ["1.1", "2"])
    def test_a_body_that_does_not_come_in_time_is_not_waited_for(self, run: Run, version: str) -> None:
        async def scenario() -> None:
            first, sent = [True], list[Any]()

            async def receive() -> dict[str, Any]:
                if not first:
                    await anyio.sleep(0.01)
                first.clear()
                return {"type": "http.request", "body": b" ", "more_body": True}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "http_version": version, "headers": []}
            await receiver(body_timeout=0.05).asgi(scope, receive, send)
            assert (sent[0]["status"], sent[1]["body"]) == (408, b"too slow\n")
            assert ((b"connection", b"close") in sent[0]["headers"]) is (version == "1.1")

        run(scenario)

    def test_nothing_in_an_answer_helps_a_forger(self, run: Run) -> None:
        async def scenario() -> None:
            stale, forged = signed(b"{}", at=1), signed(b"other")
            answers = [await receiver().handle(headers, b"{}") for headers in (stale, forged, {})]
            assert {answer.body for answer in answers} == {b"not authentic\n"}

        run(scenario)

    @pytest.mark.parametrize(
        ("verb", "length", "status"),
        [
            ("POST", None, None),
            ("POST", "200", None),
            ("POST", "201", 413),
            ("POST", "9" * 5000, 413),
            ("POST", "nonsense", None),
            ("GET", None, 405),
            ("HEAD", None, 405),
            ("PUT", None, 405),
            ("BREW", None, 405),
        ],
    )
    def test_before_the_body_is_read(self, verb: str, length: str | None, status: int | None) -> None:
        answer = receiver(max_body=200).before_body(verb, length)
        assert (None if answer is None else answer.status) == status
        if status == 405:
            assert answer is not None
            assert ("allow", "POST") in answer.headers

    def test_probes_are_answered_where_they_are_wanted(self, run: Run) -> None:
        async def scenario() -> None:
            to = receiver(probes=True)
            for verb in ("GET", "HEAD"):
                answer = to.before_body(verb)
                assert answer is not None
                assert answer.status == 200
            assert (await to.handle({}, b"")).status == 200
            assert (await to.handle({}, b"{}")).status == 401
            denied = to.before_body("PUT")
            assert denied is not None
            assert ("allow", "GET, HEAD, POST") in denied.headers

        run(scenario)

    def test_refusals_are_reported_once_a_minute(self, run: Run, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario() -> None:
            to = receiver()
            for _ in range(5):
                await to.handle({}, b"{}")

        run(scenario)
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage() == (
            "1 request(s) refused as not authentic, the last one: no signature in any header"
        )


class TestWithoutInbox:
    def test_a_repeat_is_answered_and_not_handled_twice(self, run: Run) -> None:
        async def scenario() -> None:
            to, seen = receiver(), Seen()
            to.on(Event)(seen)
            for how in ({}, {}, {"nonce": "another"}, {"nonce": None}):
                assert await deliver(to, body(), **how) == 200
            assert len(seen.events) == 1
            assert await deliver(to, body(2)) == 200
            assert len(seen.events) == 2

        run(scenario)

    def test_without_a_window_only_the_signed_delivery_is_a_repeat(self, run: Run) -> None:
        async def scenario() -> None:
            to, seen = receiver(policy=HandlingPolicy(repeat_window=0)), Seen()
            to.on(Event)(seen)
            headers = signed(body())
            for _ in range(2):
                await to.handle(headers, body())
            await deliver(to, body(), nonce="another")
            assert len(seen.events) == 2

        run(scenario)

    def test_a_failure_answers_500_and_the_repeat_is_handled(self, run: Run) -> None:
        async def scenario() -> None:
            to, seen = receiver(), Seen(RuntimeError("mail server down"))
            to.on(Event)(seen)
            headers = signed(body())
            assert [(await to.handle(headers, body())).status for _ in range(3)] == [500, 200, 200]
            assert len(seen.events) == 2

        run(scenario)

    def test_one_failing_handler_does_not_keep_the_others_from_it(self, run: Run) -> None:
        async def scenario() -> None:
            to, seen = receiver(), Seen()
            to.on(Event)(Seen(RuntimeError()))
            to.on(Event)(seen)
            assert await deliver(to, body()) == 500
            assert len(seen.events) == 1

        run(scenario)

    def test_a_handler_that_hangs_is_a_handler_that_fails(self, run: Run) -> None:
        async def scenario() -> None:
            to = receiver(policy=HandlingPolicy(handler_timeout=0.01))
            to.on(Event)(_hang)
            assert await deliver(to, body()) == 500

        run(scenario)

    @pytest.mark.parametrize(
        ("failures", "statuses", "handled"), [([], [200, 200], 1), ([RuntimeError()], [200, 500], 2)]
    )
    def test_two_at_once_share_one_handling_and_its_outcome(
        self, run: Run, failures: list[Exception], statuses: list[int], handled: int
    ) -> None:
        async def scenario() -> None:
            to, seen, go, found = receiver(), Seen(*failures), anyio.Event(), list[int]()

            @to.on(Event)
            async def slow(event: Event) -> None:
                await go.wait()
                await seen(event)

            async def one() -> None:
                found.append(await deliver(to, body()))

            async with anyio.create_task_group() as group:
                group.start_soon(one)
                group.start_soon(one)
                await anyio.wait_all_tasks_blocked()
                assert not found
                go.set()
            assert (sorted(found), len(seen.events)) == (statuses, handled)

        run(scenario)

    def test_what_was_cancelled_may_come_again(self, run: Run) -> None:
        async def scenario() -> None:
            to, seen, first, scope = receiver(), Seen(), True, anyio.CancelScope()

            async def hangs_once(event: Event) -> None:
                nonlocal first
                await seen(event)
                if first:
                    first = False
                    scope.cancel()
                    await anyio.sleep_forever()

            to.on(Event)(hangs_once)
            with scope:
                await deliver(to, body())
            assert await deliver(to, body()) == 200
            assert len(seen.events) == 2

        run(scenario)

    def test_entering_is_not_needed_and_does_no_harm(self, run: Run) -> None:
        async def scenario() -> None:
            to = receiver()
            async with to:
                assert await deliver(to, body()) == 200
            assert await deliver(to, body(2)) == 200
            assert await to.process_pending() == 0
            await to.run()

        run(scenario)


async def _hang(_: Event) -> None:
    await anyio.sleep_forever()


class TestMemoryReplay:
    def test_it_forgets_after_a_time(self, run: Run) -> None:
        async def scenario() -> None:
            clock = Clock()
            replay = MemoryReplay(keep=10, clock=clock)
            assert await replay.reserve(["a", "b"])
            replay.commit(["a", "b"])
            clock.now += 9.9
            assert not await replay.reserve(["b", "c"])
            clock.now += 0.2
            assert await replay.reserve(["b", "c"])
            assert len(replay) == 0

        run(scenario)

    def test_it_is_bounded_and_the_oldest_go_first(self, run: Run) -> None:
        async def scenario() -> None:
            replay = MemoryReplay(max_entries=10)
            for number in range(100):
                assert await replay.reserve([str(number)])
                replay.commit([str(number)])
            assert len(replay) <= 11
            assert not await replay.reserve(["99"])
            assert await replay.reserve(["0"])

        run(scenario)

    @pytest.mark.parametrize("options", [{"max_entries": 0}, {"max_entries": True}, {"keep": 0}, {"keep": "1"}])
    def test_bounds_that_cannot_be_right(self, options: Any) -> None:
        with pytest.raises(UsageError, match=next(iter(options))):
            MemoryReplay(**options)

    def test_one_of_your_own_is_used(self, run: Run) -> None:
        async def scenario() -> None:
            replay = MemoryReplay()
            assert await deliver(receiver(replay=replay), body()) == 200
            assert len(replay) == 2

        run(scenario)


class TestConfiguration:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_attempts": 0},
            {"max_attempts": 1.5},
            {"concurrency": 0},
            {"concurrency": True},
            {"backoff_base": 0},
            {"backoff_cap": -1},
            {"handler_timeout": None},
            {"repeat_window": -1},
            {"keep": "30"},
        ],
    )
    def test_a_policy_that_cannot_be_right(self, options: Any) -> None:
        with pytest.raises(UsageError, match=next(iter(options))):
            HandlingPolicy(**options)

    def test_the_backoff_doubles_up_to_its_cap_less_half_by_chance(self) -> None:
        policy = HandlingPolicy(backoff_base=1, backoff_cap=10)
        assert [policy.backoff(attempt, 0) for attempt in (1, 2, 3, 4, 5, 10_000)] == [1, 2, 4, 8, 10, 10]
        assert policy.backoff(4, 1) == 4

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            ({"verifier": CANARY_SECRET}, "Verifier"),
            ({"inbox": "inbox.db"}, "inbox"),
            ({"policy": None}, "policy"),
            ({"max_body": 0}, "max_body"),
            ({"max_body": True}, "max_body"),
            ({"body_timeout": 0}, "body_timeout"),
        ],
    )
    def test_a_receiver_that_cannot_be_right(self, arguments: Any, what: str) -> None:
        with pytest.raises(UsageError, match=what):
            Receiver(**{"verifier": Verifier("secret"), **arguments})

    def test_its_repr_is_short_and_shows_no_secret(self) -> None:
        assert repr(receiver()) == "<Receiver without an inbox>"
        assert repr(receiver().asgi) == "<Receiver without an inbox>.asgi"
