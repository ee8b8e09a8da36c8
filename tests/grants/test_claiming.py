"""A row is `sending` only while its request may be in flight: claimed right before it, released before each wait."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from canary import CANARY_KEY
from stub_transport import StubTransport, not_sent, reply
from waiting import until

from tgmembership_async import RateLimit, RateLimited, Request, Response, RetryPolicy, Session, StorageError
from tgmembership_async.grants import Claim, Grant, Granter, GrantRequest, GrantStatus, MemoryLedger, Settlement
from tgmembership_async.protocol.gate import GateReply
from tgmembership_async.values.models import AccessToken

GRANTED = reply('{"ok": true, "code": 200, "result": "tok"}')
REQUEST = GrantRequest("a", 1, 42)


class Watched(MemoryLedger):
    """A ledger that counts the calls of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    async def plan(self, request: GrantRequest) -> Grant:
        self.steps.append("plan")
        return await super().plan(request)

    async def claim(self, request: GrantRequest) -> Claim:
        self.steps.append("claim")
        return await super().claim(request)

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        self.steps.append(f"settle {settlement.status}")
        return await super().settle(ref, settlement)

    def status(self, ref: str = "a") -> GrantStatus | None:
        return self._rows[ref].status if ref in self._rows else None


@asynccontextmanager
async def granting(*steps: Any, ledger: Watched, **options: Any) -> AsyncIterator[tuple[Granter, StubTransport]]:
    transport = StubTransport(*steps)
    async with Granter(Session(1, CANARY_KEY, transport=transport, **options), ledger) as granter:
        yield granter, transport


def on(backend: str, scenario: Any) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await scenario()

    anyio.run(bounded, backend=backend)


def test_a_grant_that_waits_for_nothing_costs_one_claim_and_one_end(backend: str) -> None:
    async def scenario() -> None:
        ledger = Watched()
        async with granting(GRANTED, ledger=ledger) as (granter, _):
            await granter.grant("a", plan_id=1, member_id=42)
            assert ledger.steps == ["claim", "settle granted"]
            await granter.provision([GrantRequest(f"r{n}", 1) for n in range(50)], concurrency=8)
            assert ledger.steps == ["claim", "settle granted"] * 51 or sorted(ledger.steps) == sorted(
                ["claim", "settle granted"] * 51
            )

    on(backend, scenario)


def test_more_callers_than_connections_are_each_sent_once(backend: str) -> None:
    async def scenario() -> None:
        ledger = Watched()

        async def service(_request: Request) -> Response:
            sending.append(sum(row.status is GrantStatus.SENDING for row in ledger._rows.values()))
            await checkpoint()
            return GRANTED

        sending: list[int] = []
        async with granting(service, ledger=ledger, max_connections=4) as (granter, transport):
            async with anyio.create_task_group() as group:
                for n in range(60):

                    async def one(ref: str = f"r{n}") -> None:
                        await granter.grant(ref, plan_id=1)

                    group.start_soon(one)
            assert max(sending) <= 2 * 4
            assert len(transport.requests) == ledger.steps.count("settle granted") == 60
            assert ledger.steps.count("plan") == 56
            # Where tasks run in no order, one that only planned may come before one that has claimed.
            assert ledger.steps.count("claim") - 60 == ledger.steps.count("settle planned") <= 4
            assert backend == "trio" or ledger.steps.count("claim") == 60

    on(backend, scenario)


class Pausing:
    """A shared gate that asks for a pause until the test ends it."""

    is_open = True
    told = GateReply(pause=0.02)

    async def open(self) -> "Pausing":
        return self

    async def aclose(self) -> None:
        """Do nothing."""

    async def ask(self, bot_id: int, limit: RateLimit | None) -> GateReply | None:
        del bot_id, limit
        return self.told

    async def pause(self, bot_id: int, seconds: float) -> None:
        """Do nothing."""


