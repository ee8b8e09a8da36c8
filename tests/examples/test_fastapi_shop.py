"""`examples/fastapi_shop.py` as a child process: a payment while the service is down, a kill and a restart."""

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from forked import Forked
from no_tls import NO_TLS
from ports import free_port

from tgmembership_async.grants import Grant, GrantStatus, SqliteLedger
from tgmembership_async.testing import FakeService
from tgmembership_async.testing import serve as serve_fake

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_shop.py"
SECRET = "the provider's"
PAYMENT = {"id": "pi_1", "plan_id": 1, "user_id": 42}

Start = Callable[[dict[str, str]], AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def ports() -> tuple[int, int]:
    """Return two free ports, for the shop and for the service."""
    return free_port(), free_port()


@pytest.fixture
def shop(ports: tuple[int, int]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", trust_env=False, verify=NO_TLS, timeout=60) as client:
        yield client


@pytest.fixture
def start(ports: tuple[int, int], tmp_path: Path, shop: httpx.Client) -> Start:
    @contextmanager
    def start(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            **environment,
            "PYTHONPATH": str(EXAMPLE.parents[1]),  # the package beside the example, installed or not
            "PAYMENT_SECRET": SECRET,
            "GRANTS_DB": str(tmp_path / "grants.db"),
            "PORT": str(ports[0]),
        }
        with Forked([sys.executable, EXAMPLE], env=environment) as process:
            try:
                wait_for(lambda: answers(shop))
                yield process
            finally:
                process.kill()

    return start


def wait_for(done: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.03)


def answers(shop: httpx.Client) -> bool:
    try:
        return shop.get("/orders/none").status_code == 404
    except httpx.TransportError:
        return False


def pay(shop: httpx.Client, secret: str = SECRET) -> httpx.Response:
    body = json.dumps(PAYMENT).encode()
    return shop.post("/payments", content=body, headers={"x-signature": signature(body, secret)})


def signature(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def row(folder: Path) -> Grant:
    async def read() -> Grant | None:
        async with SqliteLedger(folder / "grants.db", owner=False) as ledger:
            return await ledger.get("pi_1")

    grant = anyio.run(read)
    assert grant is not None
    return grant


def test_a_payment_survives_kill_and_restart_and_is_granted_once(
    start: Start, shop: httpx.Client, ports: tuple[int, int], tmp_path: Path
) -> None:
    service = FakeService()
    server = serve_fake(service, port=ports[1])
    with server:
        environment = server.env()

    with start(environment) as process:  # and nobody answers for the service
        assert pay(shop, "a stranger's").status_code == 401
        assert pay(shop).json() == {"status": "planned"}
        # All attempts of the call are over, so that the kill meets none of them.
        wait_for(lambda: row(tmp_path).status is GrantStatus.PLANNED and row(tmp_path).attempts == 4)
        assert "on its way" in shop.get("/orders/pi_1").text
        process.kill()
        process.wait()

    with server, start(environment) as process:
        assert pay(shop).status_code == 200  # the provider repeats itself
        wait_for(lambda: "Thank you" in shop.get("/orders/pi_1").text)
        assert [(grant.plan_id, grant.member_id) for grant in service.audit] == [(1, 42)]
        assert service.tokens[0].link in shop.get("/orders/pi_1").text
        assert row(tmp_path).status is GrantStatus.DELIVERED
        body = b'{"id": "pi_2"}'
        assert shop.post("/payments", content=body, headers={"x-signature": signature(body, SECRET)}).status_code == 422
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    assert len(service.audit) == 1
