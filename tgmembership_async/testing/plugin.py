"""The pytest plugin: fixtures with a fake service, its HTTP server, a Session and a webhook sender.

The fixtures need no event loop, so that they work with pytest-asyncio in both modes and with anyio. Your test or your
program enters the Session. All fixtures of one test share one service; each test has a new one.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgmembership_async.session import Session
    from tgmembership_async.testing.fake.sender import WebhookSender
    from tgmembership_async.testing.fake.server import FakeServer
    from tgmembership_async.testing.fake.service import FakeService

# ruff: noqa: PLC0415 - pytest imports this at every start, even if no test uses a fixture


@pytest.fixture
def tgm_service() -> "FakeService":
    """Return a fake service. `inject` adds faults, and `audit` lists the grants."""
    from tgmembership_async.testing.fake.service import FakeService

    return FakeService()


@pytest.fixture
def tgm_server(tgm_service: "FakeService") -> "Iterator[FakeServer]":
    """Serve `tgm_service` over HTTP on loopback: `.url`, and `.env()` for `Session.from_env()` in another process."""
    from tgmembership_async.testing import serve

    with serve(tgm_service) as server:
        yield server


@pytest.fixture
def tgm_session(tgm_service: "FakeService") -> "Session":
    """Return a Session that calls `tgm_service` in process, and is not entered yet."""
    from tgmembership_async.session import Session
    from tgmembership_async.testing.fake.transport import FakeTransport

    return Session(**tgm_service.session_options(), transport=FakeTransport(tgm_service))


@pytest.fixture
def tgm_webhooks() -> "WebhookSender":
    """Return a sender of webhook events: `await tgm_webhooks.post(receiver, "order_completed", user_id="42")`.

    Pass `tgm_webhooks.secret` to your Verifier. `signed()` returns headers and body for your own HTTP client.
    """
    from tgmembership_async.testing.fake.sender import WebhookSender

    return WebhookSender()
