"""A ledger restored from an older copy: refs known to be of the gap are not sent again, others are warned of."""

import logging
import shutil
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from tgmembership_async import Session
from tgmembership_async.errors import GrantHeld, OutcomeUnknown, UsageError
from tgmembership_async.grants import Gap, Granter, GrantRequest, GrantStatus, MemoryLedger, SqliteLedger
from tgmembership_async.testing import FakeService, FakeTransport

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
BEFORE = timedelta(hours=1)
LOGGER = "tgmembership_async.grants.restored"


@pytest.fixture
def path(quick_path: Path) -> Path:
    return quick_path / "grants.db"


@pytest.fixture
def service() -> FakeService:
    service = FakeService()
    service.populate()
    return service


def granter(service: FakeService, ledger: SqliteLedger) -> Granter:
    session = Session(service.bot_id, service.api_key, transport=FakeTransport(service))
    return Granter(session, ledger)


async def lose(service: FakeService, path: Path) -> None:
    """Grant one ref and plan another, copy the file, carry out both and a third, and restore the copy."""
    async with granter(service, SqliteLedger(path)) as granting:
        await granting.grant("before", plan_id=1, member_id=1)
        await granting.plan("planned", plan_id=1, member_id=2)
    shutil.copy(path, path.with_name("copy"))
    async with granter(service, SqliteLedger(path)) as granting:
        await granting.run_planned()
        await granting.grant("after", plan_id=1, member_id=3)
    shutil.copy(path.with_name("copy"), path)
    with pytest.raises(UsageError, match="older copy"):
        await SqliteLedger(path).open()


async def restored(path: Path) -> Gap:
    async with SqliteLedger(path, restored=True) as ledger:
        [gap] = await ledger.gaps()
        return gap


def test_what_was_granted_in_the_gap_is_not_granted_again(run: Run, path: Path, service: FakeService) -> None:
    async def scenario() -> None:
        await lose(service, path)
        gap = await restored(path)
        assert gap.begins is not None
        async with granter(service, SqliteLedger(path)) as granting:
            with pytest.raises(GrantHeld, match="restored from an older copy"):
                await granting.grant("planned", plan_id=1, member_id=2)
            for _ in range(2):
                with pytest.raises(GrantHeld, match="restored from an older copy"):
                    await granting.grant("after", plan_id=1, member_id=3, paid_at=gap.begins)
            planned = await granting.plan("planned later", plan_id=1, member_id=3, paid_at=gap.ends)
            assert (planned.status, planned.attempts) == (GrantStatus.UNKNOWN, 0)
            assert isinstance(planned.error, OutcomeUnknown)
            assert planned.error.maybe_applied
            assert str(gap) in str(planned.error)
            assert (await granting.grant("before", plan_id=1, member_id=1)).status is GrantStatus.GRANTED
            assert len(service.audit) == 3
            old, new = gap.begins - BEFORE, gap.ends + BEFORE
            for number, paid_at in enumerate((old, new)):
                await granting.grant(f"outside-{number}", plan_id=1, member_id=9, paid_at=paid_at)
            await granting.resolve("after", "retry", reason="the customer has no link")
            assert (await granting.grant("after", plan_id=1, member_id=3, paid_at=gap.begins)).attempts == 1
        assert len(service.audit) == 6

    run(scenario)


def test_a_ref_that_may_be_of_the_gap_is_warned_of_once(
    run: Run, path: Path, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        await lose(service, path)
        gap = await restored(path)
        caplog.set_level(logging.WARNING, LOGGER)

        async def warnings(ledger: SqliteLedger, *refs: str) -> list[str]:
            caplog.clear()
            async with granter(service, ledger) as granting:
                await granting.provision([GrantRequest(ref, 1, 7) for ref in refs])
            return [record.getMessage() for record in caplog.records if record.name == LOGGER]

        [told] = await warnings(SqliteLedger(path), "before", "another", "a third")
        assert str(gap) in told
        assert "is new to it and has no paid_at, so it is sent" in told
        assert await warnings(SqliteLedger(path), "another", "a third") == [], "it has these"
        assert len(await warnings(SqliteLedger(path), "new")) == 1
        much_later = SqliteLedger(path, clock=lambda: datetime.now(UTC) + timedelta(days=31))
        assert await warnings(much_later, "much later") == []
        assert len(service.audit) == 3 + 4

    run(scenario)


def test_planned_rows_are_held_by_whoever_opens_the_ledger_first(run: Run, path: Path, service: FakeService) -> None:
    from tgmembership_async.webhooks import SqliteInbox  # noqa: PLC0415 - one test of many

    async def scenario() -> None:
        await lose(service, path)
        async with SqliteInbox(path, restored=True):
            pass
        async with granter(service, SqliteLedger(path)) as granting:
            assert [row.ref async for row in granting.grants("unknown")] == ["planned"]
            await granting.plan("since", plan_id=1, member_id=5)
        async with granter(service, SqliteLedger(path)) as granting:
            assert [row.ref async for row in granting.grants("planned")] == ["since"]

    run(scenario)


def test_many_planned_rows_are_held(path: Path, service: FakeService) -> None:
    async def scenario() -> None:
        async with granter(service, SqliteLedger(path)) as granting, anyio.create_task_group() as group:
            for number in range(1_200):
                group.start_soon(partial(granting.plan, f"{number}", plan_id=1))
        shutil.copy(path, path.with_name("copy"))
        async with granter(service, SqliteLedger(path)) as granting:
            await granting.grant("1", plan_id=1)
        shutil.copy(path.with_name("copy"), path)
        await restored(path)
        async with SqliteLedger(path) as ledger:
            assert len([row async for row in ledger.grants([GrantStatus.UNKNOWN])]) == 1_200

    anyio.run(scenario)


@pytest.mark.parametrize("paid_at", [datetime(2026, 1, 1), "2026-01-01", 1_767_225_600])  # noqa: DTZ001 - it is refused
def test_when_it_was_paid_is_an_aware_datetime(paid_at: Any) -> None:
    with pytest.raises(UsageError, match="paid_at must be an aware datetime"):
        GrantRequest("a", 1, paid_at=paid_at)


def test_a_ledger_without_a_gap_does_not_mind_when_it_was_paid(run: Run, path: Path) -> None:
    async def scenario() -> None:
        for ledger in (SqliteLedger(path), MemoryLedger()):
            async with ledger:
                claim = await ledger.claim(GrantRequest("a", 1, 2, paid_at=datetime.now(UTC)))
                assert claim.mine

    run(scenario)


def test_only_an_owner_accepts_a_copy(path: Path) -> None:
    with pytest.raises(UsageError, match="restored=True is for the owner"):
        SqliteLedger(path, owner=False, restored=True)


def test_a_backup_of_a_ledger_opens_elsewhere(run: Run, path: Path, service: FakeService) -> None:
    async def scenario() -> None:
        async with granter(service, SqliteLedger(path)) as granting:
            grant = await granting.grant("a", plan_id=1, member_id=1)
            async with SqliteLedger(path, owner=False) as beside:
                await beside.backup(path.with_name("backup.db"))
        async with SqliteLedger(path.with_name("backup.db"), must_exist=True) as copied:
            assert await copied.get("a") == grant
            assert await copied.gaps() == []

    run(scenario)
