"""Promise: a ref creates one payment request, under all faults and kills; where that is not known, it is a question."""

import itertools
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import paying_shop
import pytest
from canary import CANARY_KEY
from command_line import ENVIRONMENT
from forked import Forked
from own_schema import own_schema
from promises.test_one_effect import AT_A_TIME, CROSSINGS, FAULTS, QUICK, Case, each, everything, faults_of, options

from tgmembership_async import Outcome, TGMembershipError
from tgmembership_async.grants import Grant, Granter, GrantRequest, GrantStatus, Ledger, MemoryLedger, SqliteLedger
from tgmembership_async.grants import PostgresLedger as Postgres
from tgmembership_async.project import Project
from tgmembership_async.testing import ChaosProxy, FakeProject, FakeTransport, Fault, Trouble, serve
from tgmembership_async.testing.fake.faults import nasty

USER = 42
PRESSES = 3
GRANTED, UNKNOWN = GrantStatus.GRANTED, GrantStatus.UNKNOWN


def fake(**given: Any) -> FakeProject:
    return FakeProject(token=CANARY_KEY, per_minute=None, burst=None, **given)


def check(service: FakeProject, rows: dict[str, Grant], user_of: Callable[[str], int]) -> None:
    """Compare the rows with what the service created."""
    created = Counter(int(one.user_id) for one in service.payment_requests)
    ids = {int(one.user_id): one.payment_request_id for one in service.payment_requests}
    assert set(created) <= {user_of(ref) for ref in rows}
    for ref, row in rows.items():
        number = created[user_of(ref)]
        assert number <= 1, ref
        if row.status is GRANTED:
            assert number == 1, ref
            assert row.token is not None
            assert row.token.raw == ids[user_of(ref)], ref
        assert number == 0 or row.status in (GRANTED, UNKNOWN), (ref, row)


async def rows_of(granter: Granter) -> dict[str, Grant]:
    return {row.ref: row async for row in granter.grants()}


async def pressed(cases: tuple[Case, ...], count: int | None) -> None:
    """Press "pay" three times under faults, and check the row; then reconcile it, and check it again."""
    service = fake(faults=faults_of(cases, count)[0])
    client = Project(**service.session_options(), transport=FakeTransport(service), **options(*cases, short=0.02))
    async with Granter(client, MemoryLedger()) as granter:
        request = GrantRequest("order-17", service.plans[0].plan_id, USER)
        for _ in range(PRESSES):
            with suppress(TGMembershipError):
                await granter.grant(request.ref, plan_id=request.plan_id, member_id=USER)
        rows = await rows_of(granter)
        check(service, rows, lambda _: USER)
        if count is None and len(cases) == 1 and not cases[0].silent:
            done = Outcome.DONE in cases[0].outcomes
            assert (rows["order-17"].status is UNKNOWN) is (Outcome.UNKNOWN in cases[0].outcomes)
            assert (rows["order-17"].status is GRANTED) is done
        service.clear_faults()
        await granter.reconcile()
        rows = await rows_of(granter)
        check(service, rows, lambda _: USER)
        assert bool(service.payment_requests) is (rows["order-17"].status is GRANTED)


@pytest.mark.parametrize("count", [1, None], ids=["once", "always"])
def test_each_fault_under_the_ledger(count: int | None, run: Any) -> None:
    async def one(cases: tuple[Case, ...]) -> None:
        await pressed(cases, count)

    run(partial(each, one, [(fault,) for fault in FAULTS]))


def test_each_pair_of_faults_under_the_ledger(third: int, backend: str, run: Any) -> None:
    async def one(cases: tuple[Case, ...]) -> None:
        await pressed(cases, 1)

    run(partial(each, one, list(itertools.product(FAULTS, FAULTS))[(third + (backend == "trio")) % 3 :: 3]))


