"""With trio in guest mode on an asyncio loop, the package behaves as on trio."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from canary import CANARY_KEY

from tgmembership_async import Session
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.grants import Granter, SqliteLedger
from tgmembership_async.testing import FakeService, serve


async def as_guest(scenario: Callable[[], Any]) -> Any:
    """Run a trio program in this asyncio loop, and return what it returns."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    trio.lowlevel.start_guest_run(
        scenario,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    async with asyncio.timeout(30):
        return (await ended).unwrap()


async def test_guest_mode_counts_as_trio() -> None:
    async def scenario() -> object:
        asyncio.get_running_loop()  # there is one
        return asyncio_loop()

    assert asyncio_loop() is asyncio.get_running_loop()
    assert await as_guest(scenario) is None


def test_there_is_none_outside_of_a_loop() -> None:
    assert asyncio_loop() is None


async def test_calls_and_grants_work_in_guest_mode(tmp_path: Path) -> None:
    service = FakeService(api_key=CANARY_KEY)

    async def scenario() -> None:
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.01):
            await trio.sleep(1)
        tg = Session(**server.session_options())
        async with Granter(tg, SqliteLedger(tmp_path / "grants.db")) as granter:
            assert await tg.get_plans()
            for _ in range(2):
                grant = await granter.grant("pi_1", plan_id=1, member_id=42)
                assert grant.token is not None

    with serve(service) as server:
        await as_guest(scenario)
    assert len(service.audit) == 1
