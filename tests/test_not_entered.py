"""What is used before it is entered raises UsageError with the line to write."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stub_transport import StubTransport

from tgmembership_async import PostgresGate, Session, UsageError
from tgmembership_async.access import AccessCheck
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import (
    FollowUp,
    Grant,
    Granter,
    GrantRequest,
    GrantStatus,
    MemoryLedger,
    PostgresLedger,
    Settlement,
    SqliteLedger,
)
from tgmembership_async.testing import ChaosProxy, FakeService, serve
from tgmembership_async.webhooks import (
    Arrival,
    Delivery,
    EntryStatus,
    PostgresInbox,
    Receiver,
    SqliteInbox,
    Verdict,
    Verifier,
)

CONNINFO = "postgresql://shop@127.0.0.1:1/shop"


def session() -> Session:
    return Session(1, "k", transport=StubTransport())


def granter() -> Granter:
    return Granter(session(), MemoryLedger())


async def nothing(_grant: object) -> None: ...


Use = Callable[[Any], Any]
NOW = datetime.now(UTC)
SETTLEMENT = Settlement(GrantStatus.REFUSED)
REQUEST = GrantRequest("r", 1)
FOLLOW_UP = FollowUp(Grant("r", 1, None, GrantStatus.GRANTED, None, 1, "", NOW), 0, 1)
VERDICT = Verdict(EntryStatus.DONE)
LEDGER: dict[str, Use] = {
    "plan": lambda ledger: ledger.plan(REQUEST),
    "claim": lambda ledger: ledger.claim(REQUEST),
    "settle": lambda ledger: ledger.settle("r", SETTLEMENT),
    "decide": lambda ledger: ledger.decide("r", "retry", None, ""),
    "mark_delivered": lambda ledger: ledger.mark_delivered("r"),
    "get": lambda ledger: ledger.get("r"),
    "get_many": lambda ledger: ledger.get_many(["r"]),
    "grants": lambda ledger: anext(aiter(ledger.grants())),
    "attempts": lambda ledger: ledger.attempts("r"),
    "decisions": lambda ledger: ledger.decisions("r"),
    "purge": lambda ledger: ledger.purge(NOW),
    "count": lambda ledger: ledger.count(),
    "count_by_day": lambda ledger: ledger.count_by_day(),
    "search": lambda ledger: ledger.search("r", limit=1),
    "begin_follow_up": lambda ledger: ledger.begin_follow_up("r", lease=timedelta(1), grace=timedelta(1)),
    "postpone": lambda ledger: ledger.postpone(FOLLOW_UP, failures=1, due_at=NOW),
    "end_follow_up": lambda ledger: ledger.end_follow_up(FOLLOW_UP),
    "bind": lambda ledger: ledger.bind("https://shop.example", 1),
    "check_writable": lambda ledger: ledger.check_writable(),
}
INBOX: dict[str, Use] = {
    "store": lambda inbox: inbox.store(Arrival(Delivery(NOW, "n", b"{}", "00"), NOW), repeat_window=1),
    "claim": lambda inbox: inbox.claim(1, NOW),
    "settle": lambda inbox: inbox.settle(1, VERDICT),
    "next_due": lambda inbox: inbox.next_due(),
    "entries": lambda inbox: inbox.entries(),
    "retry": lambda inbox: inbox.retry(1),
    "purge": lambda inbox: inbox.purge(NOW),
    "drop": lambda inbox: inbox.drop(1, ""),
    "bind": lambda inbox: inbox.bind("https://shop.example", 1, record=True),
}
USES: dict[str, tuple[Callable[[Path], Any], dict[str, Use]]] = {
    "async with Session(...) as tg:": (
        lambda _: session(),
        {
            "add_member": lambda tg: tg.add_member(1),
            "get_plans": lambda tg: tg.get_plans(),
            "get_subscribers": lambda tg: tg.get_subscribers(),
            "count_orders": lambda tg: tg.count_orders(),
            "count_users": lambda tg: tg.count_users(),
            "get_revenue": lambda tg: tg.get_revenue(),
            "most_popular_payment_methods": lambda tg: tg.most_popular_payment_methods(),
            "plans_performance": lambda tg: tg.plans_performance(),
            "set_webhook": lambda tg: tg.set_webhook("https://shop.example/"),
            "delete_webhook": lambda tg: tg.delete_webhook(),
            "check": lambda tg: tg.check(),
            "call": lambda tg: tg.call("getPlans"),
            "with_options": lambda tg: tg.with_options(deadline=1).get_plans(),
        },
    ),
    "async with Granter(session, ledger) as granter:": (
        lambda _: granter(),
        {
            "grant": lambda granter: granter.grant("r", plan_id=1),
            "plan": lambda granter: granter.plan("r", plan_id=1),
            "provision": lambda granter: granter.provision([]),
            "run_planned": lambda granter: granter.run_planned(),
            "resolve": lambda granter: granter.resolve("r", "retry"),
            "owed": lambda granter: anext(aiter(granter.owed())),
            "reconcile": lambda granter: granter.reconcile(),
            "get": lambda granter: granter.get("r"),
            "grants": lambda granter: anext(granter.grants()),
            "undelivered": lambda granter: anext(granter.undelivered()),
            "mark_delivered": lambda granter: granter.mark_delivered("r"),
            "purge": lambda granter: granter.purge(delivered_before=NOW),
        },
    ),
    "async with Fulfillment(...) as fulfillment:": (
        lambda _: Fulfillment(granter(), deliver=nothing, attention=nothing),
        {
            "take": lambda fulfillment: fulfillment.take("r", plan_id=1),
            "can_take": lambda fulfillment: fulfillment.can_take(),
            "refunded": lambda fulfillment: fulfillment.refunded("r", plan_id=1),
            "decide": lambda fulfillment: fulfillment.decide("r", "retry"),
            "pending": lambda fulfillment: fulfillment.pending(),
        },
    ),
    "async with MemoryLedger() as ledger:": (lambda _: MemoryLedger(), LEDGER),
    "async with SqliteLedger(...) as ledger:": (
        lambda folder: SqliteLedger(folder / "l.db"),
        {
            **LEDGER,
            "backup": lambda ledger: ledger.backup("copy.db"),
            "gaps": lambda ledger: ledger.gaps(),
            "settle_later": lambda ledger: ledger.settle_later("r", SETTLEMENT, nothing),
        },
    ),
    "async with PostgresLedger(...) as ledger:": (
        lambda _: PostgresLedger(CONNINFO),
        {**LEDGER, "plan_all": lambda ledger: ledger.plan_all([REQUEST])},
    ),
    "async with SqliteInbox(...) as inbox:": (
        lambda folder: SqliteInbox(folder / "i.db"),
        {**INBOX, "backup": lambda inbox: inbox.backup("copy.db")},
    ),
    "async with PostgresInbox(...) as inbox:": (lambda _: PostgresInbox(CONNINFO), INBOX),
    "async with receiver:": (
        lambda folder: Receiver(Verifier("s"), SqliteInbox(folder / "i.db")),
        {
            "process_pending": lambda receiver: receiver.process_pending(),
            "run": lambda receiver: receiver.run(),
        },
    ),
    "async with PostgresGate(...) as gate:": (
        lambda _: PostgresGate(CONNINFO),
        {
            "pauses": lambda gate: gate.pauses(),
            "lift": lambda gate: gate.lift(),
        },
    ),
}
ALWAYS = {"open", "aclose"}
FORMER = {"put_off"}
NOT_ENTERED_FOR: dict[str, set[str]] = {
    "Session": {"from_env", "end_calls"},
    "Fulfillment": {"stop"},  # as `aclose`
    "PostgresLedger": {"plan_in"},  # it works with a connection of the caller's
    "Receiver": {"on", "on_unknown", "handle", "before_body", "aiohttp_handler"},  # it answers 503 then
    "PostgresGate": {"ask", "pause"},  # without it the Session waits by itself, and this is logged
}


@pytest.mark.parametrize(("line", "method"), [(line, method) for line, (_, uses) in USES.items() for method in uses])
async def test_each_method_says_which_line_to_write(line: str, method: str, tmp_path: Path) -> None:
    make, uses = USES[line]
    with pytest.raises(UsageError) as raised:
        await uses[method](make(tmp_path))
    assert f"`{line}`" in str(raised.value)


@pytest.mark.parametrize("line", USES)
def test_no_public_method_is_left_out(line: str, tmp_path: Path) -> None:
    make, uses = USES[line]
    kind = type(make(tmp_path))
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isroutine) if not name.startswith("_")}
    assert methods - ALWAYS - FORMER - NOT_ENTERED_FOR.get(kind.__name__, set()) == uses.keys()


async def test_an_access_check_says_how_to_enter_its_session() -> None:
    with pytest.raises(UsageError, match=r"`async with Session\(...\) as tg:`"):
        await AccessCheck(session())(42)


def test_a_server_of_the_test_kit_says_so_too() -> None:
    with pytest.raises(UsageError, match=r"`with serve\(service\) as server:`"):
        serve(FakeService()).url  # noqa: B018 - looking it up is the test
    with pytest.raises(UsageError, match=r"`with ChaosProxy\(...\) as proxy:`"):
        ChaosProxy("http://127.0.0.1:1").url  # noqa: B018 - looking it up is the test
