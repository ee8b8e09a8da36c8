"""No fault, alone or in pairs, makes one unsafe call take effect twice; each raises what the outcome table says."""

import itertools
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

import anyio
import pytest
from attrs import evolve, frozen
from canary import CANARY_KEY
from reply_endings import CLOSING, CORK, LEFTOVERS, says_that_it_closes
from reply_endings import Ending as ReplyEnding
from scripted_server import OK_PLANS, Connection, Script

from tgmembership_async import (
    AiohttpTransport,
    APIError,
    CallError,
    HttpxTransport,
    NotSent,
    Outcome,
    OutcomeUnknown,
    Request,
    Response,
    RetryPolicy,
    Session,
    UsageError,
)
from tgmembership_async.middleware import Next
from tgmembership_async.project import Project
from tgmembership_async.testing import ChaosProxy, FakeProject, FakeService, FakeTransport, Fault, Trouble
from tgmembership_async.testing import serve as serve_fake
from tgmembership_async.testing.fake.faults import nasty

QUICK = RetryPolicy(attempts=3, transient_base=0, throttled_base=0)
SHORT, LONG = 0.4, 15.0  # seconds; timeouts for replies that never arrive, and for those that do
TOO_LATE = 1.0
AT_A_TIME = 16


@frozen
class Case:
    """A fault, the possible outcomes of an attempt with it, and whether the service grants nevertheless."""

    rule: Any
    outcomes: frozenset[Outcome]
    effect: bool

    @property
    def silent(self) -> bool:
        """Tell whether only a timeout ends an attempt with this fault."""
        return self.rule.kind in ("black_hole", "stall") or self.rule.seconds in (TOO_LATE, SLOW)


SLOW = 0.02  # seconds per byte of a reply


def case(rule: Fault | Trouble, outcome: Outcome, *others: Outcome, effect: bool = False) -> Case:
    return Case(rule, frozenset({outcome, *others}), effect)


FAULTS = [
    *(case(Fault("throttled", status=status), Outcome.TURNED_AWAY) for status in (421, 425, 429)),
    *(case(Fault("throttled", status=status, retry_after=0.01), Outcome.TURNED_AWAY) for status in (429, 503)),
    case(Fault("html", status=429), Outcome.TURNED_AWAY),
    *(case(Fault("error", status=status), Outcome.REFUSED) for status in (400, 401, 404, 409)),
    case(Fault("error", status=503), Outcome.TURNED_AWAY),
    case(Fault("error", status=500), Outcome.UNKNOWN),
    case(Fault("error", status=500, when="after"), Outcome.UNKNOWN, effect=True),
    *(case(Fault("html", status=status), Outcome.UNKNOWN) for status in (404, 502)),
    *(case(Fault("html", status=status, when="after"), Outcome.UNKNOWN, effect=True) for status in (404, 502)),
    *(case(Fault("html", status=503, retry_after=wait), Outcome.UNKNOWN) for wait in (None, 0.01)),
    *(
        case(Fault("html", status=503, retry_after=wait, when="after"), Outcome.UNKNOWN, effect=True)
        for wait in (None, 0.01)
    ),
    *(case(Fault(kind, when="before"), Outcome.UNKNOWN) for kind in ("damaged", "cut", "closed", "reset")),
    *(case(Fault(kind, when="after"), Outcome.UNKNOWN, effect=True) for kind in ("damaged", "cut", "closed", "reset")),
    *(
        case(Fault("latency", when=when, seconds=TOO_LATE), Outcome.UNKNOWN, effect=True)
        for when in ("before", "after")
    ),
    *(case(Fault("latency", when=when, seconds=0.001), Outcome.DONE, effect=True) for when in ("before", "after")),
]