@CROSSINGS
@pytest.mark.parametrize("wire", ["TCP", "TLS"])
@pytest.mark.parametrize("orders", [40, pytest.param(1_000, marks=pytest.mark.soak)])
def test_many_orders_under_all_faults_at_once(
    orders: int,
    wire: str,
    way: Any,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    tmp_path: Path,
    run: Any,
) -> None:
    service = fake(faults=nasty(0.02, seconds=0.01, wait=0.005), seed=orders)
    requests = paying_shop.requests(orders)
    users = {request.ref: request.member_id or 0 for request in requests}
    rows: dict[str, Grant] = {}

    async def scenario() -> None:
        given: dict[str, Any] = {"retry": QUICK, "grant_timeout": 2.0, "max_connections": AT_A_TIME}
        transport = way(proxy=None, ssl_context=client_tls)
        client = Project(**service.session_options(), base_url=proxy.url, transport=transport, **given)
        async with Granter(client, SqliteLedger(tmp_path / "orders.db")) as granter:

            async def one(request: GrantRequest) -> None:
                with suppress(TGMembershipError):
                    await granter.grant(request.ref, plan_id=request.plan_id, member_id=request.member_id)

            await each(one, requests * PRESSES)
            rows.update(await rows_of(granter))
            check(service, rows, users.__getitem__)
            service.clear_faults()
            proxy.clear_faults()
            await granter.reconcile()
            rows.update(await rows_of(granter))

    front = server_tls if wire == "TLS" else None
    with (
        serve(service) as server,
        ChaosProxy(server.url, everything(0.04), seed=orders, tls_front=front) as proxy,
    ):
        run(scenario)
    check(service, rows, users.__getitem__)
    assert len(rows) == orders
    assert sum(row.status is GRANTED for row in rows.values()) > orders / 2


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        is_file = request.param == "SQLite"
        yield str(tmp_path / "orders.db") if is_file else stack.enter_context(own_schema())


@pytest.mark.parametrize(("orders", "kills"), [(200, 6), pytest.param(2_000, 60, marks=pytest.mark.crash)])
def test_kills_create_nothing_twice_and_lose_no_order(
    orders: int, kills: int, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Unknown rows are those whose request was on the wire; reconciling settles all that the service carried out."""
    random = Random(kills)
    service = fake(faults=[Fault("throttled", probability=0.05), Fault("error", when="after", probability=0.02)])
    requests = paying_shop.requests(orders)
    users = {request.ref: request.member_id or 0 for request in requests}
    lost = Trouble("reset", when="reply", probability=0.02)
    with serve(service) as server, ChaosProxy(server.url, [lost], seed=kills) as proxy:
        variables = {**ENVIRONMENT, **server.env(), "TGMEMBERSHIP_PROJECT_BASE_URL": proxy.url, "NO_PROXY": "*"}
        variables["PYTHONPATH"] = os.pathsep.join([str(Path(paying_shop.__file__).parent), *filter(None, sys.path)])

        def worker(number: int) -> Forked:
            backend = ("asyncio", "trio")[number % 2]
            return Forked([sys.executable, paying_shop.__file__, backend, place, str(orders)], env=variables)

        for kill in range(kills):
            with worker(kill) as process:
                enough = service.count_requests() + random.uniform(0, 2 * orders / (kills + 2))
                end = time.monotonic() + 60
                while service.count_requests() < enough and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.002)
                process.kill()
        for number in range(5):
            with worker(number) as process:
                if process.wait(120) == 0:
                    break
        else:
            pytest.fail(capfd.readouterr().err)
        service.clear_faults()
        rows = anyio.run(_reconciled, server.session_options(), place, service, users)
    check(service, rows, users.__getitem__)
    assert rows.keys() == users.keys()
    created = {int(one.user_id) for one in service.payment_requests}
    assert {users[ref] for ref, row in rows.items() if row.status is GRANTED} == created
    assert {row.status for row in rows.values()} <= {GRANTED, UNKNOWN}


async def _reconciled(
    to_the_service: dict[str, Any], place: str, service: FakeProject, users: dict[str, int]
) -> dict[str, Grant]:
    ledger: Ledger = Postgres(place) if "://" in place else SqliteLedger(place)
    async with Granter(Project(**to_the_service), ledger) as granter:
        rows = await rows_of(granter)
        check(service, rows, users.__getitem__)
        assert UNKNOWN in {row.status for row in rows.values()}
        await granter.reconcile()
        return await rows_of(granter)
