"""The example bot, killed again and again between a Telegram and a service that fail, and how each payment ended."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from attrs import field, frozen, mutable
from fake_telegram import TOKEN, FakeTelegram
from forked import SHOPS, Forked

from tgmembership_async.grants import Grant, SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve

EXAMPLE = Path(__file__).parents[1] / "examples" / "aiogram_bot.py"
OWNER = 4242
_FIRST_USER = 1_000_000
_MOST_WAITING = 20  # updates that Telegram keeps at a time
_PATIENCE = 600.0


@mutable
class Said:
    """What Telegram accepted: the links by chat, and the refs that an owner was asked about."""

    random: Random
    links: dict[int, list[str]] = field(factory=dict)
    questions: Counter[str] = field(factory=Counter)

    def refuse(self, method: str, arguments: dict[str, Any]) -> str | None:
        """Refuse one call of thirty, and note the others."""
        if method == "sendMessage":
            if self.random.random() < 1 / 30:
                return "Bad Request: try another time"
            rows = arguments.get("reply_markup", {}).get("inline_keyboard", [])
            for button in (button for row in rows for button in row if "url" in button):
                self.links.setdefault(int(arguments["chat_id"]), []).append(button["url"])
            if arguments["chat_id"] == OWNER:
                self.questions[arguments["text"].splitlines()[0]] += 1
        return None


@frozen
class Ends:
    """What became of the payments."""

    kills: int
    refs: Sequence[str]
    grants: dict[str, Grant]
    granted: Counter[int]
    said: Said

    @property
    def lost(self) -> list[str]:
        return [ref for ref in self.refs if ref not in self.grants]

    @property
    def granted_twice(self) -> list[int]:
        return [member for member, count in self.granted.items() if count > 1]

    @property
    def silent(self) -> list[str]:
        return [ref for number, ref in enumerate(self.refs) if not _has_end(self.said, number, ref)]

    @property
    def with_two_links(self) -> list[int]:
        return [chat for chat, links in self.said.links.items() if len(set(links)) > 1]

    @property
    def repeats(self) -> int:
        return sum(len(links) - 1 for links in self.said.links.values())


def _has_end(said: Said, number: int, ref: str) -> bool:
    return _FIRST_USER + number in said.links or ref in said.questions


async def crash_the_bot(folder: Path, *, payments: int, kills: int, seed: int) -> Ends:
    """Let so many customers pay, and kill the bot so often meanwhile; then let it come to its end."""
    random = Random(seed)
    service = FakeService(
        faults=[
            Fault("throttled", probability=0.02, retry_after=0.01),
            Fault("error", method="addMember", when="after", probability=0.01),
            Fault("reset", probability=0.01),
        ],
        seed=seed,
    )
    said, refs = Said(random), [f"telegram:c{number}" for number in range(payments)]
    async with FakeTelegram() as telegram:
        telegram.refuse = said.refuse
        with serve(service) as server:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                **server.env(),
                "PYTHONPATH": str(EXAMPLE.parents[1]),
                "TELEGRAM_BOT_TOKEN": TOKEN,
                "TELEGRAM_API_URL": telegram.url,
                "TELEGRAM_OWNER_IDS": str(OWNER),
                "GRANTS_DB": str(folder / "grants.db"),
            }
            feeding = asyncio.create_task(_feed(telegram, payments))
            for kill in range(kills):
                async with _running(folder, environment):
                    await _until(lambda kill=kill: _paid(telegram) >= (kill + 1) * payments / (kills + 2))
                    await asyncio.sleep(random.uniform(0, 0.1))
            async with _running(folder, environment):
                await feeding
                await _until(lambda: all(_has_end(said, number, ref) for number, ref in enumerate(refs)))
        async with SqliteLedger(folder / "grants.db") as ledger:
            grants = {grant.ref: grant async for grant in ledger.grants()}
    granted = Counter(grant.member_id or 0 for grant in service.audit)
    return Ends(kills, refs, grants, granted, said)


def _paid(telegram: FakeTelegram) -> int:
    return telegram.sent - len(telegram.updates)


async def _feed(telegram: FakeTelegram, payments: int) -> None:
    for number in range(payments):
        await _until(lambda: len(telegram.updates) < _MOST_WAITING)
        telegram.pay("4", charge=f"c{number}", user_id=_FIRST_USER + number)


@asynccontextmanager
async def _running(folder: Path, environment: dict[str, str]) -> AsyncIterator[None]:
    with (folder / "stderr").open("ab") as stderr:
        bot = await asyncio.to_thread(
            Forked, [sys.executable, EXAMPLE], forks=SHOPS, env=environment, stderr=stderr, stdout=stderr
        )
    try:
        yield
    finally:
        bot.kill()
        await asyncio.to_thread(bot.wait, 60)


async def _until(done: Any) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not done():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.01)
