"""Imports run one way only, and importing the package is cheap."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tgmembership_async

PACKAGE = Path(tgmembership_async.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# Each part may import itself and what stands before it. What shares a line does not know its neighbours.
ORDER = [
    ["version", "lived", "loops"],
    ["errors"],
    ["values"],
    ["protocol"],
    ["transport"],
    ["middleware"],
    ["calls"],
    ["settings"],
    ["session"],
    ["storage"],
    ["grants", "webhooks"],
    ["testing"],
    ["ext"],
    ["cli"],
]
RANKS = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
PURE = ["errors", "values", "protocol"]
IO = {"anyio", "trio", "asyncio", "httpx", "httpcore", "h11", "aiohttp", "socket", "ssl", "sqlite3", "time", "random"}
NOT_LOADED = {"httpx", "httpcore", "aiohttp", "sqlite3", "starlette", "uvicorn", "click", "rich", "trio", "aiogram"}
NOT_LOADED |= {"fastapi", "procrastinate", "psycopg", "opentelemetry", "pytest", "hypothesis"}

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


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


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


@each_module
def test_a_module_imports_only_what_stands_before_it(module: Path) -> None:
    part = part_of(module)
    parts = {name.split(".")[1] for name in imports(module) if name.startswith("tgmembership_async.")}

    assert {other for other in parts if other != part and RANKS.get(other, 99) >= RANKS[part]} == set()


@pytest.mark.parametrize("part", PURE)
def test_what_is_pure_imports_no_io(part: str) -> None:
    tops = {name.split(".")[0] for module in MODULES if part_of(module) == part for name in imports(module)}

    assert tops & IO == set()


@pytest.mark.parametrize(
    ("library", "modules"),
    [("httpx", ["httpx.py"]), ("httpcore", ["httpcore.py", "httpx.py"]), ("h11", ["httpcore.py"])],
)
def test_httpx_and_what_is_below_it_are_named_in_few_places(library: str, modules: list[str]) -> None:
    naming = [module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))]

    assert naming == [PACKAGE / "transport" / module for module in modules]


def test_importing_the_package_loads_no_transport_no_database_and_no_framework() -> None:
    code = "import sys; before = {*sys.modules}; import tgmembership_async; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert {name.split(".")[0] for name in done.stdout.split()} & NOT_LOADED == set()
