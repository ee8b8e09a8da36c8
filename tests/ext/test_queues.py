"""Every Python fence of the page on other job queues runs, on the real engine where it is installed."""

import asyncio
import os
import re
import secrets
import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from pages import ROOT, executed, fences

from tgmembership_async import Session
from tgmembership_async.grants import Granter, MemoryLedger
from tgmembership_async.testing import FakeService, FakeTransport, Fault

PAGE = "queues.md"
WISH = {"ref": "pi_1", "plan_id": 1, "member_id": 42}
REDIS = os.environ.get("TGM_REDIS", "redis://127.0.0.1:6379")


@pytest.fixture
def service() -> FakeService:
    return FakeService(api_key=CANARY_KEY)


@pytest.fixture
def make_granter(service: FakeService) -> Callable[[], Granter]:
    def make() -> Granter:
        return Granter(Session(**service.session_options(), transport=FakeTransport(service)), MemoryLedger())

    return make


def test_no_engine_is_forgotten_and_each_fence_is_python() -> None:
    path = ROOT / "docs" / PAGE
    assert re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE) == ["taskiq", "SAQ", "Celery", "Temporal"]
    for fence in fences(path):
        compile(fence.code, PAGE, "exec")


async def test_taskiq(service: FakeService, make_granter: Callable[[], Granter]) -> None:
    broker = pytest.importorskip("taskiq").InMemoryBroker()
    granter = make_granter()
    grant_member = executed(PAGE, "taskiq")["add_grants"](broker, granter)
    await broker.startup()
    for _ in range(2):
        task = await grant_member.kiq(**WISH)
        assert (await task.wait_result()).return_value == "granted"
    service.inject(Fault("reset", method="addMember", when="after", count=1))
    for _ in range(2):
        task = await grant_member.kiq(**{**WISH, "ref": "pi_2"})
        assert "GrantHeld" in repr((await task.wait_result()).error)
    await broker.shutdown()
    assert not granter.is_open
    assert len(service.audit) == 2


@pytest.mark.filterwarnings(
    "ignore:Call to deprecated:DeprecationWarning",  # of redis-py, by SAQ
    "ignore:'asyncio.iscoroutinefunction':DeprecationWarning:saq",  # from Python 3.14 on
)
async def test_saq(service: FakeService, make_granter: Callable[[], Granter]) -> None:
    saq = pytest.importorskip("saq")
    _need_redis()
    queue = saq.Queue.from_url(REDIS, name=f"test-{secrets.token_hex(4)}")
    recipe, granter = executed(PAGE, "SAQ"), make_granter()
    worker = recipe["make_worker"](queue, granter, dequeue_timeout=0.1)
    working = asyncio.create_task(worker.start())
    try:
        for _ in range(2):
            with anyio.fail_after(30):
                status = None
                # SAQ's own sweep may abort a job in the very moment in which it is handed out: then, as the page says.
                while status != "complete":
                    if status in (None, "aborted"):
                        await recipe["enqueue"](queue, *WISH.values())
                    await asyncio.sleep(0.05)
                    job = await queue.job("pi_1")
                    status = job.status
            assert job.result == "granted"
    finally:
        await worker.stop()
        await working
        await queue.redis.delete(*[key async for key in queue.redis.scan_iter(f"saq:*{queue.name}*")] or ["none"])
        await queue.disconnect()
    assert not granter.is_open
    assert len(service.audit) == 1


def _need_redis() -> None:
    host, _, port = REDIS.removeprefix("redis://").partition(":")
    try:
        socket.create_connection((host, int(port or 6379)), 2).close()
    except OSError as error:
        why = f"no Redis at {REDIS}: {error}"
        if os.environ.get("TGM_REQUIRE_SERVICES") == "1":
            pytest.fail(why)
        pytest.skip(why)


def test_celery(service: FakeService, make_granter: Callable[[], Granter]) -> None:
    celery: Any = pytest.importorskip("celery")
    signals, workers = pytest.importorskip("celery.signals"), pytest.importorskip("celery.contrib.testing.worker")
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    app.conf.broker_transport_options = {"polling_interval": 0.01}
    opened: list[Granter] = []

    def make() -> Granter:
        opened.append(make_granter())
        return opened[-1]

    grant_member = executed(PAGE, "Celery")["add_grants"](app, make)
    with workers.start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        for _ in range(2):
            assert grant_member.delay(*WISH.values()).get(timeout=30) == "granted"
    signals.worker_process_shutdown.send(sender=None)  # a pool of one process, which is this one, does not
    assert [granter.is_open for granter in opened] == [False]
    assert len(service.audit) == 1
    assert grant_member.max_retries == 0


async def test_temporal(service: FakeService, make_granter: Callable[[], Granter]) -> None:
    testing = pytest.importorskip("temporalio.testing")
    exceptions = pytest.importorskip("temporalio.exceptions")
    names = executed(PAGE, "Temporal")
    async with make_granter() as granter:
        grants, environment = names["Grants"](granter), testing.ActivityEnvironment()
        for _ in range(2):
            assert await environment.run(grants.grant_member, *WISH.values()) == "granted"
        with pytest.raises(exceptions.ApplicationError) as caught:
            await environment.run(grants.grant_member, "pi_1", 2, 42)
    assert (caught.value.type, caught.value.non_retryable) == ("RefConflict", True)
    assert len(service.audit) == 1
