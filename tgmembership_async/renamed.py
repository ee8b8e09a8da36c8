"""The warning for a former name, which still works."""

import warnings
from collections.abc import Callable


def warn_renamed(former: str, name: str, *, stacklevel: int = 3) -> None:
    """Warn the caller of the calling function, or one further up, that `former` is now called `name`."""
    warnings.warn(f"{former} is now called {name}", DeprecationWarning, stacklevel=stacklevel)


def former_names(module: str, **objects: type) -> Callable[[str], type]:
    """Return the `__getattr__` of a module in which these names were renamed: each gives its object, with the warning.

    Define it where type checkers do not look, so that they see the new names only.
    """

    def get(name: str) -> type:
        if name not in objects:
            msg = f"module {module!r} has no attribute {name!r}"
            raise AttributeError(msg)
        warn_renamed(f"{module.removeprefix('tgmembership_async.')}.{name}", objects[name].__name__)
        return objects[name]

    return get
