"""File descriptors: a limit that is too low is told once, and idle connections are closed when none is left."""

import errno
import logging
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport

from tgmembership_async import Session, descriptors
from tgmembership_async.descriptors import RESERVED, is_short, shortage

EMFILE = OSError(errno.EMFILE, "Too many open files")


def limited(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    class Resource:
        RLIMIT_NOFILE = 7
        RLIM_INFINITY = -1

        @staticmethod
        def getrlimit(_: int) -> tuple[int, int]:
            return limit, 4096

    monkeypatch.setattr(descriptors, "resource", Resource)


@pytest.mark.parametrize(
    ("limit", "short"), [(256, True), (256 + RESERVED - 1, True), (256 + RESERVED, False), (-1, False)]
)
def test_a_limit_is_compared_with_what_the_connections_may_need(
    monkeypatch: pytest.MonkeyPatch, limit: int, *, short: bool
) -> None:
    limited(monkeypatch, limit)
    assert (shortage(256) is not None) is short


def test_a_system_without_limits_is_never_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "resource", None)
    assert shortage(10**6) is None


def test_opening_warns_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, backend: str) -> None:
    limited(monkeypatch, 256)

    async def scenario() -> None:
        async with Session(1, CANARY_KEY, transport=StubTransport(), max_connections=256) as tg:
            for _ in range(3):
                await tg.get_plans()

    anyio.run(scenario, backend=backend)
    [told] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ulimit -n 288" in told.getMessage()


def wrapped(error: BaseException, outer: BaseException, *, caused: bool = True) -> BaseException:
    try:
        try:
            raise error  # noqa: TRY301 - caught here, to be linked
        except BaseException as inner:
            if caused:
                raise outer from inner
            raise outer  # noqa: B904 - the other way to be linked
    except BaseException as found:  # noqa: BLE001 - it is what is asked for
        return found


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (None, False),
        (EMFILE, True),
        (OSError(errno.ENFILE, "x"), True),
        (OSError(errno.ECONNREFUSED, "x"), False),
        (wrapped(EMFILE, LookupError()), True),
        (wrapped(EMFILE, LookupError(), caused=False), True),
        (wrapped(LookupError(), KeyError()), False),
        (wrapped(ExceptionGroup("x", [LookupError(), EMFILE]), OSError("all attempts failed")), True),
    ],
)
def test_an_error_is_recognised_through_what_libraries_wrap_around_it(error: Any, *, short: bool) -> None:
    assert is_short(error) is short
