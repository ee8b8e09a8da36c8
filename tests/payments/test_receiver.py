"""`PaymentReceiver` behind real servers: an event is recorded by a real Fulfillment before it is answered."""

import asyncio
import gzip
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from no_tls import NO_TLS
from stripe import WebhookSignature
from stripe_events import METADATA, SECRET, charge, event, session, signed

from tgmembership_async import Session, UsageError
from tgmembership_async.ext.fastapi import lifespan, receiver_router
from tgmembership_async.fulfillment import Fulfillment, FulfillmentPolicy
from tgmembership_async.grants import Grant, Granter, GrantStatus, Ledger, MemoryLedger, SqliteLedger
from tgmembership_async.payments import Attention, PaymentReceiver
from tgmembership_async.payments.stripe import StripeAdapter
from tgmembership_async.testing import FakeService, FakeTransport, Fault

PAID = event("checkout.session.completed", session())
REFUNDED = event("charge.refunded", charge(), name="evt_2")
QUICK = FulfillmentPolicy(backoff_base=0.01, backoff_cap=0.05)


class Shop:
    """A shop behind a server: what was delivered and asked."""

    def __init__(self, ledger: Ledger | None = None, service: FakeService | None = None, **options: Any) -> None:
        self.service = service or FakeService()
        self.session = Session(**self.service.session_options(), transport=FakeTransport(self.service))
        self.links: list[str] = []
        self.questions: list[Attention] = []
        self.failing = 0
        granter = Granter(self.session, ledger or MemoryLedger())
        self.fulfillment = Fulfillment(
            granter, deliver=self.deliver, attention=self.held, policy=QUICK, every=0.1, deadline=0.3
        )
        self.receiver = PaymentReceiver(StripeAdapter(SECRET), self.fulfillment, attention=self.ask, **options)
        self.app = FastAPI(lifespan=lifespan(self.session, fulfillment=self.fulfillment))
        self.app.include_router(receiver_router(self.receiver, "/stripe"))

    async def deliver(self, grant: Grant) -> None:
        assert grant.token is not None
        self.links.append(grant.token.link or "")

    async def held(self, grant: Grant) -> None:
        self.questions.append(Attention(grant.ref, str(grant.error)))

    async def ask(self, attention: Attention) -> None:
        if self.failing:
            self.failing -= 1
            raise LookupError(SECRET)
        self.questions.append(attention)

    async def becomes(self, ref: str, status: GrantStatus) -> None:
        async with asyncio.timeout(30):
            while (row := await self.fulfillment.granter.ledger.get(ref)) is None or row.status is not status:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server._serve())
    try:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def post(client: httpx.AsyncClient, body: bytes, headers: Any = None) -> int:
    headers = signed(body) if headers is None else headers
    return (await client.post("/stripe", content=body, headers=headers)).status_code


async def test_a_payment_is_recorded_granted_once_and_delivered_however_often_it_is_repeated() -> None:
    shop = Shop()
    async with serving(shop.app) as client:
        for _ in range(3):
            assert await post(client, PAID) == 200
        await shop.becomes("stripe:pi_1", GrantStatus.DELIVERED)
        assert await post(client, PAID) == 200
    assert [(grant.plan_id, grant.member_id) for grant in shop.service.audit] == [(1, 42)]
    assert shop.links == [token.link for token in shop.service.tokens]
    assert shop.questions == []


def test_the_tests_sign_as_the_stripe_package_does() -> None:
    signer = getattr(WebhookSignature, "generate_signature_header", None)
    if signer is None:
        pytest.skip("this release of stripe has no signer")
    assert signed(PAID, at=1_790_000_000) == {"Stripe-Signature": signer(PAID.decode(), SECRET, 1_790_000_000)}


async def test_a_forgery_is_400_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    async with serving(shop.app) as client:
        for headers in (
            {},
            signed(PAID, "whsec_another"),
            {"stripe-signature": b"t=1,v1=\xe9"},
            {"stripe-signature": "t=1"},
        ):
            assert await post(client, PAID, headers) == 400
        answer = await client.post("/stripe", content=PAID)
    assert answer.text == "not authentic\n"
    assert not shop.service.requests
    assert caplog.text.count("refused as not authentic") == 1, "a forger cannot fill the log"


async def compressed(client: httpx.AsyncClient) -> list[int]:
    """Post a compressed event, one that is not, one in another coding, and one that is too large once decoded."""
    bomb = gzip.compress(b" " * 2_000_000)
    bodies = ((gzip.compress(PAID), "gzip"), (PAID, "gzip"), (PAID, "br"), (bomb, "gzip"))
    return [await post(client, body, {**signed(PAID), "content-encoding": coding}) for body, coding in bodies]


async def test_a_compressed_event_is_decoded_up_to_a_limit() -> None:
    shop = Shop()
    async with serving(shop.app) as client:
        assert await compressed(client) == [200, 400, 400, 413]


