"""Lazy names are there for people, tools and type checkers alike, whether or not the extras are installed."""

import ast
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tgmembership_async

PACKAGE = Path(tgmembership_async.__file__).parent
LAZY = [
    ".".join(("tgmembership_async", *path.parent.relative_to(PACKAGE).parts))
    for path in sorted(PACKAGE.rglob("__init__.py"))
    if "lazy_attributes(" in path.read_text(encoding="utf-8")
]
NEEDING_EXTRAS = {"AiohttpTransport", "FakeServer", "PostgresGate", "PostgresInbox", "PostgresLedger"}
WITHOUT_EXTRAS = """
import importlib, inspect, json, sys
sys.modules.update(dict.fromkeys(["aiohttp", "psycopg", "starlette", "uvicorn"]))
listed = {}
for name in sys.argv[1:]:
    package, starred = importlib.import_module(name), {}
    exec(f"from {name} import *", starred)
    given = {*starred} - {"__builtins__"}
    assert given == {*package.__all__} <= {*dir(package)}
    shown = dict(inspect.getmembers(package))
    assert {*package.__all__} <= shown.keys()
    listed[name] = sorted({*dir(package)} | given | shown.keys())
print(json.dumps(listed))
"""

each_package = pytest.mark.parametrize("package", LAZY)


def told_to_checkers(package: str) -> dict[str, str]:
    """Return what a package imports for type checkers only: the home of each name."""
    tree = ast.parse(Path(str(import_module(package).__file__)).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in found for alias in node.names}


def test_the_packages_with_lazy_names_are_those_that_are_public() -> None:
    public = ["", ".grants", ".testing", ".transport", ".webhooks"]
    assert [f"tgmembership_async{name}" for name in public] == LAZY


@each_package
def test_a_lazy_name_is_what_type_checkers_are_told(package: str) -> None:
    module = import_module(package)
    told = told_to_checkers(package)

    assert {name: getattr(module, name) for name in told} == {
        name: getattr(import_module(home), name) for name, home in told.items()
    }
    assert told.keys() <= {*dir(module)} & {*module.__all__}


@each_package
def test_everything_that_is_listed_is_there(package: str) -> None:
    module = import_module(package)

    assert {*module.__all__} <= dict(inspect.getmembers(module)).keys()
    with pytest.raises(AttributeError, match="has no attribute 'Sesion'"):
        module.Sesion  # noqa: B018 - looking it up is the test


def test_what_needs_a_missing_extra_is_not_listed() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS, *LAZY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    listed: dict[str, list[str]] = json.loads(done.stdout)
    assert [*listed] == LAZY
    assert [name for names in listed.values() for name in names if name in NEEDING_EXTRAS] == []
