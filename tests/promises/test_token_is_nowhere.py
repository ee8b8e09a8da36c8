"""A token in an unreadable reply is in no error, log or ledger, whatever precedes it."""

import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, reply

from tgmembership_async import GrantHeld, OutcomeUnknown, Session, UnexpectedReply
from tgmembership_async.grants import Granter, SqliteLedger
from tgmembership_async.grants.copying import Entry

TOKEN = "t0kEn-of-a-customer"
JSON = f'{{"ok": true, "code": 200, "result": "{TOKEN}"}}'
BEFORE = ["<br />\n<b>Notice</b>: Undefined index\n", "Warning: x\n", "<!-- ", "<html><body>", "\0"]


def session(body: str) -> Session:
    return Session(1, CANARY_KEY, transport=StubTransport(reply(body)))


@pytest.mark.parametrize("before", BEFORE)
def test_a_grants_token_is_not_shown_though_its_reply_does_not_read(
    before: str, backend: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "grants.db"

    async def scenario() -> None:
        async with Granter(session(before + JSON), SqliteLedger(path)) as granter:
            with pytest.raises(GrantHeld) as held:
                await granter.grant("pi_1", plan_id=1, member_id=42)
            told = "".join(traceback.format_exception(held.value))
            assert TOKEN not in f"{told} {held.value!r} {held.value.grant}"
            assert f"{len((before + JSON).encode())} bytes" in told

    with caplog.at_level(logging.DEBUG):
        anyio.run(scenario, backend=backend)
    assert TOKEN not in caplog.text
    assert TOKEN.encode() not in path.read_bytes()


@pytest.mark.parametrize("method", ["addMember", "ADDMEMBER", "webhook", "undocumented"])
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_the_verb_does_not_matter_where_the_method_is_known(method: str, verb: Any, backend: str) -> None:
    async def scenario() -> None:
        async with session("<br />" + JSON) as tg:
            with pytest.raises((OutcomeUnknown, UnexpectedReply)) as raised:
                await tg.call(method, verb=verb, safety="unsafe")
        cause: Any = getattr(raised.value, "cause", raised.value)
        assert TOKEN not in f"{raised.value} {cause}"
        assert cause.body == b""

    anyio.run(scenario, backend=backend)


def test_a_row_on_its_way_into_another_ledger_does_not_show_its_token() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    entry = Entry("pi_1", 1, 42, "", "granted", 1, f'{{"token": "{TOKEN}"}}', None, now, now, (), ())
    assert TOKEN not in repr(entry)
