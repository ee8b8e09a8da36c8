"""A Session can be mocked with respx, as users of the package do."""

import httpx
import pytest
import respx
from canary import CANARY_KEY

from tgmembership_async import HttpxTransport, NotSent, OutcomeUnknown, ReplyLost, RetryPolicy, Session, UsageError

QUICK = RetryPolicy(transient_base=0, throttled_base=0)


def session() -> Session:
    return Session(8047883872, CANARY_KEY, retry=QUICK, proxy=None)


@respx.mock
async def test_a_mocked_reply_is_a_typed_result() -> None:
    plans = [
        {
            "plan_id": "1",
            "plan_name": "First",
            "duration": "1 month",
            "cost": "9.99",
            "currency": "EUR",
            "recurring": "0",
        }
    ]
    route = respx.get(url__regex=r"/getPlans$").respond(json={"ok": True, "code": 200, "result": plans})
    async with session() as tg:
        (first,) = await tg.get_plans()
    assert (first.plan_id, first.name, str(first.price.amount)) == (1, "First", "9.99")
    assert route.calls.last.request.url.path == "/bot8047883872/-/getPlans", "the real path goes in below"


@respx.mock
async def test_a_mocked_grant_sees_its_body() -> None:
    route = respx.post(url__regex=r"/addMember$").respond(json={"ok": True, "code": 200, "result": "T"})
    async with session() as tg:
        assert (await tg.add_member(1, 42)).token == "T"
    assert route.calls.last.request.content == b'{"plan_id": 1, "member_id": 42}'
    assert route.call_count == 1


@respx.mock
async def test_mocked_failures_are_judged_like_real_ones() -> None:
    refused = respx.post(url__regex=r"/addMember$").mock(side_effect=httpx.ConnectError("refused"))
    async with session() as tg:
        with pytest.raises(NotSent):
            await tg.add_member(1, 42)
        assert refused.call_count == 4
        refused.mock(side_effect=httpx.ReadTimeout("slow"))
        with pytest.raises(OutcomeUnknown):
            await tg.add_member(1, 42)
        assert refused.call_count == 5
        respx.get(url__regex=r"/countUsers$").mock(side_effect=httpx.ReadError("gone"))
        with pytest.raises(ReplyLost):
            await tg.count_users()


@respx.mock
async def test_mocked_replies_in_a_row_show_the_retries() -> None:
    route = respx.get(url__regex=r"/countUsers$").mock(
        side_effect=[
            httpx.Response(500),
            httpx.Response(429),
            httpx.Response(200, json={"ok": True, "code": 200, "result": "5"}),
        ]
    )
    async with session() as tg:
        assert int(await tg.count_users()) == 5
    assert route.call_count == 3


@respx.mock
async def test_a_client_of_your_own_can_be_mocked_too() -> None:
    respx.get(url__regex=r"/countUsers$").respond(json={"ok": True, "code": 200, "result": 3})
    async with httpx.AsyncClient() as client:
        async with Session(1, CANARY_KEY, transport=HttpxTransport(client=client)) as tg:
            assert int(await tg.count_users()) == 3
        assert not client.is_closed


async def test_a_client_that_could_repeat_or_reroute_is_refused() -> None:
    class Retrying(httpx.AsyncHTTPTransport):
        pass

    mounted = {"all://": httpx.MockTransport(lambda _: httpx.Response(200))}
    clients = [
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=1)),
        httpx.AsyncClient(transport=Retrying()),
        httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))),
        httpx.AsyncClient(mounts=mounted),
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(http2=True)),
        httpx.Client(),
        None,
        "client",
    ]
    for client in clients[:-2]:
        with pytest.raises(UsageError, match=r"twice|AsyncClient|http2"):
            HttpxTransport(client=client)  # type: ignore[arg-type]
        if isinstance(client, httpx.AsyncClient):
            await client.aclose()
            with pytest.raises(UsageError):
                HttpxTransport(client=client)
    clients[5].close()  # type: ignore[union-attr]
    with pytest.raises(UsageError):
        HttpxTransport(client="client")  # type: ignore[arg-type]
