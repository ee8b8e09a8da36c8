"""The command that installs an extra, from a clone of the repository: no package index has the package."""


def missing(module: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a module of this package whose extra is not installed, instead of `error`."""
    return ModuleNotFoundError(f"{module} needs an extra: {install(extra)}", name=error.name, path=error.path)


def install(extra: str) -> str:
    """Return what to do about a missing extra, for the end of a message."""
    return f"run pip install '.[{extra}]' in the clone of the package"
