"""Which tests stay together when workers share them out."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

HERE = Path(__file__).parent
IMPORT_AIOGRAM = ("tests/ext/test_aiogram.py", "tests/ext/test_recipes.py", "tests/testing/test_plugin.py")


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Give each test to whoever is free, but to one and the same those that share what takes seconds to make."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module in IMPORT_AIOGRAM:
            return "aiogram"
        return module if shares(module) else nodeid


@cache
def shares(module: str) -> bool:
    """Tell whether a module has fixtures that are made once for all of its tests."""
    return 'scope="module"' in (HERE.parent / module).read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Together(config, log)
