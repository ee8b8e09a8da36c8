"""The page about webhooks: its fences run, and its tables say what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from starlette.applications import Starlette
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from webhook_deliveries import body, signed

from tgmembership_async.testing import FakeService
from tgmembership_async.webhooks import Receiver, SqliteInbox, answers

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """Execute all fences, and return the names that they define."""
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE)
    for example in document.examples():
        example.evaluate()
    return dict(document.namespace)


async def test_the_shop_receives_and_rehearses(
    names: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = FakeService()
    webhook = service.set_webhook("https://shop.example/")
    receiver: Receiver = names["shop"](webhook.secret, tmp_path / "inbox.db")
    async with receiver:
        statuses = await names["rehearse"](receiver, service)
        service.tell("donation_received", {"amount": "5"})
        await names["rehearse"](receiver, service)
        assert isinstance(receiver.inbox, SqliteInbox)
    async with receiver:
        await receiver.process_pending()
    assert set(statuses) <= {200, 401}
    assert capsys.readouterr().out.splitlines()[0] == "42 paid 9.99 EUR for plan 1"


async def test_the_servers_take_it(names: dict[str, Any], tmp_path: Path) -> None:
    receiver: Receiver = names["shop"]("secret", tmp_path / "inbox.db")
    app = web.Application()
    names["on_aiohttp"](receiver, app)
    assert [route.method for route in app.router.routes()] == ["*"]
    starlette = names["on_starlette"](receiver)
    assert isinstance(starlette, Starlette)
    async with starlette.router.lifespan_context(starlette):
        assert (await receiver.handle(signed(body()), body())).status == 401


def test_every_answer_that_there_is_stands_in_the_table() -> None:
    told = {
        int(status)
        for status in re.findall(r"^\| .* \| ([0-9]{3}) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    }
    possible = {answer.status for answer in vars(answers).values() if isinstance(answer, answers.Answer)}
    assert told == possible | {answers.not_allowed("").status}
