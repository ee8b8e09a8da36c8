"""The pytest plugin in throwaway projects: pytest-asyncio in both modes, anyio, and the example of the docs."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from forked import Forked
from pages import fences

import tgmembership_async

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs"
ROOT = Path(tgmembership_async.__file__).parents[1]
PLUGIN = "tgmembership_async.testing.plugin"
TUTORIAL = Path("tutorial").with_suffix(".md")  # without its bot it runs with the other pages
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)

EVERYBODY = """
import httpx
import pytest

from tgmembership_async import Session
from tgmembership_async.webhooks import Receiver, Verifier


def test_without_an_event_loop(tgm_service, tgm_server):
    assert httpx.get(f"{tgm_server.url}/nowhere").status_code == 404
    assert tgm_server.service is tgm_service


@pytest.fixture
async def granted(tgm_session, tgm_service):
    async with tgm_session as tg:
        yield await tg.add_member(1, 42)


@mark
async def test_in_a_fixture(granted, tgm_service):
    assert granted.token == tgm_service.tokens[0].value


@mark
async def test_over_http(tgm_server, tgm_service, monkeypatch):
    for name, value in tgm_server.env().items():
        monkeypatch.setenv(name, value)
    async with Session.from_env(proxy=None) as tg:
        assert len(await tg.get_plans()) == len(tgm_service.plans)


@mark
async def test_webhooks(tgm_webhooks):
    receiver = Receiver(Verifier(tgm_webhooks.secret))
    assert await tgm_webhooks.post(receiver) == 200
    assert await tgm_webhooks.post(Receiver(Verifier("another-secret"))) == 401
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give a project in a folder of its own, whose tests find this package installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the others of this machine take seconds to load
    plugins = ("no:cacheprovider", "pytest_asyncio.plugin", "anyio.pytest_plugin", PLUGIN)
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p {plugin}" for plugin in plugins))
    return pytester


@pytest.mark.parametrize(
    ("mode", "mark", "fixture"),
    [
        ("auto", "", "@pytest.fixture"),
        ("strict", "@pytest.mark.asyncio", "@__import__('pytest_asyncio').fixture"),
        ("strict", "@pytest.mark.anyio", "@pytest.fixture"),
    ],
    ids=["asyncio, auto", "asyncio, strict", "anyio"],
)
def test_its_fixtures_serve_every_way_of_running_async_tests(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mode: str, mark: str, fixture: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)
    project.makeini(f"[pytest]\nasyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n")
    project.makepyfile(EVERYBODY.replace("@mark", mark).replace("@pytest.fixture", fixture))

    done = project.run(sys.executable, "-m", "pytest", "-q", "-W", "error")

    backends = 2 if "anyio" in mark else 1
    done.assert_outcomes(passed=1 + 3 * backends)


def test_the_worked_examples_of_the_docs_hold(project: pytest.Pytester) -> None:
    bot, *tests = FENCE.findall((DOCS / "testing.md").read_text())
    project.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    project.makepyfile(bot=bot, **{f"test_{number}": code for number, code in enumerate(tests)})
    project.makepyfile(**{fence.file[:-3]: fence.code for fence in fences(DOCS / TUTORIAL) if fence.file})

    import_module("aiogram")  # it takes five seconds: so that it stays, for this test and others
    done = project.runpytest_inprocess("-q", "-W", "error")

    done.assert_outcomes(passed=5)


def test_the_tutorial_puts_its_reader_where_a_test_finds_the_program_beside_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = project.mkdir("clone")
    shutil.copy(DOCS.parent / "pyproject.toml", clone)  # whose settings of pytest are ours
    install, *_, test = (fence for fence in fences(DOCS / TUTORIAL) if fence.language == "bash")
    stubs = 'python3() { mkdir -p "$3/bin" && touch "$3/bin/activate"; }; pip() { :; }; set -e'
    script = ["bash", "-c", f"{stubs}\n{install.code}\npwd"]
    told = subprocess.run(script, cwd=clone, capture_output=True, text=True, check=True)
    monkeypatch.chdir(told.stdout.strip())
    Path("first_bot.py").write_text("", encoding="utf-8")
    Path("test_first_bot.py").write_text("def test_of_a_reader(): import first_bot\n", encoding="utf-8")

    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")  # readers have no plugin for asyncio
    done = project.runpytest_inprocess(*test.code.split()[1:])

    done.assert_outcomes(passed=1)


def test_it_is_found_where_the_package_is_installed() -> None:
    ours = [found for found in entry_points(group="pytest11") if found.value == PLUGIN]

    assert [found.name for found in ours[:1]] == ["tgmembership_async"]


def test_a_project_that_does_not_use_it_pays_for_nothing() -> None:
    told = "print(*{name.split('.')[0] for name in {*sys.modules} - before})"
    code = f"import sys, pytest; before = {{*sys.modules}}; import {PLUGIN}; {told}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert set(done.stdout.split()) - sys.stdlib_module_names == {"tgmembership_async"}
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {PLUGIN}; print(*(name for name in sys.modules if 'tgmemb' in name))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {"", ".errors", ".extras", ".lazy", ".version", ".testing", ".testing.plugin"}
    assert set(loaded.stdout.split()) == {f"tgmembership_async{name}" for name in ours}


def test_it_loads_where_a_library_is_broken() -> None:
    """A foreign project, in whose environment what we depend on is missing or breaks when it is imported."""
    broken = ("attrs", "attr", "cattrs", "anyio", "httpx", "httpcore", "h11", "starlette", "uvicorn", "sqlite3")
    code = f"import sys; sys.modules.update(dict.fromkeys({broken!r})); import {PLUGIN}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
