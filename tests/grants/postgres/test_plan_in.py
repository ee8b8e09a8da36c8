"""`PostgresLedger.plan_in`: the intent in the caller's own transaction, with the order that it belongs to."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from own_schema import own_schema
from psycopg.rows import dict_row

from tgmembership_async import RefConflict, UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, PostgresLedger

ORDERS = "CREATE TABLE orders (id text PRIMARY KEY)"
BOTH = [GrantRequest("a", 1, 42, "chat 7"), GrantRequest("b", 2)]


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


async def planned(ledger: PostgresLedger) -> list[str]:
    return [grant.ref async for grant in ledger.grants([GrantStatus.PLANNED])]


@pytest.fixture
def shop(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect like a shop with dict rows, another time zone and another search_path."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute(ORDERS)
        connection.execute("SELECT set_config('timezone', 'Asia/Tokyo', false)")
        connection.commit()
        yield connection


async def test_order_and_intent_are_committed_together(url: str, shop: psycopg.Connection[Any]) -> None:
    async with PostgresLedger(url) as ledger:
        shop.execute("INSERT INTO orders VALUES ('a')")
        shop.execute("SELECT set_config('search_path', 'pg_catalog', true)")
        rows = ledger.plan_in(shop, *BOTH)
        assert await planned(ledger) == []
        shop.commit()
        assert await planned(ledger) == ["a", "b"]
        assert rows == [await ledger.get("a"), await ledger.get("b")]
        assert (await ledger.claim(BOTH[0])).mine


@pytest.mark.parametrize("tail", ["%", "%s", "%%(name)s", '";{schema}'])
async def test_a_schema_may_have_any_name(tail: str) -> None:
    with own_schema(tail) as url:
        async with PostgresLedger(url) as ledger:
            await ledger.plan(BOTH[0])
            with psycopg.connect(url) as shop:
                assert [grant.ref for grant in ledger.plan_in(shop, *BOTH)] == ["a", "b"]
            assert (await ledger.claim(BOTH[1])).mine
            assert await planned(ledger) == ["a"]


async def test_what_is_rolled_back_never_was(url: str, shop: psycopg.Connection[Any]) -> None:
    async with PostgresLedger(url) as ledger:
        with pytest.raises(ZeroDivisionError), shop.transaction():  # noqa: PT012 - the error has to come out of the transaction
            ledger.plan_in(shop, *BOTH)
            raise ZeroDivisionError
        assert await planned(ledger) == []
        assert await ledger.get("a") is None


async def test_planned_again_it_is_as_it_was(url: str, shop: psycopg.Connection[Any]) -> None:
    async with PostgresLedger(url) as ledger:
        before = await ledger.plan(BOTH[0])
        await ledger.claim(BOTH[1])
        assert ledger.plan_in(shop, BOTH[0], BOTH[0], BOTH[1]) == [before, before, await ledger.get("b")]


async def test_a_conflict_leaves_the_transaction_as_it_was(url: str, shop: psycopg.Connection[Any]) -> None:
    async with PostgresLedger(url) as ledger:
        await ledger.plan(GrantRequest("b", 3))
        shop.execute("INSERT INTO orders VALUES ('a')")
        with pytest.raises(RefConflict, match="b is planned with plan 3"):
            ledger.plan_in(shop, *BOTH)
        shop.commit()
        assert shop.execute("SELECT id FROM orders").fetchall() == [{"id": "a"}]
        assert await planned(ledger) == ["b"]


async def test_on_an_async_connection_it_is_awaited(url: str) -> None:
    connecting = psycopg.AsyncConnection.connect(url, row_factory=dict_row)
    async with PostgresLedger(url) as ledger, await connecting as connection:
        rows = await ledger.plan_in(connection, *BOTH)
        assert await planned(ledger) == []
        await connection.commit()
        assert rows == [await ledger.get("a"), await ledger.get("b")]
        with pytest.raises(RefConflict):
            await ledger.plan_in(connection, GrantRequest("a", 7))


async def test_in_autocommit_it_commits_itself(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        async with PostgresLedger(url) as ledger:
            ledger.plan_in(connection, *BOTH)
            assert await planned(ledger) == ["a", "b"]
            assert ledger.plan_in(connection) == []


async def test_two_that_plan_the_same_in_another_order_do_not_wait_in_a_circle(url: str) -> None:
    requests = [GrantRequest(f"{n}", 1) for n in range(200)]

    def plan(ledger: PostgresLedger, mine: list[GrantRequest]) -> None:
        with psycopg.connect(url) as connection:
            ledger.plan_in(connection, *mine)

    async with PostgresLedger(url) as ledger:
        both = (asyncio.to_thread(plan, ledger, mine) for mine in (requests, requests[::-1]))
        await asyncio.gather(*both)
        assert len(await planned(ledger)) == 200


async def test_a_claim_waits_for_the_transaction_that_plans_its_ref(url: str, shop: psycopg.Connection[Any]) -> None:
    async with PostgresLedger(url) as ledger:
        ledger.plan_in(shop, GrantRequest("a", 1, 42, "from the shop"))
        assert await planned(ledger) == []
        claiming = asyncio.ensure_future(ledger.claim(GrantRequest("a", 1, 42)))
        assert (await ledger.claim(GrantRequest("c", 1))).mine, "nobody else waits"
        shop.commit()
        claim = await claiming
        assert (claim.mine, claim.grant.note) == (True, "from the shop")


async def test_it_is_for_an_open_ledger_and_for_refs_that_fit(url: str, shop: psycopg.Connection[Any]) -> None:
    ledger = PostgresLedger(url)
    with pytest.raises(UsageError, match="not open"):
        ledger.plan_in(shop, *BOTH)
    async with ledger:
        too_long = GrantRequest("€" * 1_000, 1)
        for act in (ledger.plan, ledger.claim):
            with pytest.raises(UsageError, match="at most 2,000 bytes"):
                await act(too_long)
        with pytest.raises(UsageError, match="at most 2,000 bytes"):
            ledger.plan_in(shop, too_long)
        assert (await ledger.claim(GrantRequest("".join(chr(0x4E00 + n) for n in range(666)), 1))).mine
