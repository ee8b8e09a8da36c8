"""The test kit loads no more than it needs, and says what is missing."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_only_serving_loads_the_extra() -> None:
    shown = python(
        "import sys, tgmembership_async.testing as kit;"
        "print([name for name in ('starlette', 'uvicorn', 'httpx') if name in sys.modules]);"
        "kit.serve(kit.FakeService());"
        "print([name for name in ('starlette', 'uvicorn') if name in sys.modules])"
    )
    assert shown.splitlines() == ["[]", "['starlette', 'uvicorn']"]


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_a_missing_extra_is_named(missing: str) -> None:
    shown = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from tgmembership_async.testing import FakeService, serve\n"
        "try: serve(FakeService())\n"
        "except ValueError as error: print(error)"
    )
    assert shown == "FakeServer needs an extra: run pip install '.[testing]' in the clone of the package"


def test_any_other_missing_module_is_not_blamed_on_the_extra() -> None:
    shown = python(
        "import sys; sys.modules['h11'] = None\n"
        "from tgmembership_async.testing import FakeService, serve\n"
        "try: serve(FakeService())\n"
        "except ModuleNotFoundError as error: print(error.name)"
    )
    assert shown == "h11"