async def test_other_verbs_and_large_bodies_are_refused() -> None:
    shop = Shop(max_body=1_000)
    async with serving(shop.app) as client:
        assert (await client.get("/stripe")).status_code == 405
        assert await post(client, b" " * 2_000) == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b" " * 500

        assert (await client.post("/stripe", content=chunks())).status_code == 413


async def test_what_only_a_person_can_judge_is_told_and_repeated_until_it_is() -> None:
    shop = Shop()
    shop.failing = 1
    foreign = event("checkout.session.completed", session(metadata={}))
    async with serving(shop.app) as client:
        assert [await post(client, foreign) for _ in range(2)] == [503, 200]
    [question] = shop.questions
    assert question.ref == "stripe:pi_1"
    assert "no valid plan_id" in question.text


async def test_another_plan_under_a_ref_is_told() -> None:
    shop = Shop()
    other = event("checkout.session.completed", session(metadata={**METADATA, "plan_id": "2"}))
    async with serving(shop.app) as client:
        assert [await post(client, body) for body in (PAID, other)] == [200, 200]
    [question] = shop.questions
    assert question.ref == "stripe:pi_1"


async def test_a_refund_before_the_grant_abandons_it_and_one_after_it_is_told() -> None:
    shop = Shop(service=FakeService(faults=[Fault("error", method="addMember", status=401)]))
    async with serving(shop.app) as client:
        assert [await post(client, body) for body in (PAID, REFUNDED, REFUNDED, PAID)] == [200] * 4
        await shop.becomes("stripe:pi_1", GrantStatus.ABANDONED)
    assert not shop.service.audit
    assert shop.questions == []

    shop = Shop()
    async with serving(shop.app) as client:
        await post(client, PAID)
        await shop.becomes("stripe:pi_1", GrantStatus.DELIVERED)
        assert await post(client, REFUNDED) == 200
    [question] = shop.questions
    assert "refunded in Stripe, and is delivered" in question.text


async def test_a_refund_that_arrives_first_is_told_or_with_its_metadata_keeps_the_payment_from_being_granted() -> None:
    shop = Shop()
    known = event("charge.refunded", charge(payment_intent="pi_2", metadata=METADATA))
    async with serving(shop.app) as client:
        assert await post(client, REFUNDED) == 200
        assert "not in the ledger" in shop.questions[0].text
        assert await post(client, known) == 200
        assert await post(client, event("checkout.session.completed", session(payment_intent="pi_2"))) == 200
        await shop.becomes("stripe:pi_2", GrantStatus.ABANDONED)
    assert not shop.service.audit


async def test_while_the_ledger_cannot_write_the_answer_is_503_and_then_the_payment_is_taken(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgmembership_async.storage.sqlite.schema._OWNER_WAITS", 0.02)
    path = quick_path / "grants.db"
    shop = Shop(SqliteLedger(path))
    async with serving(shop.app) as client:
        lock = sqlite3.connect(path, isolation_level=None, timeout=60)
        lock.execute("BEGIN EXCLUSIVE")
        answer = await client.post("/stripe", content=PAID, headers=signed(PAID))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        lock.execute("ROLLBACK")
        lock.close()
        assert await post(client, PAID) == 200
        await shop.becomes("stripe:pi_1", GrantStatus.DELIVERED)
    assert len(shop.service.audit) == 1


async def test_an_event_that_takes_too_long_is_answered_503(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(deadline=0.05)

    async def never(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("tgmembership_async.payments.receiver.record", never)
    async with serving(shop.app) as client:
        assert await post(client, PAID) == 503


async def test_as_a_whole_application_it_opens_and_closes_the_fulfillment() -> None:
    shop = Shop()
    async with serving(shop.receiver.asgi) as client:
        assert shop.fulfillment.is_open
        assert await post(client, PAID) == 200
        await shop.becomes("stripe:pi_1", GrantStatus.DELIVERED)
    assert not shop.fulfillment.is_open
    assert (await shop.receiver.handle(signed(PAID), PAID)).status == 503


async def test_behind_aiohttp_it_answers_the_same() -> None:
    shop = Shop()
    application = web.Application()
    application.router.add_route("*", "/stripe", shop.receiver.aiohttp_handler)
    async with shop.receiver:
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as client:
            assert [await post(client, PAID), await post(client, PAID, {})] == [200, 400]
            assert await compressed(client) == [200, 400, 400, 413]
            await shop.becomes("stripe:pi_1", GrantStatus.DELIVERED)
        await runner.cleanup()


def test_wrong_arguments_are_told() -> None:
    shop = Shop()
    adapter: Any = StripeAdapter(SECRET)
    for wrong in ((shop, shop.fulfillment), (adapter, shop)):
        with pytest.raises(UsageError, match="an adapter and a Fulfillment"):
            PaymentReceiver(*wrong, attention=shop.ask)
    for name, value in {"attention": None, "deadline": 0, "max_body": 0, "body_timeout": -1}.items():
        options: Any = {"attention": shop.ask, name: value}
        with pytest.raises(UsageError, match=name):
            PaymentReceiver(adapter, shop.fulfillment, **options)
    assert repr(shop.receiver) == "<PaymentReceiver with <StripeAdapter with 1 secret(s)>>"
