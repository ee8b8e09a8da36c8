"""What is used before it is entered raises UsageError with the line to write."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from stub_transport import StubTransport

from tgmembership_async import Session, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Granter, GrantRequest, MemoryLedger, PostgresLedger, SqliteLedger
from tgmembership_async.testing import ChaosProxy, FakeService, serve
from tgmembership_async.webhooks import PostgresInbox, Receiver, SqliteInbox, Verifier

CONNINFO = "postgresql://shop@127.0.0.1:1/shop"


def session() -> Session:
    return Session(1, "k", transport=StubTransport())


def granter() -> Granter:
    return Granter(session(), MemoryLedger())


async def nothing(_grant: object) -> None: ...


USES: dict[str, Callable[[Path], Awaitable[Any]]] = {
    "async with Session(...) as tg:": lambda _: session().get_plans(),
    "async with Granter(session, ledger) as granter:": lambda _: granter().grant("r", plan_id=1),
    "async with MemoryLedger() as ledger:": lambda _: MemoryLedger().get("r"),
    "async with SqliteLedger(...) as ledger:": lambda folder: SqliteLedger(folder / "l.db").get("r"),
    "async with PostgresLedger(...) as ledger:": lambda _: PostgresLedger(CONNINFO).claim(GrantRequest("r", 1)),
    "async with SqliteInbox(...) as inbox:": lambda folder: SqliteInbox(folder / "i.db").entries(),
    "async with PostgresInbox(...) as inbox:": lambda _: PostgresInbox(CONNINFO).entries(),
    "async with receiver:": lambda folder: Receiver(Verifier("s"), SqliteInbox(folder / "i.db")).process_pending(),
    "async with Fulfillment(...) as fulfillment:": lambda _: Fulfillment(
        granter(), deliver=nothing, attention=nothing
    ).take("r", plan_id=1),
}


@pytest.mark.parametrize("line", USES)
async def test_it_says_which_line_to_write(line: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        await USES[line](tmp_path)
    assert f"`{line}`" in str(raised.value)


def test_a_server_of_the_test_kit_says_so_too() -> None:
    with pytest.raises(UsageError, match=r"`with serve\(service\) as server:`"):
        serve(FakeService()).url  # noqa: B018 - looking it up is the test
    with pytest.raises(UsageError, match=r"`with ChaosProxy\(...\) as proxy:`"):
        ChaosProxy("http://127.0.0.1:1").url  # noqa: B018 - looking it up is the test
