"""The resources for the assistant: the errors with their advice, and the known facts about the service."""

import ast
from collections.abc import Iterator, Mapping
from importlib.resources import files
from inspect import getdoc, getsource
from pathlib import Path

from tgmembership_async import errors
from tgmembership_async.errors import Advice, TGMembershipError


def error_catalogue() -> str:
    """Return a page of Markdown with all errors, generated from `errors`: class, base class, meaning, advice."""
    lines = [
        "# Errors of tgmembership-async",
        "",
        "| error | kind of | meaning | advice |",
        "| --- | --- | --- | --- |",
    ]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, TGMembershipError):
            bases = ", ".join(base.__name__ for base in kind.__bases__)
            lines.append(f"| {name} | {bases} | {' '.join((getdoc(kind) or '').split())} | {_advice(kind)} |")
    lines += ["", "## Advice", "", "| advice | what to do |", "| --- | --- |"]
    lines += [f"| {name} | {meaning} |" for name, meaning in _meanings()]
    return "\n".join([*lines, ""])


def _advice(kind: type[TGMembershipError]) -> str:
    table: Mapping[type, object] = errors._ADVICE  # noqa: SLF001 - the table of which this is the page
    found = next(table[base] for base in kind.__mro__ if base in table)
    return found.value if isinstance(found, Advice) else (getdoc(found) or "").rstrip(".")


def _meanings() -> Iterator[tuple[str, str]]:
    """Yield each advice with the string below it, which Python itself does not keep."""
    (definition,) = ast.parse(getsource(Advice)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is a class
    strings = [
        one.value.value for one in definition.body if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
    ]
    yield from zip(Advice, map(str, strings[1:]), strict=True)  # the first is the docstring of the class


def service_page() -> str:
    """Return the page on the service: each fact is documented, seen or assumed."""
    installed = Path(str(files("tgmembership_async.cli.mcp") / "service.md"))
    page = installed if installed.is_file() else Path(__file__).parents[3] / "docs" / "reference" / "service.md"
    return page.read_text(encoding="utf-8")
