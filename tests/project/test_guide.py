"""The python of the guide "projects.md" does what its text says."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pages import ROOT, fences
from project.projects import OTHER, PLAN, project, row, says
from stub_transport import StubTransport, lost

from tgmembership_async.grants import Granter, MemoryLedger
from tgmembership_async.project import BalanceConflict


@pytest.fixture(scope="module")
def guide() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for fence in fences(ROOT / "docs" / "projects.md"):
        if fence.language == "python":
            exec(compile(fence.code, "projects.md", "exec", dont_inherit=True), names)
    return names


def test_active_members_and_renewals(guide: dict[str, Any]) -> None:
    ends = datetime(2198, 12, 31, tzinfo=UTC)
    rows = [row(1, membership_end_date=ends.isoformat()), row(2, membership_end_date="2020-01-01T00:00:00.000Z")]
    stub = StubTransport(says(rows, total=2))

    async def scenario() -> None:
        async with project(stub) as client:
            assert await guide["active_members"](client) == [4201]
            assert await guide["new_end"](client, 4201, 30) == ends + timedelta(days=30)
            stub.steps[:] = [says([], total=0)]
            assert await guide["new_end"](client, 4201, 30) is None

    asyncio.run(scenario())


def test_a_refund_is_repeated_only_while_nothing_was_written(guide: dict[str, Any]) -> None:
    def change(before: str, after: str) -> Any:
        return says({"previous_balance": before, "new_balance": after})

    balances = [says({"balance": balance}) for balance in ("1.00", "2.00", "2.00", "2.00")]
    stub = StubTransport(*balances, change("2.00", "7.00"))

    async def scenario() -> None:
        async with project(stub) as client:
            assert await guide["refund"](client, 42, Decimal(5)) == Decimal("7.00")
            stub.steps[:] = [says({"balance": "1.00"}), says({"balance": "1.00"}), change("9.00", "6.00")]
            with pytest.raises(BalanceConflict):
                await guide["refund"](client, 42, Decimal(5))

    asyncio.run(scenario())


def test_an_order_is_created_once_and_held_while_it_is_unknown(guide: dict[str, Any]) -> None:
    stub = StubTransport(says({"id": OTHER, "url": "https://pay.example/1"}, 201), lost())

    async def scenario() -> None:
        async with Granter(project(stub), MemoryLedger()) as orders:
            for _ in range(2):
                assert await guide["checkout"](orders, "order-1", PLAN, 42) == "https://pay.example/1"
                assert await guide["checkout"](orders, "order-2", PLAN, 42) is None
        assert len(stub.requests) == 2

    asyncio.run(scenario())
