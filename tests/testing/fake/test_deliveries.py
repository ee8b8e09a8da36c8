"""The fake service's own calls: signed, repeated, doubled, forged, mixed up, and probed before any of it."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import anyio
import httpx
import pytest
from no_tls import NO_TLS
from waiting import wait_for

from tgmembership_async import Session
from tgmembership_async.errors import BadRequest, NotAuthentic, UsageError
from tgmembership_async.testing import Courier, FakeService, Postal, serve
from tgmembership_async.testing.fake.values import Refusal
from tgmembership_async.webhooks import MembershipTerminated, OrderCompleted, Receiver, Verifier

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class Box:
    """What was posted, each request answered with the next of some statuses, or 200."""

    def __init__(self, secret: str, *statuses: int | None) -> None:
        self.verifier = Verifier(secret)
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.digests: list[str | None] = []

    async def post(self, _: str, headers: Mapping[str, str], body: bytes) -> int | None:
        await anyio.lowlevel.checkpoint()
        self.bodies.append(body)
        try:
            self.digests.append(self.verifier.verify(headers, body).digest)
        except NotAuthentic:
            self.digests.append(None)
            return 401
        return self.statuses.pop(0) if self.statuses else 200

    @property
    def numbers(self) -> list[int]:
        return [int(json.loads(body)["data"]["order_id"]) for body in self.bodies]


@pytest.fixture
def fake() -> FakeService:
    service = FakeService()
    service.set_webhook("https://shop.example/hooks")
    return service


def boxed(fake: FakeService, *statuses: int | None) -> Box:
    assert fake.webhook is not None
    return Box(fake.webhook.secret, *statuses)


def order(fake: FakeService, times: int = 1) -> None:
    for number in range(times):
        fake.order(1, 42 + number)


def test_an_order_and_an_end_of_access_are_told_as_events(fake: FakeService, run: Run) -> None:
    async def scenario() -> None:
        assert fake.webhook is not None
        receiver, seen = Receiver(Verifier(fake.webhook.secret)), list[Any]()

        @receiver.on_unknown
        async def note(event: Any) -> None:
            seen.append(event)

        async def post(_: str, headers: Mapping[str, str], body: bytes) -> int:
            return (await receiver.handle(headers, body)).status

        order(fake)
        fake.terminate(42, 1, "cancelled")
        records = await Courier(fake, post=post).deliver()
        assert [(record.kind, record.status) for record in records] == [("first", 200)] * 2
        assert fake.outbox.deliveries == records
        paid, ended = seen
        assert isinstance(paid, OrderCompleted)
        assert (paid.order_id, paid.user_id, paid.plan_id, str(paid.amount)) == ("1", 42, 1, "9.99 EUR")
        assert isinstance(ended, MembershipTerminated)
        assert (ended.user_id, ended.reason, paid.extra, ended.extra) == (42, "cancelled", {}, {})
        assert await Courier(fake, post=post).deliver() == []

    run(scenario)


def test_without_a_webhook_nothing_is_told() -> None:
    fake = FakeService()
    order(fake)
    assert fake.outbox.events == []


def test_access_that_nobody_has_does_not_end(fake: FakeService) -> None:
    with pytest.raises(Refusal):
        fake.terminate(42, 1)


def test_what_is_not_answered_200_is_repeated_signed_anew(fake: FakeService, run: Run) -> None:
    async def scenario() -> None:
        box = boxed(fake, 500, None, 503)
        order(fake)
        records = await Courier(fake, Postal(pause=0), post=box.post).deliver()
        assert [(record.kind, record.status) for record in records] == [
            ("first", 500),
            ("repeat", None),
            ("repeat", 503),
            ("repeat", 200),
        ]
        assert len(set(box.digests)) == 4

    run(scenario)


def test_or_with_the_signature_that_it_had(fake: FakeService, run: Run) -> None:
    async def scenario() -> None:
        box = boxed(fake, *[500] * 9)
        order(fake)
        await Courier(fake, Postal(pause=0, signed_anew=False, attempts=3), post=box.post).deliver()
        assert (len(box.digests), len(set(box.digests))) == (3, 1)

    run(scenario)


def test_duplicates_forgeries_and_disorder_come_on_demand(fake: FakeService, run: Run) -> None:
    async def scenario() -> None:
        box = boxed(fake)
        order(fake, 200)
        postal = Postal(duplicated=0.5, forged=0.1, shuffled=True, concurrency=4)
        records = await Courier(fake, postal, post=box.post, seed=1).deliver()
        kinds = [record.kind for record in records]
        assert (kinds.count("first"), 80 < kinds.count("duplicate") < 120, 10 < kinds.count("forged") < 30) == (
            200,
            True,
            True,
        )
        assert {record.status for record in records if record.kind == "forged"} == {401}
        assert box.digests.count(None) == kinds.count("forged")
        assert box.numbers != sorted(box.numbers)
        authentic = [digest for digest in box.digests if digest is not None]
        assert len(set(authentic)) < len(authentic)

    run(scenario)


def test_it_can_sign_as_the_later_generation(fake: FakeService, run: Run) -> None:
    async def scenario() -> None:
        box = boxed(fake)
        order(fake)
        await Courier(fake, Postal(later_generation=True), post=box.post).deliver()
        assert [len(digest or "") for digest in box.digests] == [64]

    run(scenario)


def test_an_error_in_your_post_is_yours(fake: FakeService, run: Run) -> None:
    async def scenario() -> None:
        async def post(*_: Any) -> int:
            await anyio.lowlevel.checkpoint()
            raise LookupError

        order(fake, 3)
        with pytest.raises(LookupError):
            await Courier(fake, post=post).deliver()

    run(scenario)


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"concurrency": 0}, {"pause": -1}, {"duplicated": 1.1}, {"forged": -0.1}]
)
def test_ways_that_cannot_be(options: Any) -> None:
    with pytest.raises(UsageError):
        Postal(**options)


class TestOverHTTP:
    @staticmethod
    @contextlib.contextmanager
    def shop(*statuses: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        """Run a server that answers with these statuses in turn, then 200."""
        seen, answers = list[tuple[str, bytes]](), list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append((self.command, self.rfile.read(int(self.headers.get("content-length", 0)))))
                self.send_response(answers.pop(0) if answers else 200)
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - the name is http.server's

            def log_message(self, *_: Any) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/hooks", seen
            finally:
                server.shutdown()
                thread.join()

    def test_a_url_is_taken_only_if_it_answers_200(self, run: Run) -> None:
        async def scenario() -> None:
            with serve(FakeService()) as server, self.shop(404, 200) as (url, seen):
                async with Session(**server.session_options()) as tg:
                    with pytest.raises(BadRequest, match="must answer 200, and answered 404"):
                        await tg.set_webhook(url)
                    assert server.service.webhook is None
                    assert (await tg.set_webhook(url)).url == url
                assert seen == [("GET", b"")] * 2

        run(scenario)

    def test_a_url_where_nobody_answers_is_not_taken(self, run: Run, refused_port: int) -> None:
        async def scenario() -> None:
            with serve(FakeService()) as server:
                async with Session(**server.session_options()) as tg:
                    with pytest.raises(BadRequest, match="answered nothing"):
                        await tg.set_webhook(f"http://127.0.0.1:{refused_port}/")

        run(scenario)

    def test_wrong_credentials_probe_nobody(self) -> None:
        with serve(FakeService()) as server, self.shop() as (url, seen):
            wrong = f"{server.url}/bot1/wrong/webhook"
            assert httpx.post(wrong, json={"url": url}, trust_env=False, verify=NO_TLS).status_code == 401
            assert not seen

    def test_while_it_is_served_events_are_delivered_as_they_come(self) -> None:
        fake = FakeService()
        with serve(fake, postal=Postal(pause=0.01)), self.shop(500) as (url, seen):
            fake.set_webhook(url)
            order(fake, 3)
            wait_for(lambda: [record.status for record in fake.outbox.deliveries].count(200) == 3)
            order(fake)
            wait_for(lambda: [record.status for record in fake.outbox.deliveries].count(200) == 4)
            assert len(seen) == 5

    def test_what_was_told_before_is_delivered_too_and_the_end_waits_for_nobody(self) -> None:
        fake = FakeService()
        with self.shop(*[500] * 9) as (url, seen):
            fake.set_webhook(url)
            order(fake)
            began = time.perf_counter()
            with serve(fake, postal=Postal(pause=3_000)):
                wait_for(lambda: seen)
            assert time.perf_counter() - began < 300
        order(fake)
        assert len(fake.outbox.events) == 2

    def test_nobody_out_there_is_called(self, fake: FakeService, run: Run) -> None:
        async def scenario() -> None:
            order(fake)
            assert await Courier(fake).deliver() == []

        run(scenario)
