"""Names of a package that are imported when they are first used, some of them only if an extra is installed.

Type checkers must not see the `__getattr__` made here, for with one every misspelt name is valid. A package imports its
lazy names under `if TYPE_CHECKING:` and calls `lazy_attributes` in the `else` branch.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Final

from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install

_LIBRARIES: Final[Mapping[str, Sequence[str]]] = {
    "aiohttp": ("aiohttp",),
    "postgres": ("psycopg",),
    "testing": ("starlette", "uvicorn"),
}
_ROOT: Final = __name__.rpartition(".")[0]


def load(home: str, name: str, extra: str | None = None) -> object:
    """Return a name of a module below the package; UsageError if the extra that the module needs is missing."""
    try:
        return getattr(import_module(f"{_ROOT}.{home}"), name)
    except ImportError as error:  # psycopg without libpq is an ImportError, and the extra brings libpq
        library = (error.name or "").partition(".")[0]
        if extra is None or (isinstance(error, ModuleNotFoundError) and library not in _LIBRARIES[extra]):
            raise
    msg = f"{name} needs an extra: {install(extra)}"
    raise UsageError(msg)


def lazy_attributes(
    package: str, homes: Mapping[str, Sequence[str]], extras: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package: `homes` are its lazy names by module, `extras` what they need.

    A name whose extra is missing raises UsageError when it is used. So that `import *` and `inspect.getmembers` work
    all the same, neither `__all__` nor `dir()` lists it then. Which extras are missing is looked up when one of these
    is asked for, because listing the folders of libraries takes longer than importing the package.
    """
    names = vars(sys.modules[package])
    exported: list[str] = names.pop("__all__")
    home_of = {name: home for home, found in homes.items() for name in found}
    extra_of = extras or {}

    def __getattr__(name: str) -> object:  # noqa: N807 - it becomes the package's
        if name == "__all__":
            missing = _missing(extra_of)
            return names.setdefault(name, [name for name in exported if name not in missing])
        if name in home_of:
            return names.setdefault(name, load(home_of[name], name, extra_of.get(name)))
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    def __dir__() -> list[str]:  # noqa: N807 - it becomes the package's
        return sorted({*names, *home_of, "__all__"} - _missing(extra_of))

    return __getattr__, __dir__


def _missing(extra_of: Mapping[str, str]) -> set[str]:
    from importlib.util import find_spec  # noqa: PLC0415 - takes longer than the rest of this module

    return {name for name, extra in extra_of.items() if not all(map(find_spec, _LIBRARIES[extra]))}
