"""What faults make of one request: whether it takes effect, what is answered, and how the answer ends."""

import json

import anyio
import pytest
from canary import CANARY_KEY

from tgmembership_async.protocol.envelope import NoEnvelope, parse
from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing import FakeService, Fault
from tgmembership_async.testing.fake.fault_effects import Ending, exchange

TARGET = f"/bot7/{CANARY_KEY}/addMember".encode()


def carried(*faults: Fault) -> tuple[FakeService, Response, Ending, list[float]]:
    fake = FakeService(bot_id=7, api_key=CANARY_KEY, faults=faults)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def carry() -> tuple[Response, Ending]:
        return await exchange(fake, "POST", TARGET, Headers(), b"plan_id=1&member_id=1", sleep=sleep)

    answer, ending = anyio.run(carry)
    return fake, answer, ending, slept


def test_without_faults_the_service_answers_at_once() -> None:
    fake, answer, ending, slept = carried()
    assert (answer.status, ending, slept, len(fake.audit)) == (200, "whole", [], 1)


@pytest.mark.parametrize(
    ("fault", "grants"),
    [
        (Fault("throttled"), 0),
        (Fault("error"), 0),
        (Fault("error", when="after"), 1),
        (Fault("html"), 0),
        (Fault("html", when="after"), 1),
        (Fault("damaged"), 1),
        (Fault("damaged", when="before"), 0),
        (Fault("cut"), 1),
        (Fault("cut", when="before"), 0),
        (Fault("closed"), 0),
        (Fault("closed", when="after"), 1),
        (Fault("reset"), 0),
        (Fault("reset", when="after"), 1),
        (Fault("latency", seconds=1), 1),
        (Fault("latency", when="after", seconds=1), 1),
    ],
    ids=lambda value: value.label if isinstance(value, Fault) else str(value),
)
def test_before_means_no_effect_and_after_means_one(fault: Fault, grants: int) -> None:
    fake, _, _, _ = carried(fault)
    assert len(fake.audit) == grants
    assert fake.requests[0].faults == (fault.label,)


@pytest.mark.parametrize("kind", ["cut", "closed", "reset"])
def test_some_faults_end_the_connection(kind: Ending) -> None:
    assert carried(Fault(kind))[2] == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wait", "header"),
    [(None, None), (0, "0"), (2, "2"), (0.05, "0.05"), (100.0, "100"), ("Sun, 01 Mar 2026 12:00:00 GMT", ...)],
)
def test_a_wait_is_told_as_asked(wait: float | str | None, header: object) -> None:
    _, answer, ending, _ = carried(Fault("throttled", retry_after=wait))
    assert (answer.status, ending) == (429, "whole")
    assert answer.headers.get("retry-after") == (wait if header is ... else header)
    assert json.loads(answer.body)["ok"] is False


def test_an_error_stands_in_an_envelope() -> None:
    _, answer, _, _ = carried(Fault("error", status=503))
    assert answer.status == json.loads(answer.body)["code"] == 503


def test_a_page_of_html_is_no_envelope() -> None:
    _, answer, _, _ = carried(Fault("html", status=429, retry_after=1))
    assert answer.body.startswith(b"<!doctype html>")
    assert (answer.status, answer.headers.get("retry-after")) == (429, "1")
    assert isinstance(parse(answer.body), NoEnvelope)


def test_a_damaged_body_is_as_long_as_the_true_one_and_cannot_be_read() -> None:
    _, whole, _, _ = carried()
    _, damaged, _, _ = carried(Fault("damaged"))
    assert len(damaged.body) == len(whole.body)
    assert isinstance(parse(damaged.body), NoEnvelope)


def test_a_pair_of_latency_and_error_waits_and_fails() -> None:
    fake, answer, _, slept = carried(
        Fault("latency", seconds=1), Fault("error", when="after"), Fault("latency", seconds=2, when="after")
    )
    assert (slept, answer.status, len(fake.audit)) == ([1, 2], 500, 1)


def test_a_request_that_arrived_takes_effect_though_its_client_goes_away() -> None:
    fake = FakeService(bot_id=7, api_key=CANARY_KEY, faults=[Fault("latency", seconds=60)])

    async def carry() -> None:
        with anyio.move_on_after(0):
            await exchange(fake, "POST", TARGET, Headers(), b"plan_id=1", sleep=anyio.sleep)

    anyio.run(carry)
    assert len(fake.audit) == 1
