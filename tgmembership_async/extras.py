"""The command that installs an extra, from a clone of the repository: no package index has the package."""


def install(extra: str) -> str:
    """Return what to do about a missing extra, for the end of a message."""
    return f"run pip install '.[{extra}]' in the clone of the package"