LATE = {"seconds": TOO_LATE}
AFTER_CONNECTING = [
    *(case(Trouble(kind, when="request"), Outcome.UNKNOWN) for kind in ("reset", "fin", "black_hole")),
    *(
        case(Trouble(kind, when=when), Outcome.UNKNOWN, effect=True)
        for kind in ("reset", "fin", "black_hole")
        for when in ("sent", "reply")
    ),
    *(
        case(Trouble("latency", when=when, seconds=TOO_LATE), Outcome.UNKNOWN, effect=True)
        for when in ("request", "sent", "reply")
    ),
    *(case(Trouble("cut", size=size), Outcome.UNKNOWN, effect=True) for size in (1, 30, 150)),
    case(Trouble("half_close"), Outcome.UNKNOWN, effect=True),
    case(Trouble("dribble", seconds=SLOW), Outcome.UNKNOWN, effect=True),
    case(Trouble("dribble", seconds=0.00001), Outcome.DONE, effect=True),
    case(Trouble("latency", seconds=0.001), Outcome.DONE, effect=True),
]
# On bare TCP a connection stands before it can fail, and then our headers have left; its end may still come first.
CONNECTING_ON_TCP = [
    *(case(Trouble(kind, when="connect"), Outcome.UNKNOWN, Outcome.NOT_SENT) for kind in ("reset", "fin")),
    *(case(Trouble(kind, when="connect"), Outcome.UNKNOWN) for kind in ("black_hole", "stall")),
    case(Trouble("latency", when="connect", seconds=TOO_LATE), Outcome.UNKNOWN, effect=True),
    case(Trouble("latency", when="connect", seconds=0.001), Outcome.DONE, effect=True),
]
CONNECTING_ON_TLS = [
    *(case(Trouble(kind, when="connect"), Outcome.NOT_SENT) for kind in ("reset", "fin", "black_hole", "stall")),
    case(Trouble("latency", when="connect", seconds=TOO_LATE), Outcome.NOT_SENT),
    case(Trouble("latency", when="connect", seconds=0.001), Outcome.DONE, effect=True),
]
TROUBLES = {"TCP": CONNECTING_ON_TCP + AFTER_CONNECTING, "TLS": CONNECTING_ON_TLS + AFTER_CONNECTING}


Cases = tuple[Case, ...]
T = TypeVar("T")


@frozen
class Ending:
    """How one call ended, without the error: its traceback would keep all clients and their log filters alive."""

    outcome: Outcome
    attempts: int | None = None
    maybe_applied: bool | None = None

    @classmethod
    def of(cls, outcome: Outcome, error: CallError) -> "Ending":
        return cls(outcome, error.attempts, error.maybe_applied)


def options(*cases: Case, short: float = SHORT) -> dict[str, Any]:
    """Return long timeouts, and short ones for replies that never arrive, so that a slow machine changes no outcome."""
    to_grant = any(one.silent and Outcome.UNKNOWN in one.outcomes for one in cases)
    to_connect = any(one.silent and Outcome.NOT_SENT in one.outcomes for one in cases)
    return {
        "retry": QUICK,
        "proxy": None,
        "grant_timeout": short if to_grant else LONG,
        "connect_timeout": short if to_connect else LONG,
    }


async def granted(tg: Session, member: int = 42) -> Ending:
    return await ending_of(tg.add_member(1, member))


async def made(client: Session | Project, service: FakeService | FakeProject, member: int = 42) -> Ending:
    """Make the call of a generation that must not be repeated."""
    if isinstance(client, Session):
        return await granted(client, member)
    assert isinstance(service, FakeProject)
    return await ending_of(client.create_payment_request(member, service.plans[0].plan_id))


def fake_of(generation: str, **given: Any) -> FakeService | FakeProject:
    """Return a fake service of a generation."""
    if generation == "v2":
        return FakeProject(token=CANARY_KEY, per_minute=None, burst=None, **given)
    return FakeService(api_key=CANARY_KEY, **given)


def client_of(service: FakeService | FakeProject, generation: Any, **given: Any) -> Session | Project:
    """Return a client of a fake service."""
    if isinstance(service, FakeProject):
        return Project(**{**service.session_options(), **given})
    return Session(**{**service.session_options(), "generation": generation, **given})


async def ending_of(call: Awaitable[object]) -> Ending:
    try:
        await call
    except OutcomeUnknown as error:
        return Ending.of(Outcome.UNKNOWN, error)
    except NotSent as error:
        return Ending.of(Outcome.NOT_SENT, error)
    except APIError as error:
        return Ending.of(Outcome.TURNED_AWAY if error.code in (421, 425, 429, 503) else Outcome.REFUSED, error)
    return Ending(Outcome.DONE)


ENDS_AT_ONCE = {Outcome.UNKNOWN, Outcome.REFUSED, Outcome.DONE}


def check_belief(ending: Ending, effects: int) -> None:
    """Compare what the client reports with what the service did."""
    assert effects <= 1
    assert effects == 1 or ending.outcome is not Outcome.DONE
    assert effects == 0 or ending.outcome in (Outcome.DONE, Outcome.UNKNOWN)
    if ending.outcome is not Outcome.DONE:
        assert ending.maybe_applied is (ending.outcome is Outcome.UNKNOWN)


