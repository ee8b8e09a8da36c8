"""The README's examples work, and the lists of promises and errors are complete."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from forked import Forked

from tgmembership_async import errors
from tgmembership_async.testing import FakeService, serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_quick_start_runs_twice_and_grants_its_payment_once(tmp_path: Path) -> None:
    path = tmp_path / "quick_start.py"
    path.write_text(FENCES[0], encoding="utf-8")
    service = FakeService()
    with serve(service) as server:
        for _ in range(2):
            command = [sys.executable, str(path)]
            environment = {**os.environ, **server.env(), "PYTHONPATH": str(ROOT)}
            with Forked(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as program:
                out, err = program.communicate(timeout=60)
            assert program.returncode == 0, err
            assert "granted 1" in out
    assert len(service.audit) == 3, "two by add_member itself, and one for the payment"


def test_each_python_fence_is_python() -> None:
    assert len(FENCES) >= 2, "one bot and one shop, safe to copy"
    for fence in FENCES:
        compile(fence, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_listed_promises_have_their_tests() -> None:
    there = {f"tests/promises/{path.name}" for path in (ROOT / "tests" / "promises").glob("test_*.py")}
    listed = re.findall(r"\(`(tests/promises/[^`]+)`\)", PROMISES)
    assert set(listed) == there
    assert len(listed) == len(there) > 10


def test_each_promise_is_one_sentence() -> None:
    for path in (ROOT / "tests" / "promises").glob("test_*.py"):
        promise = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert promise.endswith("."), path
        assert "\n\n" not in promise, path


def test_the_links_lead_to_files() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_error_tree_names_every_error() -> None:
    names = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)]
    (tree,) = re.findall(r"^```text\n(.*?)^```", ERRORS, re.MULTILINE | re.DOTALL)
    for name in names:
        assert re.search(rf"\b{name}\b", tree), name


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150
