"""Snapshot of the public names with their signatures, read from the source by griffe: `public_api.txt`.

`python tests/public_api.py` writes that file anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import griffe

ROOT: Final = Path(__file__).parents[1]
SNAPSHOT: Final = Path(__file__).with_name("public_api.txt")
PACKAGE: Final = "tgmembership_async"
SHOWN: Final = ("access", "desk", "ext", "fulfillment", "grants", "payments", "project", "testing", "webhooks")


def lines(root: Path = ROOT) -> list[str]:
    """Return one line for each public name, by module and name; the members of a class in their own order."""
    package = griffe.load(
        PACKAGE, search_paths=[root], try_relative_path=False, allow_inspection=False, resolve_aliases=True
    )
    public = {member.canonical_path for module in _modules(package) for member in _public(module).values()}
    return [
        line
        for module in _modules(package)
        for name, member in sorted(_public(module).items())
        for line in _of(member, f"{module.path}.{name}", public)
    ]


def _modules(package: Any) -> Iterator[Any]:
    yield package
    for name in SHOWN:
        found = package.modules[name]
        yield from found.modules.values() if name == "ext" else (found,)
    yield from (package.modules["payments"].modules[name] for name in ("stripe", "telegram"))


def _public(module: Any) -> dict[str, Any]:
    """Return what `__all__` lists or, where there is none, what the module itself defines."""
    if module.exports is not None:
        return {str(name): module.members[str(name)] for name in module.exports}
    return {name: member for name, member in module.members.items() if not (member.is_alias or name.startswith("_"))}


def _of(member: Any, path: str, public: set[str]) -> Iterator[str]:
    if member.is_function:
        parameters = member.signature(return_type=False).removeprefix(member.name)
        yield f"{'async ' * ('async' in member.labels)}{path}{parameters} -> {member.returns}"
    elif member.is_class:
        yield f"{path}({', '.join(map(str, member.bases))})"
        for name, part in member.all_members.items():
            told_elsewhere = part.inherited and part.final_target.parent.canonical_path in public
            if not told_elsewhere and (name == "__init__" or not name.startswith("_")):
                yield from _of(part, f"{path}.{name}", public)
    else:
        yield f"{path}: {member.annotation}" if member.annotation is not None else path


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")
