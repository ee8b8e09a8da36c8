"""MemoryLedger: what it does beyond what every ledger does."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, MemoryLedger, Settlement
from tgmembership_async.values.models import AccessToken

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
SECRET = "tok-secret"
REQUEST = GrantRequest("a", plan_id=1, member_id=42)


def test_it_keeps_its_rows_while_it_is_closed_and_shows_no_token(run: Run) -> None:
    async def scenario() -> None:
        async with MemoryLedger() as ledger:
            await ledger.claim(REQUEST)
            await ledger.settle("a", Settlement(GrantStatus.GRANTED, token=AccessToken(token=SECRET)))
        assert not ledger.is_open
        async with ledger:
            row = await ledger.get("a")
            assert row is not None
            assert row.token == AccessToken(token=SECRET)
        assert repr(ledger) == "<MemoryLedger with 1 refs>"

    run(scenario)


def test_it_tells_the_time_it_is_told(run: Run) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    async def scenario() -> None:
        async with MemoryLedger(clock=lambda: moment) as ledger:
            assert (await ledger.plan(REQUEST)).updated_at == moment
            assert [row.ref async for row in ledger.grants(since=moment)] == ["a"]

    run(scenario)


def test_a_row_without_a_member_is_not_found_by_the_word_none(run: Run) -> None:
    async def scenario() -> None:
        async with MemoryLedger() as ledger:
            await ledger.plan(GrantRequest("a", plan_id=1))
            await ledger.plan(GrantRequest("None of them", plan_id=1, member_id=42))
            await ledger.plan(GrantRequest("42", plan_id=1))
            assert [row.ref for row in await ledger.search("None", limit=9)] == ["None of them"]
            assert [row.ref for row in await ledger.search("42", limit=9)] == ["None of them", "42"]

    run(scenario)


def test_who_is_cancelled_has_changed_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with MemoryLedger() as ledger:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await ledger.claim(REQUEST)
            assert scope.cancelled_caught
            assert await ledger.get("a") is None

    run(scenario)


def test_it_says_what_to_do_before_it_is_opened(run: Run) -> None:
    async def scenario() -> None:
        with pytest.raises(UsageError, match="async with MemoryLedger"):
            await MemoryLedger().plan(REQUEST)

    run(scenario)
