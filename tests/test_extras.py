"""An integration whose extra is not installed says how to install it."""

import subprocess
import sys

import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.ext.fastapi import desk_router
from tgmembership_async.grants import MemoryLedger


@pytest.mark.parametrize(
    ("extra", "library"),
    [("otel", "opentelemetry"), *((name, name) for name in ("aiogram", "fastapi", "procrastinate"))],
)
def test_a_framework_without_its_extra_is_an_import_error_that_names_it(extra: str, library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import tgmembership_async.ext.{extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: tgmembership_async.ext.{extra} needs an extra: "
        f"run pip install '.[{extra}]' in the clone of the package"
    )


def test_the_desk_of_an_application_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tgmembership_async.desk", None)
    with pytest.raises(UsageError, match=r"desk_router needs an extra: run pip install '\.\[desk\]' in the clone"):
        desk_router(MemoryLedger(), allow=lambda: True)
