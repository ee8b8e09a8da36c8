"""However often a Fulfillment is killed, each payment ends as a link or as a question, and never as two links."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import killed_shop
import pytest
from aiohttp import web
from attrs import define, field
from figures import record
from forked import CAN_FORK, Forked

from tgmembership_async.grants import GrantStatus, SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve

KILLS = 200


@define
class SlowTelegram:
    """A fake Telegram that refuses one message of ten, and answers late: after it has sent the message, or before."""

    random: Random
    links: dict[str, list[tuple[int, str]]] = field(factory=dict)
    questions: Counter[str] = field(factory=Counter)
    refused: int = 0
    url: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_post("/link", self._link)
        application.router.add_post("/question", self._question)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
        await runner.cleanup()

    async def _link(self, request: web.Request) -> web.Response:
        said = await self._accepted(request)
        self.links.setdefault(said["ref"], []).append((int(said["life"]), said["link"]))
        await asyncio.sleep(self.random.uniform(0, 0.1))
        return web.Response()

    async def _question(self, request: web.Request) -> web.Response:
        self.questions[(await self._accepted(request))["ref"]] += 1
        return web.Response()

    async def _accepted(self, request: web.Request) -> dict[str, str]:
        said: dict[str, str] = await request.json()
        await asyncio.sleep(self.random.uniform(0, 0.1))
        if self.random.random() < 0.1:
            self.refused += 1
            raise web.HTTPBadGateway
        return said

    def has_end(self, ref: str) -> bool:
        return ref in self.links or ref in self.questions


async def kill_often(folder: Path, *, kills: int, payments: int, seed: int) -> dict[str, int]:
    """Kill processes with a Fulfillment, let the last one come to its end, and count what became of the payments."""
    random, refs = Random(seed), [f"pay-{number}" for number in range(payments)]
    faults = [
        Fault("throttled", probability=0.02, retry_after=0.01),
        Fault("error", method="addMember", when="after", probability=0.01),
        Fault("reset", probability=0.01),
    ]
    service, telegram = FakeService(faults=faults, seed=seed), SlowTelegram(random)
    delivered: list[set[str]] = [set()]  # before each life
    async with telegram.open():
        with serve(service) as server:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                **server.env(),
                "PYTHONPATH": os.pathsep.join([str(Path(killed_shop.__file__).parent), *filter(None, sys.path)]),
                "TELEGRAM": telegram.url,
            }
            for life in range(kills + 1):
                goal = payments if life == kills else (life + 1) * payments // (kills + 1)
                command = [sys.executable, killed_shop.__file__, ("asyncio", "trio")[life % 2], str(life), str(goal)]
                shop = await asyncio.to_thread(Forked, command, cwd=folder, env=environment)
                try:
                    if life == kills:
                        await _until(lambda: all(map(telegram.has_end, refs)), shop)
                    else:
                        await asyncio.sleep(random.uniform(0.05, 0.6))
                        assert shop.poll() is None, "it lives until it is killed"
                finally:
                    shop.kill()
                    await asyncio.to_thread(shop.wait, 60)
                delivered.append(await _delivered(folder))
    granted = Counter(grant.member_id for grant in service.audit)
    return {
        "kills": kills,
        "payments": payments,
        "links": len(telegram.links),
        "questions": len(telegram.questions),
        "messages refused": telegram.refused,
        "links repeated after a kill": sum(len(sent) - 1 for sent in telegram.links.values()),
        "granted twice": sum(count > 1 for count in granted.values()),
        "without link or question": sum(not telegram.has_end(ref) for ref in refs),
        "delivered without a link": len(delivered[-1] - telegram.links.keys()),
        "with two different links": sum(len({link for _, link in sent}) > 1 for sent in telegram.links.values()),
        "repeated within one life": sum(
            len({life for life, _ in sent}) < len(sent) for sent in telegram.links.values()
        ),
        "repeated after they were marked": sum(
            ref in delivered[life] for ref, sent in telegram.links.items() for life, _ in sent
        ),
    }


async def _until(done: Callable[[], bool], shop: Forked) -> None:
    async with asyncio.timeout(600):
        while not done():
            assert shop.poll() is None
            await asyncio.sleep(0.02)


async def _delivered(folder: Path) -> set[str]:
    if not (folder / "grants.db").exists():
        return set()
    async with SqliteLedger(folder / "grants.db", owner=False) as ledger:
        return {grant.ref async for grant in ledger.grants([GrantStatus.DELIVERED])}


@pytest.mark.crash
@pytest.mark.skipif(not CAN_FORK, reason="each start would import for a second")
async def test_two_hundred_kills_lose_no_payment_and_send_no_second_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = await kill_often(tmp_path, kills=KILLS, payments=10 * KILLS, seed=1)
    with capsys.disabled():
        print(f"\n{', '.join(f'{name}: {count:,}' for name, count in figures.items())}")  # noqa: T201 - the figures
    record("crash_fulfillment", "Two hundred kills", figures)
    assert figures["links repeated after a kill"] > 0, "the kills hit the time between sending and marking"
    forbidden = list(figures)[6:]
    assert {name: figures[name] for name in forbidden} == dict.fromkeys(forbidden, 0)
