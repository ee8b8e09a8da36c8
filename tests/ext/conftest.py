"""What the frameworks work with: a service in this process, a Session on it and a Granter; none of them entered."""

import pytest

from tgmembership_async import Session
from tgmembership_async.grants import Granter, MemoryLedger
from tgmembership_async.testing import FakeService, FakeTransport


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def session(service: FakeService) -> Session:
    return Session(**service.session_options(), transport=FakeTransport(service))


@pytest.fixture
def granter(session: Session) -> Granter:
    return Granter(session, MemoryLedger())
