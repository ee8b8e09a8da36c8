"""Under injected network faults, outcomes are true, and the next call gets a working connection."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY

from tgmembership_async import CallError, NotSent, OutcomeUnknown, RetryPolicy
from tgmembership_async.testing import ChaosProxy, FakeService, Trouble, serve
from tgmembership_async.testing.chaos.troubles import WHEN

ONCE = RetryPolicy(attempts=1)
SHORT = 1.0  # seconds; timeout for replies that never arrive, on a connection that is there
UNHURRIED = 2.5  # seconds; the same where it includes connecting, also on a busy machine
DETAILS: dict[str, dict[str, Any]] = {"latency": {"seconds": 0.01}, "dribble": {"seconds": 0.0001}, "cut": {"size": 60}}
TROUBLES = [
    Trouble(kind, when=when, count=1, **DETAILS.get(kind, {}))  # type: ignore[arg-type]
    for kind, points in WHEN.items()
    for when in points
]
HARMLESS = ("latency", "dribble")


@pytest.fixture(params=["TCP", "TLS"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Arena = Callable[[], tuple[FakeService, ChaosProxy]]


@pytest.fixture
def arena(wire: str, server_tls: ssl.SSLContext) -> Iterator[Arena]:
    with ExitStack() as stack:

        def build() -> tuple[FakeService, ChaosProxy]:
            service = FakeService(bot_id=8047883872, api_key=CANARY_KEY)
            server = stack.enter_context(serve(service))
            front = server_tls if wire == "TLS" else None
            return service, stack.enter_context(ChaosProxy(server.url, tls_front=front))

        yield build


def expected(trouble: Trouble, wire: str) -> set[type[CallError] | None]:
    """Return the errors in which a single attempt at a grant may end; None is success."""
    if trouble.kind in HARMLESS:
        return {None}
    if trouble.when != "connect":
        return {OutcomeUnknown}
    if wire == "TLS":
        return {NotSent}
    # An end may come before our headers.
    return {NotSent, OutcomeUnknown} if trouble.kind in ("reset", "fin") else {OutcomeUnknown}


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_what_a_grant_ends_in_is_true(
    warm: bool,  # noqa: FBT001 - a parameter of pytest's
    half: int,
    arena: Arena,
    wire: str,
    run: Any,
    session: Any,
    way: Any,
    client_tls: ssl.SSLContext,
) -> None:
    """Whoever connects meets all troubles of that; else each is met once: cold here and warm on the other wire."""
    ended: dict[str, tuple[BaseException | None, int]] = {}

    async def meet(trouble: Trouble, service: FakeService, proxy: ChaosProxy) -> None:
        silent = trouble.kind in ("black_hole", "stall")
        patience = {"connect_timeout": 60.0}  # all troubles are met at once, each with its own servers
        if silent:
            patience = {"grant_timeout": SHORT if warm else UNHURRIED}
        if silent and trouble.when == "connect" and wire == "TLS":
            patience = {"connect_timeout": SHORT}
        async with session(proxy.url, transport=way(proxy=None, ssl_context=client_tls), retry=ONCE, **patience) as tg:
            if warm:
                await tg.get_plans()
            proxy.inject(trouble)
            error = None
            try:
                await tg.add_member(1, 42)
            except CallError as raised:
                error = raised
            proxy.clear_faults()
            await anyio.sleep(0.05)  # late requests may still take effect
            ended[trouble.label] = error, len(service.audit)
            for _ in range(2):
                assert await tg.with_options(connect_timeout=5).get_plans()

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            for trouble, (service, proxy) in zip(met, arenas, strict=True):
                group.start_soon(meet, trouble, service, proxy)

    connecting = [] if warm else [trouble for trouble in TROUBLES if trouble.when == "connect"]
    later = [trouble for trouble in TROUBLES if trouble.when != "connect"]
    met = connecting + later[half ^ warm ^ (wire == "TLS") :: 2]
    arenas = [arena() for _ in met]  # before the first of them is in a hurry
    run(scenario)
    assert len(ended) == len(met)
    for trouble in met:
        error, effects = ended[trouble.label]
        assert (error and type(error)) in expected(trouble, wire), (trouble, error, error and error.__cause__)
        assert effects == (trouble.kind in HARMLESS or trouble.destroys(b"x" * 1000)), trouble


def test_a_storm_of_cancellations_spoils_no_connection(
    arena: Arena, run: Any, session: Any, way: Any, client_tls: ssl.SSLContext
) -> None:
    service, proxy = arena()
    ended = {"cancelled": 0, "done": 0}

    async def scenario() -> None:
        transport = way(proxy=None, ssl_context=client_tls)
        async with session(proxy.url, transport=transport, max_connections=4) as tg:

            async def grant(member: int) -> None:
                with anyio.move_on_after((member % 25) / 1000) as scope:
                    await tg.add_member(1, member)
                ended["cancelled" if scope.cancelled_caught else "done"] += 1

            for wave in range(6):
                async with anyio.create_task_group() as group:
                    for member in range(25):
                        group.start_soon(grant, 25 * wave + member + 1)
            async with anyio.create_task_group() as group:
                for _ in range(16):
                    group.start_soon(tg.get_plans)

    run(scenario)
    members = [grant.member_id for grant in service.audit]
    assert ended["cancelled"] + ended["done"] == 150
    assert ended["cancelled"] >= 6
    assert len(members) == len(set(members))
    assert len(members) >= ended["done"]
