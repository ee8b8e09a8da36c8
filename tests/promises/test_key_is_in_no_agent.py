"""APM agents that patch httpx and httpcore do not see the API key, and do not break calls."""

import json
import sys
from collections.abc import Callable
from subprocess import PIPE
from typing import Any

import pytest
from canary import CANARY_KEY
from forked import Forked
from scripted_server import ScriptedServer

PATH = f"/bot8047883872/{CANARY_KEY}/"
# An agent cannot be unloaded, so each runs in its own process.
CALLS = """
import anyio, httpx, json, sys
from contextlib import nullcontext
from tgmembership_async import HttpxTransport, Session

async def calls(url, key):
    async with httpx.AsyncClient(trust_env=False) as client:
        for transport in ("httpx", HttpxTransport(client=client)):
            async with Session(8047883872, key, base_url=url, transport=transport, proxy=None) as tg:
                for _ in range(2):
                    await tg.get_plans()
                await tg.add_member(1, 42)
                try:
                    await tg.call("broken")
                except Exception as error:
                    seen.append(repr(error))

seen = []
url, backend, key = sys.argv[1], sys.argv[2], sys.stdin.read()
"""
ELASTIC = """
import elasticapm

class Client(elasticapm.Client):
    def queue(self, event_type, data, flush=False):
        seen.append(repr((event_type, data)))

client = Client(
    service_name="shop", disable_send=True, metrics_interval="0s", central_config=False, cloud_provider="none"
)
elasticapm.instrument()
client.begin_transaction("shop")
anyio.run(calls, url, key, backend=backend)
client.end_transaction("shop")
client.close()
"""
SENTRY = """
import warnings
warnings.simplefilter("ignore")  # of its own deprecated settings
import sentry_sdk
from sentry_sdk.integrations.httpx import HttpxIntegration

class Kept(sentry_sdk.Transport):
    def capture_envelope(self, envelope):
        seen.extend(repr(item.payload.get_bytes()) for item in envelope.items)

sentry_sdk.init(
    "http://key@localhost/1", transport=Kept(), traces_sample_rate=1.0, integrations=[HttpxIntegration()],
    auto_enabling_integrations=False, max_request_body_size="always", send_default_pii=True,
)
with sentry_sdk.start_transaction(name="shop"):
    anyio.run(calls, url, key, backend=backend)
    try:
        Session(8047883872, key, deadline=-1)
    except ValueError as error:
        sentry_sdk.capture_exception(error)
sentry_sdk.flush()
"""
SHOWN = "\nprint(json.dumps(seen))\n"


def seen_by(agent: str, url: str, backend: str) -> list[str]:
    """Return everything that an agent recorded of some calls, as text."""
    command = [sys.executable, "-c", CALLS + agent + SHOWN, url, backend]
    with Forked(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        output, errors = process.communicate(CANARY_KEY, timeout=100)
    assert process.returncode == 0, errors.replace(CANARY_KEY, "***")
    assert CANARY_KEY not in errors
    found: list[str] = json.loads(output)
    return found


def script(connection: Any) -> None:
    while request := connection.request():
        if b"/broken" in request:
            connection.answer(500, PATH.encode())
        else:
            connection.answer()


@pytest.mark.parametrize(
    ("module", "agent"), [("elasticapm", ELASTIC), ("sentry_sdk", SENTRY)], ids=["elastic", "sentry"]
)
def test_an_agent_sees_the_masked_path_and_breaks_no_call(
    module: str, agent: str, backend: str, serve: Callable[..., ScriptedServer]
) -> None:
    pytest.importorskip(module)
    server = serve(script)
    seen = seen_by(agent, server.url, backend)
    assert sum(request.startswith(f"GET {PATH}getPlans HTTP/1.1\r\n".encode()) for request in server.requests) == 4
    assert sum(request.startswith(f"POST {PATH}addMember HTTP/1.1\r\n".encode()) for request in server.requests) == 2
    assert any("/bot8047883872/-/getPlans" in text for text in seen), "the agent did look"
    for text in seen:
        assert CANARY_KEY not in text
    if module == "elasticapm":
        assert all(b"\r\ntraceparent: " in request.lower() for request in server.requests), "it traces on"
