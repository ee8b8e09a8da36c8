"""The pytest plugin: a fake service, and what talks to it, for tests of your own program.

Plain fixtures without an event loop, so that they serve pytest-asyncio in both modes and anyio alike: you enter the
Session in your test, or your program does. All that a test asks for shares one service; the next test has a new one.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgmembership_async.session import Session
    from tgmembership_async.testing.fake.sender import WebhookSender
    from tgmembership_async.testing.fake.server import FakeServer
    from tgmembership_async.testing.fake.service import FakeService

# ruff: noqa: PLC0415 - pytest imports this at every start, also where no test asks for any of it


@pytest.fixture
def tgm_service() -> "FakeService":
    """Give a fake TGmembership: let things go wrong with `inject`, and see in `audit` what it granted."""
    from tgmembership_async.testing.fake.service import FakeService

    return FakeService()


@pytest.fixture
def tgm_server(tgm_service: "FakeService") -> "Iterator[FakeServer]":
    """Serve `tgm_service` over HTTP on loopback, for other processes: `.url`, and `.env()` for `Session.from_env()`."""
    from tgmembership_async.testing import serve

    with serve(tgm_service) as server:
        yield server


@pytest.fixture
def tgm_session(tgm_service: "FakeService") -> "Session":
    """Give a Session that is not entered yet and talks to `tgm_service` in process."""
    from tgmembership_async.session import Session
    from tgmembership_async.testing.fake.transport import FakeTransport

    return Session(**tgm_service.session_options(), transport=FakeTransport(tgm_service))


@pytest.fixture
def tgm_webhooks() -> "WebhookSender":
    """Give webhook events for your handlers: `await tgm_webhooks.post(receiver, "order_completed", user_id="42")`.

    Your Verifier gets `tgm_webhooks.secret`; `signed()` gives headers and body to a client of your own.
    """
    from tgmembership_async.testing.fake.sender import WebhookSender

    return WebhookSender()