def check_table(cases: Cases, ending: Ending, effects: int, *, persistent: bool = False) -> None:
    """Compare the end of a call with the table; a pair of faults affects one attempt, or two in a row."""
    outcome = ending.outcome
    possible = frozenset[Outcome]().union(*(one.outcomes for one in cases))
    if not persistent:
        possible = (possible & ENDS_AT_ONCE) | {Outcome.DONE}
    if any(one.silent for one in cases):
        # These end by a timeout, which on a busy machine may come before or while the request is sent.
        possible |= {Outcome.NOT_SENT, Outcome.UNKNOWN}
    assert outcome in possible
    if len(cases) > 1 or cases[0].silent:
        return
    [one] = cases
    if outcome is Outcome.UNKNOWN:
        assert effects == one.effect
    if outcome is not Outcome.DONE:
        attempts = 1 if outcome in ENDS_AT_ONCE else QUICK.attempts
        assert ending.attempts == attempts or len(one.outcomes) > 1
    elif not one.outcomes & {Outcome.TURNED_AWAY, Outcome.NOT_SENT}:
        assert Outcome.DONE in one.outcomes


def faults_of(cases: Cases, count: int | None) -> tuple[list[Fault], list[Trouble]]:
    rules = [evolve(one.rule, count=count) for one in cases]
    faults = [rule for rule in rules if isinstance(rule, Fault)]
    return faults, [rule for rule in rules if isinstance(rule, Trouble)]


async def in_process(generation: Any, cases: Cases, count: int | None) -> tuple[Ending, int]:
    """Make one call that must not be repeated; return how it ended, and the number of its effects."""
    service = fake_of(generation, faults=faults_of(cases, count)[0])
    limits = options(*cases, short=0.02)
    async with client_of(service, generation, transport=FakeTransport(service), **limits) as client:
        ending = await made(client, service)
    return ending, len(service.audit)


GENERATIONS = ["legacy", "v1", "v2"]
each_generation = pytest.mark.parametrize("generation", GENERATIONS)


def turn(third: int, generation: str) -> int:
    """Return where to begin in a list of cases, so that the three generations together meet all of them."""
    return (third + GENERATIONS.index(generation)) % 3


async def each(job: Callable[[T], Awaitable[None]], given: Iterable[T]) -> None:
    """Run the job for all items, some at a time, because most of them wait."""
    left = iter(given)

    async def work() -> None:
        for one in left:
            await job(one)

    async with anyio.create_task_group() as group:
        for _ in range(AT_A_TIME):
            group.start_soon(work)


@each_generation
@pytest.mark.parametrize("count", [1, None], ids=["once", "always"])
def test_each_fault_in_process(count: int | None, generation: str, run: Any) -> None:
    async def one(cases: Cases) -> None:
        ending, effects = await in_process(generation, cases, count)
        check_belief(ending, effects)
        check_table(cases, ending, effects, persistent=count is None)

    run(partial(each, one, [(fault,) for fault in FAULTS]))


@each_generation
def test_each_pair_of_faults_in_process(third: int, generation: str, run: Any) -> None:
    async def one(pair: Cases) -> None:
        ending, effects = await in_process(generation, pair, 1)
        check_belief(ending, effects)
        check_table(pair, ending, effects)

    run(partial(each, one, list(itertools.product(FAULTS, FAULTS))[turn(third, generation) :: 3]))


@frozen
class Scenario:
    """The faults of one grant: for the first `count` times, and on an established connection if `warm`."""

    cases: Cases
    count: int | None = 1
    warm: bool = False


Fake = FakeService | FakeProject
Arena = Callable[[Scenario], Awaitable[tuple[Ending, Fake]]]


