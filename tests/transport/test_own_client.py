"""A user's httpx client on real sockets: the outcomes are the same, and it stays open."""

from typing import Any

import httpx
import pytest
from canary import CANARY_KEY
from no_tls import NO_TLS
from scripted_server import answering, reset

from tgmembership_async import (
    HttpxTransport,
    NotSent,
    OutcomeUnknown,
    RetryPolicy,
    Session,
    UnexpectedReply,
    UsageError,
)

QUICK = RetryPolicy(transient_base=0.001, throttled_base=0.001)


def session(client: httpx.AsyncClient, url: str) -> Session:
    return Session(8047883872, CANARY_KEY, base_url=url, transport=HttpxTransport(client=client), retry=QUICK)


def test_it_works_and_stays_open(serve: Any, run: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        async with httpx.AsyncClient(auth=("user", "password"), follow_redirects=True) as client:
            for _ in range(2):
                async with session(client, server.url) as tg:
                    assert await tg.get_plans() == []
            assert not client.is_closed

    run(scenario)
    assert f"GET /bot8047883872/{CANARY_KEY}/getPlans HTTP/1.1".encode() in server.requests[0]
    assert not any(b"uthorization" in request for request in server.requests)


def test_its_failures_are_judged_the_same(serve: Any, run: Any, refused_port: int) -> None:
    def endless(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(400):
            connection.send(b"x" * 65536)

    async def scenario() -> None:
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
            async with session(client, f"http://127.0.0.1:{refused_port}") as tg:
                with pytest.raises(NotSent):
                    await tg.add_member(1, 42)
            async with session(client, serve(reset).url) as tg:
                with pytest.raises(OutcomeUnknown):
                    await tg.add_member(1, 42)
            async with session(client, serve(endless).url) as tg:
                with pytest.raises(UnexpectedReply, match="too large"):
                    await tg.with_options(retry=RetryPolicy(attempts=1)).get_plans()
            async with session(client, serve(answering()).url) as tg:
                assert await tg.get_plans() == []

    run(scenario)


def test_one_that_was_closed_before_the_session_sends_nothing(serve: Any, run: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        client = httpx.AsyncClient()
        async with session(client, server.url) as tg:
            await client.aclose()
            with pytest.raises(UsageError, match="was closed: close it after the Session"):
                await tg.add_member(1, 42)

    run(scenario)
    assert server.requests == []


def test_hooks_that_may_consume_or_replace_a_reply_are_refused() -> None:
    async def hook(answer: httpx.Response) -> None:
        await answer.aread()

    client = httpx.AsyncClient(trust_env=False, verify=NO_TLS, event_hooks={"response": [hook]})
    with pytest.raises(UsageError, match="event hooks for responses"):
        HttpxTransport(client=client)


def test_plain_http_through_a_proxy_of_the_client_is_refused(
    serve: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = serve(answering()), serve(answering())
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        clients = [httpx.AsyncClient(verify=NO_TLS), httpx.AsyncClient(proxy=proxy.url, verify=NO_TLS)]
        for client in clients:
            async with client, session(client, server.url) as tg:
                with pytest.raises(UsageError, match="would read the API key"):
                    await tg.add_member(1, 42)

    run(scenario)
    assert server.connections == proxy.connections == 0
