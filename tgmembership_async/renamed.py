"""The warning for a former name, which still works."""

import warnings


def warn_renamed(former: str, name: str) -> None:
    """Warn the caller of the calling function that `former` is now called `name`."""
    warnings.warn(f"{former} is now called {name}", DeprecationWarning, stacklevel=3)