@pytest.fixture(params=["TCP", "TLS"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def arena(generation: str, wire: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Iterator[Arena]:
    """Return a function that makes one call under given faults, on its own sockets; servers run until the end."""
    with ExitStack() as stack:

        async def run_one(scenario: Scenario) -> tuple[Ending, Fake]:
            faults, troubles = faults_of(scenario.cases, scenario.count)
            service = fake_of(generation)
            server = stack.enter_context(serve_fake(service))
            proxy = stack.enter_context(ChaosProxy(server.url, tls_front=server_tls if wire == "TLS" else None))
            transport = HttpxTransport(proxy=None, ssl_context=client_tls)
            way = {"base_url": proxy.url, "transport": transport, **options(*scenario.cases)}
            async with client_of(service, generation, **way) as client:
                if scenario.warm:
                    await client.check()
                service.inject(*faults)
                proxy.inject(*troubles)
                return await made(client, service), service

        yield run_one


def run_scenarios(arena: Arena, run: Any, scenarios: Iterable[Scenario], tries: int = 3) -> None:
    """Run all scenarios; one whose end differs from the table is repeated, because a busy machine causes faults too."""
    over: list[tuple[Scenario, Ending, Fake]] = []

    async def one(scenario: Scenario) -> None:
        over.append((scenario, *await arena(scenario)))

    async def run_all() -> None:
        await each(one, scenarios)
        await anyio.sleep(TOO_LATE)  # requests that the client has given up may still take effect

    run(run_all)
    assert over
    again: list[Scenario] = []
    for scenario, ending, service in over:
        check_belief(ending, len(service.audit))
        try:
            check_table(scenario.cases, ending, len(service.audit), persistent=scenario.count is None)
        except AssertionError:
            if tries == 1:
                raise
            again.append(scenario)
    if again:
        run_scenarios(arena, run, again, tries - 1)


@each_generation
def test_each_trouble_on_the_way(third: int, generation: str, wire: str, arena: Arena, run: Any) -> None:
    """Each scenario is met by one of the generations; the long variant runs all with each."""
    once = [Scenario((trouble,)) for trouble in TROUBLES[wire]]
    always = [Scenario((trouble,), count=None) for trouble in TROUBLES[wire]]
    warm = [Scenario((one,), warm=True) for one in AFTER_CONNECTING + FAULTS]
    run_scenarios(arena, run, [*once, *always, *warm][turn(third, generation) :: 3])


def pairs(wire: str) -> list[Scenario]:
    troubles = TROUBLES[wire]
    return [Scenario(pair) for others in (troubles, FAULTS) for pair in itertools.product(troubles, others)]


@each_generation
def test_some_pairs_of_troubles_and_faults(generation: str, wire: str, arena: Arena, backend: str, run: Any) -> None:
    first = 47 * GENERATIONS.index(generation) + 23 * (backend == "trio")
    run_scenarios(arena, run, pairs(wire)[first::141])


@pytest.mark.soak
@each_generation
@pytest.mark.parametrize("part", range(25))
def test_every_pair_of_troubles_and_faults(part: int, wire: str, arena: Arena, run: Any) -> None:
    run_scenarios(arena, run, pairs(wire)[part::25])


def everything(probability: float) -> list[Trouble]:
    return [
        *(
            Trouble(kind, when=when, probability=probability)
            for kind in ("reset", "fin")
            for when in ("connect", "sent")
        ),
        Trouble("fin", when="reply", probability=probability),
        Trouble("half_close", probability=probability),
        Trouble("cut", size=40, probability=probability),
        Trouble("dribble", seconds=0.0001, probability=probability),
        Trouble("latency", seconds=0.02, probability=probability),
        Trouble("black_hole", when="sent", probability=probability / 4),
    ]


CROSSINGS = pytest.mark.parametrize(
    ("way", "backend"),
    [(HttpxTransport, "asyncio"), (HttpxTransport, "trio"), (AiohttpTransport, "asyncio")],
    ids=["httpx-asyncio", "httpx-trio", "aiohttp-asyncio"],
)
GrantMany = Callable[[int, int], None]


@pytest.fixture(params=["legacy", "v1", "v2"])
def grant_many(
    request: pytest.FixtureRequest,
    way: Any,
    wire: str,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    run: Any,
) -> GrantMany:
    """Return a function that calls for many members at once under random faults, and compares both sides for each."""

    def grant_many(members: int, seed: int) -> None:
        service = fake_of(request.param, faults=nasty(0.02, seconds=0.01, wait=0.005), seed=seed)
        endings: dict[int, Ending] = {}

        async def scenario() -> None:
            options: dict[str, Any] = {"retry": QUICK, "grant_timeout": 2.0, "max_connections": AT_A_TIME}
            transport = way(proxy=None, ssl_context=client_tls)
            way_there = {"base_url": proxy.url, "transport": transport}
            async with client_of(service, request.param, **way_there, **options) as client:

                async def one(member: int) -> None:
                    endings[member] = await made(client, service, member)

                await each(one, range(1, members + 1))

        front = server_tls if wire == "TLS" else None
        with (
            serve_fake(service) as server,
            ChaosProxy(server.url, everything(0.02), seed=seed, tls_front=front) as proxy,
        ):
            run(scenario)
        if isinstance(service, FakeProject):
            effects = Counter(int(effect.user_id or 0) for effect in service.audit)
        else:
            effects = Counter(grant.member_id or 0 for grant in service.audit)
        assert len(endings) == members
        for member, ending in endings.items():
            check_belief(ending, effects[member])
        assert 0 < sum(ending.outcome is Outcome.UNKNOWN for ending in endings.values()) < members

    return grant_many


@pytest.mark.soak
@CROSSINGS
def test_many_members_under_all_faults_at_once(grant_many: GrantMany) -> None:
    grant_many(200, 1)


@pytest.mark.soak
@CROSSINGS
@pytest.mark.parametrize("seed", range(10))
def test_very_many_members_under_all_faults_at_once(seed: int, grant_many: GrantMany) -> None:
    grant_many(1_000, seed)


def faulty(ending: ReplyEnding, effects: Counter[int]) -> Script:
    """Return a script that ends each reply in the same way; three of four members meet a fault before it."""

    def script(connection: Connection) -> None:
        while request := connection.request():
            found = re.search(rb'"member_id": (\d+)', request)
            if found is None:
                return ended(connection)
            member, rejected = int(found[1]), connection.server.requests.count(request) == 1
            match member % 4:
                case 1:
                    return connection.reset()
                case 2:
                    effects[member] += 1
                    return connection.reset()
                case 3 if rejected:
                    connection.answer(429, {"ok": False, "code": 429, "description": "slow down"})
                case _:
                    effects[member] += 1
                    return ended(connection)
        return None

    def ended(connection: Connection) -> None:
        ending(connection, OK_PLANS)
        if ending in LEFTOVERS:
            socket.socket.recv(connection.sock, 1)

    return script


@CROSSINGS
@pytest.mark.parametrize("ending", [*CLOSING, *LEFTOVERS])
def test_however_a_service_ends_its_replies(
    ending: ReplyEnding,
    way: Any,
    wire: str,
    serve: Any,
    run: Any,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a grant whose request met a reset is unknown; closed connections and data left over make none unknown."""
    if ending in LEFTOVERS:
        if CORK is None or (wire == "TCP" and ending is says_that_it_closes):
            pytest.skip("only Linux lets a program say what goes into one segment, and only TLS has a close of its own")
        monkeypatch.setattr("tgmembership_async.transport.lanes._PROVEN_AFTER", -1.0)  # grants use open connections
    effects: Counter[int] = Counter()
    endings: dict[int, Ending] = {}
    server = serve(faulty(ending, effects), server_tls if wire == "TLS" else None)

    async def scenario() -> None:
        transport = way(proxy=None, ssl_context=client_tls)
        async with Session(8047883872, CANARY_KEY, base_url=server.url, transport=transport, retry=QUICK) as tg:

            async def one(member: int) -> None:
                with suppress(CallError):
                    await tg.call("anything")
                endings[member] = await granted(tg, member)

            await each(one, range(1, 5))
            for member in range(5, 9):
                await one(member)

    run(scenario)
    for member, how in endings.items():
        check_belief(how, effects[member])
        assert how.outcome is (Outcome.UNKNOWN if member % 4 in (1, 2) else Outcome.DONE)
        assert effects[member] == (member % 4 != 1)
    assert len(endings) == 8


@pytest.mark.parametrize("ring", ["middleware", "attempt_middleware"])
@pytest.mark.parametrize("fault", [None, Fault("error", when="after"), Fault("closed", when="after")])
def test_not_even_a_middleware_that_sends_again(ring: str, fault: Fault | None, run: Any) -> None:
    async def twice(request: Request, call_next: Next) -> Response:
        with suppress(Exception):
            await call_next(request)
        return await call_next(request)

    async def scenario() -> None:
        service = FakeService(api_key=CANARY_KEY, faults=[fault] if fault else [])
        rings: dict[str, Any] = {ring: [twice]}
        async with Session(**service.session_options(), transport=FakeTransport(service), **rings, **options()) as tg:
            with pytest.raises(OutcomeUnknown) as unknown:
                await tg.add_member(1, 42)
            assert isinstance(unknown.value.__cause__, UsageError)
        assert len(service.audit) == 1

    run(scenario)
