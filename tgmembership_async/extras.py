"""How to install an extra. No package index has the package, so it is installed from a clone of its repository."""


def install(extra: str) -> str:
    """Return what to do about a missing extra, for the end of a message."""
    return f"run pip install '.[{extra}]' in the clone of the package"
