"""Imports run one way only, without a circle, and importing the package is cheap."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tgmembership_async

PACKAGE = Path(tgmembership_async.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# The floors of a folder: each part of it may import itself and what stands before it. What shares a line does not know
# its neighbours. In the folders that are not listed any order will do, as long as there is no circle.
ORDER = {
    "": [
        ["version", "lifecycle", "event_loop", "descriptors", "extras", "renamed"],
        ["user_calls"],
        ["errors"],
        ["lazy"],
        ["values"],
        ["protocol"],
        ["transport"],
        ["large_replies"],
        ["middleware"],
        ["admission"],
        ["calls"],
        ["settings", "options"],
        ["client"],
        ["session", "project"],
        ["storage"],
        ["grants", "webhooks"],
        ["access"],
        ["fulfillment"],
        ["payments"],
        ["testing", "desk"],
        ["ext"],
        ["cli"],
    ],
    "grants": [
        ["model", "job"],
        ["ledger", "transitions", "importing"],
        ["follow_ups"],
        ["paging", "unrecorded"],
        ["bot_ledger"],
        ["database_ledger", "claiming", "payment_requests"],
        ["copying"],
        ["exchange"],
        ["recording"],
        ["memory", "sqlite", "postgres", "provisioning", "reconciling"],
        ["granter"],
    ],
    "grants.importing": [["headers", "cells", "repeats", "workbook"], ["sources"], ["members"]],
    "storage": [["binding", "component", "database", "text", "until_stored", "wakeups"], ["sqlite", "postgres"]],
    "desk": [["guard"], ["app"]],
    "payments": [["model"], ["adapter", "recording"], ["receiver", "stripe", "telegram"]],
    "testing": [["rules", "loopback"], ["fake"], ["chaos", "conformance"], ["plugin"]],
    "webhooks": [
        ["headers", "policy", "refusals", "replay", "secret_file"],
        ["signature", "answers"],
        ["events", "encodings", "inbox", "project_signature"],
        ["handlers", "inboxes", "joining", "asgi", "aiohttp"],
        ["worker"],
        ["intake"],
        ["receiver"],
    ],
    "webhooks.inboxes": [["database"], ["sqlite", "postgres"]],
}
HTTPX = ["httpx.py", "httpx_client.py", "httpx_exchange.py"]
PURE = ["errors", "extras", "renamed", "values", "protocol"]
IO = {"anyio", "trio", "asyncio", "httpx", "httpcore", "h11", "aiohttp", "socket", "ssl", "sqlite3", "time", "random"}
NOT_LOADED = {"httpx", "httpcore", "aiohttp", "sqlite3", "starlette", "uvicorn", "click", "rich", "trio", "aiogram"}
NOT_LOADED |= {"fastapi", "jinja2", "procrastinate", "psycopg", "opentelemetry", "pytest", "hypothesis", "stripe"}


def name_of(module: Path) -> str:
    """Return the dotted name of a module below the package; a folder's `__init__.py` has the folder's name."""
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


NAMES = {name_of(path): path for path in (PACKAGE / "__init__.py", *MODULES)}
FOLDERS = [name for name, path in NAMES.items() if path.name == "__init__.py"]


@cache
def imports(module: Path) -> list[str]:
    """Name what a module imports, at any depth of its code."""
    names: list[str] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@cache
def ours(module: Path) -> set[str]:
    """Name the modules of the package that a module imports, by their dotted names below the package."""
    names = [name.partition(".")[2] for name in imports(module) if name.startswith("tgmembership_async")]
    return {name if name in NAMES else name.rpartition(".")[0] for name in names}


def part_of(name: str, folder: str = "") -> str:
    """Return the part of a folder that a module belongs to: a file or a subfolder; "" where it is not inside."""
    inside = name if not folder else name.removeprefix(f"{folder}.") if name.startswith(f"{folder}.") else ""
    return inside.partition(".")[0]


def parts_of(folder: str) -> dict[str, set[str]]:
    """Return each part of a folder, with the other parts of that folder that it imports."""
    parts: dict[str, set[str]] = {}
    for name, module in NAMES.items():
        if part := part_of(name, folder):
            parts.setdefault(part, set()).update({part_of(other, folder) for other in ours(module)} - {part, ""})
    return parts


@pytest.mark.parametrize("folder", ORDER)
def test_a_part_imports_only_what_stands_before_it(folder: str) -> None:
    ranks = {part: rank for rank, parts in enumerate(ORDER[folder]) for part in parts}
    found = parts_of(folder)

    assert found.keys() - ranks.keys() == set(), "these have no place in ORDER"
    assert [(part, other) for part, others in found.items() for other in others if ranks[other] >= ranks[part]] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder or "the package")
def test_the_parts_of_a_folder_import_each_other_in_no_circle(folder: str) -> None:
    TopologicalSorter(parts_of(folder)).prepare()


def test_modules_import_each_other_in_no_circle() -> None:
    TopologicalSorter({name: ours(module) for name, module in NAMES.items()}).prepare()


def test_nobody_imports_the_package_as_a_whole() -> None:
    assert [module for module in MODULES if "" in ours(module)] == []


@pytest.mark.parametrize("part", PURE)
def test_what_is_pure_imports_no_io(part: str) -> None:
    tops = {name.split(".")[0] for module in MODULES if part_of(name_of(module)) == part for name in imports(module)}

    assert tops & IO == set()


@pytest.mark.parametrize(
    ("library", "modules"),
    [("httpx", HTTPX), ("httpcore", ["httpcore.py", *HTTPX]), ("h11", ["httpcore.py"])],
)
def test_httpx_and_what_is_below_it_are_named_in_few_places(library: str, modules: list[str]) -> None:
    naming = [module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))]

    assert naming == [PACKAGE / "transport" / module for module in modules]


def test_importing_the_package_loads_no_transport_no_database_and_no_framework() -> None:
    code = "import sys; before = {*sys.modules}; import tgmembership_async; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert {name.split(".")[0] for name in done.stdout.split()} & NOT_LOADED == set()
