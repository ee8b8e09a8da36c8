"""Every ledger passes the checks that are published for ledgers, and the checks find what is wrong with one."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import anyio
import pytest
from attrs import evolve

from tgmembership_async.grants import (
    Attempt,
    Claim,
    Decision,
    Grant,
    GrantRequest,
    GrantStatus,
    Ledger,
    MemoryLedger,
    Settlement,
    SqliteLedger,
)
from tgmembership_async.testing import LEDGER_CHECKS
from tgmembership_async.testing.conformance.transitions import Check
from tgmembership_async.values.models import AccessToken

each_check = pytest.mark.parametrize("check", LEDGER_CHECKS, ids=lambda check: check.__name__)


@each_check
def test_memory_ledger(check: Check, backend: str) -> None:
    ledger = MemoryLedger()
    anyio.run(check, lambda: ledger, backend=backend)


@each_check
def test_sqlite_ledger(check: Check, backend: str, quick_path: Path) -> None:
    anyio.run(check, lambda: SqliteLedger(quick_path / "grants.db"), backend=backend)


class Claims(MemoryLedger):
    async def claim(self, request: GrantRequest) -> Claim:
        return evolve(await super().claim(request), mine=True)


class SettlesAnything(MemoryLedger):
    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        self._rows[ref] = evolve(self._known(ref), status=GrantStatus.SENDING)
        return await super().settle(ref, settlement)


class DecidesAnything(MemoryLedger):
    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        self._rows[ref] = evolve(self._known(ref), status=GrantStatus.UNKNOWN)
        return await super().decide(ref, decision, token, reason)


class Forgets(MemoryLedger):
    async def aclose(self) -> None:
        await super().aclose()
        self._rows.clear()


class KeepsSending(MemoryLedger):
    async def open(self) -> "KeepsSending":
        self._is_open = True
        return self


class LosesAttempts(MemoryLedger):
    async def attempts(self, ref: str) -> list[Attempt]:
        return (await super().attempts(ref))[-1:]


class WipesTooMuch(MemoryLedger):
    async def purge(self, delivered_before: datetime) -> int:
        self._rows = {ref: evolve(grant, token=None) for ref, grant in self._rows.items()}
        return await super().purge(delivered_before)


class MixesUp(MemoryLedger):
    async def plan(self, request: GrantRequest) -> Grant:
        await self._turn()
        return self._rows.get(request.ref) or await super().plan(request)


@pytest.mark.parametrize(
    "wrong",
    [Claims, SettlesAnything, DecidesAnything, Forgets, KeepsSending, LosesAttempts, WipesTooMuch, MixesUp],
)
def test_a_ledger_that_is_wrong_is_found_out(wrong: Callable[[], Ledger]) -> None:
    def passes(check: Check) -> bool:
        ledger = wrong()
        try:
            anyio.run(check, lambda: ledger)
        except Exception:  # noqa: BLE001 - what is wrong with it shows in any way
            return False
        return True

    assert not all(passes(check) for check in LEDGER_CHECKS)
