"""The fake service in process: answers, failures and testimony as a real transport gives them."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from attrs import evolve
from canary import CANARY_KEY

from tgmembership_async.protocol.outcome import TransportFailure
from tgmembership_async.protocol.wire import BotAccount, Progress, Request, Response, Safety, Timeouts
from tgmembership_async.testing import FakeService, FakeTransport, Fault
from tgmembership_async.transport.base import Transport
from tgmembership_async.values.secret import Secret


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    return lambda function: anyio.run(function, backend=backend)


def grant(**timeouts: Any) -> Request:
    account = BotAccount("https", "api.tgmembership.com", None, "", 7, Secret(CANARY_KEY))
    return Request(
        "addMember",
        "POST",
        {"plan_id": 1, "member_id": 42},
        Safety.UNSAFE,
        account,
        Timeouts(**{"connect": 5, "read": 10, **timeouts}),
        Progress(started=0, deadline=60),
    )


def service(*faults: Fault) -> FakeService:
    return FakeService(bot_id=7, api_key=CANARY_KEY, faults=faults)


def test_it_is_a_transport() -> None:
    assert isinstance(FakeTransport(service()), Transport)


def test_a_request_is_answered_and_was_begun(run: Callable[..., Any]) -> None:
    fake, request = service(), grant()

    async def send() -> Response:
        transport = FakeTransport(fake)
        response = await transport.send(request)
        await transport.aclose()
        return response

    assert run(send).envelope.ok is True
    assert request.progress.begun is True
    assert len(fake.audit) == fake.count_requests("addMember") == 1


@pytest.mark.parametrize("body_format", ["json", "form"])
def test_both_body_formats_are_understood(run: Callable[..., Any], body_format: Any) -> None:
    fake = service()
    request = evolve(grant(), account=evolve(grant().account, body_format=body_format))
    assert run(lambda: FakeTransport(fake).send(request)).status == 200
    assert fake.audit[0].member_id == 42


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["closed", "reset", "cut"])
def test_a_broken_connection_is_a_failure_of_a_request_that_was_begun(
    run: Callable[..., Any], kind: Any, when: Any
) -> None:
    fake, request = service(Fault(kind, when=when)), grant()
    with pytest.raises(TransportFailure) as failure:
        run(lambda: FakeTransport(fake).send(request))
    assert (failure.value.connecting, request.progress.begun) == (False, True)
    assert len(fake.audit) == (when == "after")


@pytest.mark.parametrize("kind", ["throttled", "error", "html", "damaged"])
def test_a_bad_answer_is_a_whole_answer(run: Callable[..., Any], kind: Any) -> None:
    assert run(lambda: FakeTransport(service(Fault(kind))).send(grant())).status in (200, 429, 500, 502)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("limit", ["read", "exchange"])
def test_an_answer_beyond_the_timeout_is_lost_and_its_effect_is_not(
    run: Callable[..., Any], when: Any, limit: str
) -> None:
    fake = service(Fault("latency", when=when, seconds=30))
    with pytest.raises(TransportFailure, match=r"no answer within 0\.01 s"):
        run(lambda: FakeTransport(fake).send(grant(**{limit: 0.01})))
    assert len(fake.audit) == 1


def test_cancellation_leaves_an_unknown_outcome_behind(run: Callable[..., Any]) -> None:
    fake, request = service(Fault("latency", seconds=30)), grant()

    async def send() -> None:
        with anyio.move_on_after(0.2):
            await FakeTransport(fake).send(request)

    run(send)
    assert request.progress.begun is True
    assert len(fake.audit) == 1


def test_cancelled_before_it_began_nothing_was_sent(run: Callable[..., Any]) -> None:
    fake, request = service(), grant()

    async def send() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await FakeTransport(fake).send(request)

    run(send)
    assert request.progress.begun is False
    assert fake.requests == []


def test_the_key_does_not_come_back(run: Callable[..., Any]) -> None:
    class Echo(FakeService):
        def handle(self, *args: Any, **options: Any) -> Response:
            response = super().handle(*args, **options)
            return evolve(response, body=response.body + CANARY_KEY.encode())

    response = run(lambda: FakeTransport(Echo(bot_id=7, api_key=CANARY_KEY)).send(grant()))
    assert CANARY_KEY.encode() not in response.body