SLOW = RetryPolicy(transient_base=1, throttled_base=1)


@pytest.mark.parametrize("waits_for", ["a told wait", "backoff", "a pause", "a connection", "the rate", "all workers"])
def test_a_row_that_waits_is_planned(waits_for: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgmembership_async.middleware.random", lambda: 0.9)

    async def scenario() -> None:
        ledger, released, gate = Watched(), anyio.Event(), Pausing()
        seen: list[Any] = []

        async def held(_request: Request) -> Response:
            await released.wait()
            return GRANTED

        async def look(_request: Request) -> Response:
            seen.append(ledger.status())
            return GRANTED

        answers: dict[str, list[Any]] = {
            "a told wait": [reply("", 429, retry_after="1")],
            "backoff": [not_sent()],
            "a pause": [reply("", 429, retry_after="1")],
            "a connection": [held],
            "the rate": [GRANTED],
        }
        choices: dict[str, dict[str, Any]] = {
            "backoff": {"retry": SLOW},
            "a connection": {"max_connections": 1},
            "the rate": {"rate_limit": RateLimit(1, 1)},
            "all workers": {"gate": gate},
        }
        first, options = answers.get(waits_for, []), choices.get(waits_for, {})
        async with granting(*first, look, ledger=ledger, **options) as (granter, transport):
            async with anyio.create_task_group() as group:

                async def grant(ref: str) -> None:
                    await granter.grant(ref, plan_id=1, member_id=42)

                if waits_for in ("a pause", "a connection", "the rate"):
                    group.start_soon(grant, "first")
                    await until(lambda: bool(transport.requests))
                    await anyio.sleep(0.01)
                group.start_soon(grant, "a")
                await until(lambda: ledger.status() is GrantStatus.PLANNED)
                await anyio.sleep(0.01)
                assert ledger.status() is GrantStatus.PLANNED
                if first and first[0] is not GRANTED and first[0] is not held and waits_for != "a pause":
                    assert ledger._rows["a"].error is not None, "the row says why it waits"
                assert not any(request.params.get("member_id") is None for request in transport.requests)
                gate.told = GateReply()
                released.set()
            assert ledger.status() is GrantStatus.GRANTED
            assert set(seen) <= {GrantStatus.SENDING, GrantStatus.PLANNED, GrantStatus.GRANTED}
            assert seen[-1] is not GrantStatus.PLANNED

    on(backend, scenario)


def test_a_pause_that_outlasts_the_deadline_claims_nothing(backend: str) -> None:
    async def scenario() -> None:
        ledger = Watched()
        async with granting(reply("", 429, retry_after="3600"), ledger=ledger) as (granter, transport):
            with pytest.raises(RateLimited):
                await granter.grant("a", plan_id=1)
            with pytest.raises(RateLimited) as paused:
                await granter.grant("b", plan_id=1)
            assert ledger.steps == ["claim", "settle planned", "plan"]
            assert paused.value.retry_after is not None
            assert len(transport.requests) == 1

    on(backend, scenario)


async def grant_meanwhile(ledger: MemoryLedger, *, decided: bool = True) -> None:
    """Act as another worker that presumes ours ended, and as the person who decides then."""
    row = await ledger.get("a")
    assert row is not None
    if row.status is GrantStatus.SENDING:
        await ledger.settle("a", Settlement(GrantStatus.UNKNOWN))
    if decided and row.status is GrantStatus.SENDING:
        await ledger.decide("a", "retry", None, "the customer has no link")
    if decided:
        assert (await ledger.claim(REQUEST)).mine
        await ledger.settle("a", Settlement(GrantStatus.GRANTED, token=AccessToken("theirs")))


class GrantedInTheWait(Watched):
    """A ledger whose row another worker grants as soon as it is released."""

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        grant = await super().settle(ref, settlement)
        if settlement.status is GrantStatus.PLANNED:
            await grant_meanwhile(self)
        return grant


def test_a_row_that_was_granted_by_another_during_a_wait_is_not_sent(backend: str) -> None:
    async def scenario() -> None:
        ledger = GrantedInTheWait()
        async with granting(reply("", 429, retry_after="0.05"), GRANTED, ledger=ledger) as (granter, transport):
            row = await granter.grant("a", plan_id=1, member_id=42)
            assert (row.token and row.token.token) == "theirs"
            assert len(transport.requests) == 1

    on(backend, scenario)


@pytest.mark.parametrize("doubt", ["time", "connection"])
@pytest.mark.parametrize("taken", [True, False])
def test_a_claim_in_doubt_is_proved_before_it_is_used(
    doubt: str, *, taken: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ledger = Watched()
        ledger.interruptions = 0  # type: ignore[attr-defined]  # as a PostgresLedger has them

        async def held_up(request: Request, call_next: Any) -> Response:
            if doubt == "time":
                monkeypatch.setattr("tgmembership_async.grants.claiming._SURE_FOR", -1)
            ledger.interruptions += 1  # type: ignore[attr-defined]
            if taken:
                await grant_meanwhile(ledger)
            return await call_next(request)  # type: ignore[no-any-return]

        async with granting(GRANTED, ledger=ledger, middleware=[held_up]) as (granter, transport):
            row = await granter.grant("a", plan_id=1, member_id=42)
            assert (row.token and row.token.token) == ("theirs" if taken else "tok")
            assert len(transport.requests) == (0 if taken else 1)

    on(backend, scenario)
    monkeypatch.undo()


def test_a_middleware_that_answers_in_place_of_the_service_is_recorded(backend: str) -> None:
    async def answer(_request: Request, _call_next: Any) -> Response:
        return GRANTED

    async def scenario() -> None:
        ledger = Watched()
        # Without a place that is free the row is only planned when the answer comes.
        options: dict[str, Any] = {"middleware": [answer], "rate_limit": RateLimit(1, 0.001)}
        async with granting(ledger=ledger, **options) as (granter, transport):
            assert (await granter.grant("a", plan_id=1)).status is GrantStatus.GRANTED
            assert transport.requests == []

    on(backend, scenario)


class Failing(Watched):
    """A ledger that raises a foreign exception in the given steps."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = list(failing)

    def _fail(self, step: str) -> None:
        if self.failing and self.failing[0] == step:
            self.failing.pop(0)
            raise OSError(24, "Too many open files")

    async def claim(self, request: GrantRequest) -> Claim:
        if self.steps:
            self._fail("claim")
        return await super().claim(request)

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        self._fail(settlement.status)
        return await super().settle(ref, settlement)


def test_what_cannot_be_claimed_again_is_not_sent_again(backend: str) -> None:
    async def scenario() -> None:
        ledger = Failing("claim")
        async with granting(reply("", 429, retry_after="0.001"), GRANTED, ledger=ledger) as (granter, transport):
            with pytest.raises(StorageError, match="was not sent"):
                await granter.grant("a", plan_id=1)
            assert len(transport.requests) == 1
            assert ledger.status() is GrantStatus.PLANNED
            assert (await granter.grant("a", plan_id=1)).status is GrantStatus.GRANTED

    on(backend, scenario)


def test_a_row_that_could_not_be_let_go_is_let_go_before_it_is_sent_again(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ledger = Failing("planned", "planned")
        async with granting(reply("", 429, retry_after="0.001"), GRANTED, ledger=ledger) as (granter, transport):
            row = await granter.grant("a", plan_id=1)
            assert (row.status, row.attempts) == (GrantStatus.GRANTED, 2)
            assert [attempt.status for attempt in await ledger.attempts("a")] == [
                GrantStatus.PLANNED,
                GrantStatus.GRANTED,
            ]
            assert len(transport.requests) == 2

    with caplog.at_level(logging.ERROR):
        on(backend, scenario)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
