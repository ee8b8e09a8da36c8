"""Compare a ledger with a model under random sequences of operations."""

import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from own_schema import own_schema

from tgmembership_async.errors import GrantError, RefConflict
from tgmembership_async.grants import (
    Decision,
    Grant,
    GrantRequest,
    GrantStatus,
    Ledger,
    MemoryLedger,
    PostgresLedger,
    Settlement,
    SqliteLedger,
)
from tgmembership_async.grants.model import LEGAL, SETTLES
from tgmembership_async.values.models import AccessToken

PLANS = st.integers(1, 2)
MEMBERS = st.none() | st.integers(1, 2)
TOKEN = AccessToken(token="tok", link="https://t.me/bot?start=tok", raw="tok")
MEMORY = Path("/dev/shm")


class LedgerMachine(RuleBasedStateMachine):
    """Drive one ledger, and record what it has returned."""

    refs = Bundle("refs")

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.rows: dict[str, Grant] = {}
        self.unanswered: set[str] = set()
        self.sends: defaultdict[str, int] = defaultdict(int)
        self.decisions: defaultdict[str, list[str]] = defaultdict(list)
        self.portal: BlockingPortal = self.enter(start_blocking_portal(self.backend))
        self.make = self.maker()
        self.ledger = self.make()
        self.do(self.ledger.open)

    backend = "asyncio"

    def maker(self) -> Callable[[], Ledger]:
        ledger = MemoryLedger(clock=self.clock)
        return lambda: ledger

    def enter(self, context: Any) -> Any:
        entered = context.__enter__()
        self.leaving = [*getattr(self, "leaving", []), context]
        return entered

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def do(self, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        return self.portal.call(step, *arguments)

    def take(self, ref: str, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Grant | None:
        """Take a step, and check that it is legal or changes nothing."""
        before = self.rows.get(ref)
        try:
            told = self.do(step, *arguments)
        except GrantError:
            assert self.do(self.ledger.get, ref) == before
            return None
        grant: Grant = getattr(told, "grant", told)
        if before is None:
            assert grant.status in (GrantStatus.PLANNED, GrantStatus.SENDING)
        else:
            assert grant.status is before.status or (before.status, grant.status) in LEGAL
        self.rows[ref] = grant
        return told  # type: ignore[no-any-return]

    @rule(target=refs, ref=st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=3))
    def name(self, ref: str) -> str:
        return ref

    @rule(ref=refs, plan_id=PLANS, member_id=MEMBERS)
    def plan(self, ref: str, plan_id: int, member_id: int | None) -> None:
        request = GrantRequest(ref, plan_id, member_id)
        if self.differs(request):
            with pytest.raises(RefConflict):
                self.do(self.ledger.plan, request)
        else:
            before = self.rows.get(ref)
            grant = self.take(ref, self.ledger.plan, request)
            assert grant is not None
            assert before in (None, grant)

    @rule(ref=refs, plan_id=PLANS, member_id=MEMBERS)
    def claim(self, ref: str, plan_id: int, member_id: int | None) -> None:
        request = GrantRequest(ref, plan_id, member_id)
        if self.differs(request):
            with pytest.raises(RefConflict):
                self.do(self.ledger.claim, request)
            return
        claim: Any = self.take(ref, self.ledger.claim, request)
        if claim.mine:
            assert ref not in self.unanswered, "sent again, and nobody has said that nothing was done"
            self.unanswered.add(ref)
            self.sends[ref] += 1
            assert claim.grant.attempts == self.sends[ref]

    @rule(ref=refs, plan_id=PLANS)
    def claim_at_once(self, ref: str, plan_id: int) -> None:
        request = GrantRequest(ref, plan_id)
        if self.differs(request):
            return
        claims: list[Any] = []

        async def one() -> None:
            claims.append(await self.ledger.claim(request))

        async def many() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(one)

        self.do(many)
        mine = sum(claim.mine for claim in claims)
        assert mine == (ref not in self.rows or self.rows[ref].status is GrantStatus.PLANNED)
        if mine:
            assert ref not in self.unanswered
            self.unanswered.add(ref)
            self.sends[ref] += 1
        self.rows[ref] = claims[0].grant

    @rule(ref=refs, end=st.sampled_from(sorted(SETTLES)))
    def settle(self, ref: str, end: GrantStatus) -> None:
        settlement = Settlement(end, token=TOKEN if end is GrantStatus.GRANTED else None)
        if self.take(ref, self.ledger.settle, ref, settlement) is not None and end is GrantStatus.PLANNED:
            self.unanswered.discard(ref)

    @rule(ref=refs, decision=st.sampled_from(get_args(Decision)))
    def decide(self, ref: str, decision: Decision) -> None:
        if self.take(ref, self.ledger.decide, ref, decision, None, "") is not None:
            self.decisions[ref].append(decision)
            if decision == "retry":
                self.unanswered.discard(ref)

    @rule(ref=refs)
    def deliver(self, ref: str) -> None:
        self.take(ref, self.ledger.mark_delivered, ref)

    @rule(age=st.integers(0, 50))
    def purge(self, age: int) -> None:
        limit = self.now - timedelta(seconds=age)
        old = [
            ref
            for ref, grant in self.rows.items()
            if grant.status is GrantStatus.DELIVERED and grant.token is not None and grant.updated_at < limit
        ]
        assert self.do(self.ledger.purge, limit) == len(old)
        for ref in old:
            self.rows[ref] = self.do(self.ledger.get, ref)
            assert self.rows[ref].token is None

    @rule()
    def crash(self) -> None:
        """Open again: nothing that was being sent has been settled."""
        self.do(self.ledger.aclose)
        self.ledger = self.make()
        self.do(self.ledger.open)
        for ref, grant in self.rows.items():
            if grant.status is GrantStatus.SENDING:
                self.rows[ref] = self.do(self.ledger.get, ref)
                assert self.rows[ref].status is GrantStatus.UNKNOWN

    @invariant()
    def nothing_is_lost_and_nothing_is_made_up(self) -> None:
        async def everything() -> list[Grant]:
            return [grant async for grant in self.ledger.grants()]

        assert self.do(everything) == list(self.rows.values())
        for ref in self.rows:
            assert len(self.do(self.ledger.attempts, ref)) == self.sends[ref]
            assert [made.decision for made in self.do(self.ledger.decisions, ref)] == self.decisions[ref]

    def differs(self, request: GrantRequest) -> bool:
        row = self.rows.get(request.ref)
        return row is not None and (row.plan_id, row.member_id) != (request.plan_id, request.member_id)

    def teardown(self) -> None:
        self.do(self.ledger.aclose)
        for context in reversed(self.leaving):
            context.__exit__(None, None, None)


class SqliteLedgerMachine(LedgerMachine):
    """The same with a SQLite file, on trio."""

    backend = "trio"

    def maker(self) -> Callable[[], Ledger]:
        folder = self.enter(tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None))
        return lambda: SqliteLedger(Path(folder) / "grants.db", clock=self.clock)


class PostgresLedgerMachine(LedgerMachine):
    """The same with a PostgreSQL server."""

    def maker(self) -> Callable[[], Ledger]:
        url = self.enter(own_schema())
        return lambda: PostgresLedger(url, clock=self.clock)


TestMemoryLedger = LedgerMachine.TestCase
TestSqliteLedger = SqliteLedgerMachine.TestCase
TestPostgresLedger = PostgresLedgerMachine.TestCase


def a_share(of: int) -> settings:
    """Reduce the number of examples, as each takes 40 steps; `nox -s soak` asks for 25 times as many."""
    assert settings.default is not None
    return settings(max_examples=settings.default.max_examples // of, stateful_step_count=40)


TestMemoryLedger.settings = a_share(2)
TestSqliteLedger.settings = a_share(5)
TestPostgresLedger.settings = a_share(8)
