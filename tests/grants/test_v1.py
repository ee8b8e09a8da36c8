"""Grants through API v1: the same ledger, bound to the generation, and a 401 that stops a run without refusing rows."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from stub_transport import StubTransport, lost, reply

from tgmembership_async import GrantHeld, RetryPolicy, Session, Unauthorized, UsageError
from tgmembership_async.grants import Granter, GrantRequest, GrantStatus, SqliteLedger, StopReason

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
TEST_MODE = reply('{"ok": false, "code": 401, "description": "Test mode is on"}')
TOKEN = reply('{"ok": true, "code": 201, "result": {"access_token": "T"}}', 201)


def granter(path: Path, generation: Any, *steps: Any) -> Granter:
    transport = StubTransport(*steps)
    session = Session(1, "k" * 40, transport=transport, generation=generation, retry=RetryPolicy(attempts=1))
    return Granter(session, SqliteLedger(path))


def test_a_ledger_never_passes_from_one_generation_to_the_other(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "grants.db"

    async def scenario() -> None:
        async with granter(path, "legacy", lost()) as legacy:
            with pytest.raises(GrantHeld):
                await legacy.grant("a", plan_id=1, member_id=42)
        with pytest.raises(UsageError, match=r"this is bot 1 at https://api\.tgmembership\.com/v1"):
            await granter(path, "v1", TOKEN).open()
        async with granter(tmp_path / "v1.db", "v1", TOKEN) as v1:
            granted = await v1.grant("a", plan_id=1, member_id=42)
            assert granted.token is not None
        with pytest.raises(UsageError, match="belongs to bot 1 at"):
            await granter(tmp_path / "v1.db", "legacy", TOKEN).open()

    run(scenario)


def test_a_401_of_v1_stops_a_run_and_leaves_its_rows_planned_with_the_reason(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with granter(tmp_path / "grants.db", "v1", TEST_MODE) as v1:
            with pytest.raises(Unauthorized, match="401 Test mode is on"):
                await v1.grant("a", plan_id=1, member_id=42)
            requests = [GrantRequest(f"r{number}", 1, 42 + number) for number in range(50)]
            async with v1.provision(requests, concurrency=2) as going:
                seen = [grant async for grant in going]
            assert going.summary.stopped is StopReason.CREDENTIALS
            assert len(seen) < 50
            assert {grant.status async for grant in v1.grants()} == {GrantStatus.PLANNED}
            assert "credentials" not in str(StopReason.CREDENTIALS.value)

    run(scenario)


def test_v1_needs_a_member_and_cannot_be_asked_about_an_unknown_grant(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with granter(tmp_path / "grants.db", "v1", lost()) as v1:
            with pytest.raises(UsageError, match="needs member_id"):
                await v1.grant("a", plan_id=1)
            with pytest.raises(GrantHeld, match="members/accessToken: the request was sent"):
                await v1.grant("b", plan_id=1, member_id=42)
            [finding] = await v1.reconcile()
            assert not finding.settled
            assert finding.why == "API v1 cannot be asked who has access"
            assert {grant.ref: grant.status async for grant in v1.grants()} == {
                "a": GrantStatus.PLANNED,
                "b": GrantStatus.UNKNOWN,
            }

    run(scenario)
