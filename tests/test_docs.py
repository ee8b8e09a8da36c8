"""All code fences of the README and of docs/ run, and print the output shown on the page.

A page is found by being there. It runs from top to bottom in an empty folder, but for a `webhook.secret`, beside a fake
service that the environment names, with `tg`, `granter` and `requests` at hand.

- A `python` fence runs where it stands, with `await` at the top level, and what it defines is called.
- "Save this as `name.py`" before it makes it a file, which runs if the page says what "`python name.py` prints".
- A `bash` fence runs in bash: what serves is started and interrupted, what stands in `BASH_ELSEWHERE` is not run here.
  The commands of this environment are forks, for each would import for half a second: their entry points are tested
  elsewhere.
- A `text` fence right behind another fence, or behind "prints:", is its output. Behind a paragraph that begins with a
  file's name in backticks it is that file; anywhere else it is a drawing.

A page that needs more, real frameworks say, is run by the module that names it, in the languages that this one names.
"""

import asyncio
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Fence, Reader, fences

from tgmembership_async import Session
from tgmembership_async.grants import Granter, GrantRequest, MemoryLedger
from tgmembership_async.protocol.endpoints import ENDPOINTS
from tgmembership_async.protocol.outcome import Outcome
from tgmembership_async.protocol.retry import MAY_RETRY
from tgmembership_async.protocol.wire import Safety
from tgmembership_async.testing import FakeService, serve

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "api")]
BOTS_AND_SHOPS = (DOCS / "bots_and_shops.md").read_text(encoding="utf-8")  # the README shows some of it
OTHER_TESTS = [
    path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py") if path.name != Path(__file__).name
]
BASH_ELSEWHERE = {
    "pytest -q": "tests/testing/test_plugin.py",
    "python3 -m venv": ".ci/run",
    "tgmembership desk": "tests/cli/desk/test_command.py",
    "tgmembership bots add": "tests/cli/bots/test_bots.py",
    "tgmembership demo": "tests/cli/demo/test_command.py",
    "tgmembership webhook set": "tests/cli/webhook/test_command.py",
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def elsewhere(fence: Fence) -> bool:
    if fence.language == "bash" and fence.code.startswith(tuple(BASH_ELSEWHERE)):
        return True
    named = f'"{fence.page.name}"'
    tests = OTHER_TESTS if fence.page.parent == DOCS else []
    shown_there = fence.code in BOTS_AND_SHOPS and fence.file is None
    return shown_there or any(named in text and fence.language in text.lower() for text in tests)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Yield a Reader in an empty folder, with a fake service in its environment."""
    service = FakeService()
    service.populate()
    ours = logging.getLogger("tgmembership_async"), logging.getLogger("httpx")
    levels = [logger.level for logger in ours]
    with serve(service) as server, asyncio.Runner() as runner:
        for name, value in {**server.env(), "no_proxy": "*"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        Path("webhook.secret").write_text("s" * 40, encoding="utf-8")
        tg = Session.from_env()
        granter = runner.run(Granter(tg, MemoryLedger()).open())
        requests = [GrantRequest(f"row-{number}", 1, 4200 + number) for number in range(3)]
        yield Reader({"__name__": "page", "tg": tg, "granter": granter, "requests": requests}, runner)
        runner.run(granter.aclose())
    for logger, level in zip(ours, levels, strict=True):
        logger.setLevel(level)


@each_page
def test_its_fences_run_and_print_what_it_says(page: Path, reader: Reader) -> None:
    for fence in fences(page):
        if not elsewhere(fence):
            reader.read(fence)

    if page.name != "README.md":  # whose handlers are those of the pages it links to
        assert reader.shown - reader.called == set(), "shown and never called: here, or in a test that names this page"


def test_what_runs_elsewhere_runs_there() -> None:
    for started, place in BASH_ELSEWHERE.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        assert Path(started.removeprefix("tgmembership ").split()[0]).stem in text, place
    pages = {
        fence.page.name for page in PAGES for fence in fences(page) if fence.language == "python" and elsewhere(fence)
    }
    assert {"bots_and_shops.md", "recipes.md", "testing.md", "webhooks.md"} <= pages
    assert not pages & {"bulk_import.md", "observability.md", "proxies.md", "tutorial.md", "unknown.md"}
    assert [fence for fence in fences(ROOT / "README.md") if not elsewhere(fence)], "the quick start runs here"


def test_the_readme_shows_what_the_pages_show() -> None:
    handlers = [
        fence.code for fence in fences(ROOT / "README.md") if "aiogram" in fence.code or "FastAPI" in fence.code
    ]
    page = (DOCS / "bots_and_shops.md").read_text(encoding="utf-8")
    assert len(handlers) == 2
    assert all(code in page for code in handlers)


@pytest.mark.parametrize(
    ("name", "line", "pages"),
    [
        ("aiogram_bot.py", "run_polling", ["README.md", "docs/bots_and_shops.md", "docs/tutorial.md"]),
        ("fastapi_first_shop.py", "FastAPI(", ["README.md", "docs/bots_and_shops.md"]),
    ],
)
def test_the_programs_in_ten_lines_are_the_examples(name: str, line: str, pages: list[str]) -> None:
    example = (ROOT / "examples" / name).read_text(encoding="utf-8").partition('"""\n\n')[2]
    for page in pages:
        assert [fence.code for fence in fences(ROOT / page) if line in fence.code] == [example], page


@each_page
def test_the_extras_it_installs_exist(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = re.findall(r"(?:tgmembership-async|'\.)\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    assert {name for names in installed for name in names.split(",")} <= extras.keys()


def test_the_index_for_language_models_names_every_page() -> None:
    index = (DOCS / "llms.txt").read_text(encoding="utf-8")
    named = {*re.findall(r"\]\(([^)]+)\)", index)}
    assert named == {page.relative_to(DOCS).as_posix() for page in PAGES[1:]} - {"index.md"}


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the table under the header row `heading`, by first column."""
    table = (DOCS / page).read_text(encoding="utf-8").split(heading, 1)[1].split("\n\n", 1)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first: rest for first, *rest in cells}


def test_the_table_of_retries_is_the_one_that_the_code_reads() -> None:
    told = rows("explanation/retries.md", "| outcome | safe | idempotent | unsafe |")
    assert told == {
        outcome: ["again" if safety in MAY_RETRY[outcome] else "never" for safety in Safety] for outcome in Outcome
    }


def test_the_methods_are_those_that_the_code_knows() -> None:
    told = rows("reference/service.md", "| method | parameters | result | kind |")
    known = {f"{endpoint.verb} `{endpoint.method}`" for endpoint in ENDPOINTS}
    assert set(told) == known
