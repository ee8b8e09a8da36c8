"""Fixtures and settings of all tests: two backends, servers on real sockets, Hypothesis, and the canary plugin."""

import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import anyio
import pytest
import trustme
from canary_watch import (
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_warning_recorded,
)
from forked import CAN_FORK, FORKS, Forks
from hypothesis import settings
from scheduling import pytest_xdist_make_scheduler
from scripted_server import ScriptedServer

from tgmembership_async.values.learned_secrets import REDACT

# Imported so that pytest finds them.
__all__ = [
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_warning_recorded",
    "pytest_xdist_make_scheduler",
]

# Where bytecode is not written, each worker rewrites all tests anew, and each of their commands compiles whatever it
# imports: that was half of all CPU time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell ignores it for background jobs, and processes started by tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup has it ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

EXAMPLES = int(os.environ.get("TGM_EXAMPLES", "25"))  # `nox -s soak` asks for many more
settings.register_profile("local", deadline=None, max_examples=EXAMPLES)
settings.register_profile("ci", deadline=None, max_examples=EXAMPLES, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork servers, for all workers."""
    if CAN_FORK and not hasattr(config, "workerinput"):
        for name, modules in FORKS.items():
            forks = Forks(*modules)
            config.add_cleanup(forks.close)
            os.environ[name] = forks.address


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep only warnings for reports and `caplog`.

    The ini option `log_level` does that too, and sets a level of the root logger in each phase of a test: that took a
    twentieth of all CPU time.
    """
    captured: Any = session.config.pluginmanager.get_plugin("logging-plugin")
    for handler in (captured.caplog_handler, captured.report_handler):
        handler.setLevel(logging.WARNING)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare garbage collection the modules and the tests, which stay: traversing them took a tenth of all CPU time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Forget the clients of a test, so that no later log record is searched for the secrets of each.

    They live on until garbage collection, often by the hundred.
    """
    before = set(REDACT.scrubbers)
    result = yield
    REDACT.scrubbers.intersection_update(before)
    return result


BACKENDS = ["asyncio", "trio"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run each test on one backend: on 3.11 and 3.13 on the one, on 3.12 and 3.14 on the other.

    So `nox -s tests` runs each on both, if two of these that follow each other are installed. `TGM_BACKENDS=both` runs
    it on both at once.
    """
    if os.environ.get("TGM_BACKENDS") != "both":
        chosen = [item for item in items if _is_its_turn(item)]
        config.hook.pytest_deselected(items=[*{*items} - {*chosen}])
        items[:] = chosen


def _is_its_turn(item: pytest.Item) -> bool:
    test, _, parameters = item.nodeid.partition("[")
    named = [backend for backend in BACKENDS if backend in parameters.rstrip("]").split("-")]
    return not named or named == [BACKENDS[(crc32(test.encode()) + sys.version_info.minor) % 2]]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Return each backend in turn."""
    return str(request.param)


@pytest.fixture(params=[("httpx", "asyncio"), ("httpx", "trio"), ("aiohttp", "asyncio")], ids="-".join)
def crossing(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return each transport with each of its backends, for folders whose `backend` is that of `crossing`."""
    library, backend = request.param
    return library, backend


@pytest.fixture
def library(crossing: tuple[str, str]) -> str:
    """Return the name of the transport."""
    return crossing[0]


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.soak)])
def half(request: pytest.FixtureRequest) -> int:
    """Return which half of the cases to test; the long variant tests the other half."""
    return int(request.param)


@pytest.fixture(params=[0, *(pytest.param(long, marks=pytest.mark.soak) for long in (1, 2))])
def third(request: pytest.FixtureRequest) -> int:
    """Return which third of the cases to test; the long variant tests the other two."""
    return int(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Return a function that starts scripted servers, which are stopped at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda script, tls=None: stack.enter_context(ScriptedServer(script, tls))


@pytest.fixture
def refused_port() -> Iterator[int]:
    """Yield a reserved port that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without other CAs, which take 20 ms to load
    authority.configure_trust(context)
    return context


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Return a function that runs a scenario on asyncio or trio, with a timeout."""

    def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(120):
                await scenario()

        anyio.run(bounded, backend=backend)

    return run


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """Yield a temporary folder, in memory if possible: a thousand commits then do not wait for a disk."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        yield Path(folder)
