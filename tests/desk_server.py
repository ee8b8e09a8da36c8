"""A desk on a real server, the ledger and the inbox behind it, and a browser without a window: httpx."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import httpx
from attrs import frozen
from canary import CANARY_KEY
from no_tls import NO_TLS

from tgmembership_async.cli.serving import bound, serve
from tgmembership_async.desk import Guard, desk_app
from tgmembership_async.errors import Forbidden, OutcomeUnknown, ReplyLost
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.values.models import AccessToken
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import Delivery, EntryStatus, SqliteInbox
from tgmembership_async.webhooks.inbox import Arrival, Verdict

TOKEN = "t0kEnOfTheDesk"
LINK = f"https://t.me/+{CANARY_KEY}"
LOST = OutcomeUnknown("the reply was lost", cause=ReplyLost("connection reset"))
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"' onmouseover=alert(3) {{7*7}} javascript:alert(4)"


async def hold(ledger: Ledger, ref: str, member_id: int | None = 42, note: str = "") -> None:
    """Put a row with an unknown outcome into a ledger."""
    await ledger.claim(GrantRequest(ref, 1, member_id, note))
    await ledger.settle(ref, Settlement(GrantStatus.UNKNOWN, error=LOST, evidence=f"reply lost {note}"))


async def fill(ledger: Ledger) -> None:
    """Fill a ledger with one row of each kind: unknown, refused, granted, delivered and planned."""
    await hold(ledger, "pi_unknown")
    await ledger.claim(GrantRequest("pi_refused", 1, 43))
    await ledger.settle("pi_refused", Settlement(GrantStatus.REFUSED, error=Forbidden("blocked the bot", code=403)))
    for ref in "pi_granted", "pi_delivered":
        await ledger.claim(GrantRequest(ref, 2, 44))
        await ledger.settle(ref, Settlement(GrantStatus.GRANTED, token=AccessToken(CANARY_KEY, LINK)))
    await ledger.mark_delivered("pi_delivered")
    await ledger.plan(GrantRequest("pi_planned", 1, 45))


async def bury(inbox: SqliteInbox, *names: str) -> None:
    """Put a dead letter for each name into an inbox."""
    now = datetime.now(UTC)
    for number, name in enumerate(names, 1):
        delivery = Delivery(now, "n", f'{{"link": "{LINK}"}}'.encode(), f"{number:0128x}")
        await inbox.store(Arrival(delivery, now, name, f"f{number}"), repeat_window=1)
    for entry in await inbox.claim(100, now):
        await inbox.settle(entry.id, Verdict(EntryStatus.DEAD, note=f"the handler of {entry.name} failed"))


@frozen
class Desk:
    """A running desk and a client that has its cookie."""

    url: str
    client: httpx.AsyncClient
    ledger: SqliteLedger
    inbox: SqliteInbox

    async def page(self, path: str, status: int = 200) -> str:
        """Return the text of a page."""
        answer = await self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    async def form(self, path: str) -> tuple[str, dict[str, str]]:
        """Return the address and the hidden fields of the form of a page."""
        text = await self.page(path)
        [action] = re.findall(r'<form method="post" action="(.*?)"', text)
        return action, {
            name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="(.*?)"', text)
        }

    async def post(self, action: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Send a form as a browser does."""
        sent = {
            "origin": self.url,
            "sec-fetch-site": "same-origin",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        return await self.client.post(action, data=fields, headers={k: v for k, v in sent.items() if v})

    async def status(self, ref: str) -> GrantStatus:
        """Return the status of a row."""
        grant = await self.ledger.get(ref)
        assert grant is not None
        return grant.status


@asynccontextmanager
async def served(app: Any, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve an application, and yield its URL."""
    ready: asyncio.Event = asyncio.Event()

    async def started() -> None:
        ready.set()

    with bound(host, 0) as listening:
        task = asyncio.create_task(serve(app, listening, started))
        await ready.wait()
        try:
            yield f"http://{host}:{listening.getsockname()[1]}"
        finally:
            task.cancel()
            await asyncio.wait({task})


@asynccontextmanager
async def desk(folder: Path, **options: Any) -> AsyncIterator[Desk]:
    """Serve a desk beside the owner of its ledger and inbox, as `tgmembership desk` does, at /desk."""
    app: Any = None

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/desk"}, receive, send)

    async with (
        SqliteLedger(folder / "grants.db") as ledger,
        SqliteInbox(folder / "inbox.db") as inbox,
        SqliteLedger(folder / "grants.db", owner=False) as beside,
        SqliteInbox(folder / "inbox.db", owner=False) as letters,
        served(mounted) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as client,
    ):
        guard = Guard(token=Secret(TOKEN), host=url.removeprefix("http://"), **options)
        app = desk_app(beside, letters, guard=guard)
        answer = await client.get(f"/?token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/desk/")
        yield Desk(url, client, ledger, inbox)
