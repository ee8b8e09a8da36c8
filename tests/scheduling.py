"""An xdist scheduler that decides which tests run on the same worker."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

HERE = Path(__file__).parent
IMPORT_AIOGRAM = (
    "tests/ext/test_aiogram",
    "tests/ext/test_recipes.py",
    "tests/testing/test_plugin.py",
    "tests/examples/test_aiogram_bot.py::test_a_missing",
    "tests/examples/test_stripe_shop.py::test_a_missing",
)
LONG = ("tests/promises/", "tests/transport/test_chaos.py")


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Run all parameters of a test on one worker, except those of long tests.

    What shares something that takes seconds to make goes to one worker.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if nodeid.startswith(IMPORT_AIOGRAM):
            return "aiogram"
        if shares(module):
            return module
        return nodeid if module.startswith(LONG) else nodeid.partition("[")[0]


@cache
def shares(module: str) -> bool:
    """Tell whether the tests of a module share fixtures, or results of a function."""
    text = (HERE.parent / module).read_text(encoding="utf-8")
    return 'scope="module"' in text or "\n@cache\n" in text


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Together(config, log)
