"""Names whose home needs an extra: loaded on use, with an error that names the extra where it is missing."""

from importlib import import_module

from tgmembership_async.errors import UsageError


def load(home: str, name: str, extra: str | None = None) -> object:
    """Return a name of a module; UsageError where that module needs an extra that is not installed."""
    try:
        return getattr(import_module(home), name)
    except ImportError:
        if extra is None:
            raise
    msg = f"{name} needs an extra: pip install 'tgmembership-async[{extra}]'"
    raise UsageError(msg)
