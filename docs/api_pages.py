"""Keep `docs/api`: the pages of the reference with their signatures and docstrings, for readers of the repository.

    python docs/api_pages.py FOLDER           # fail unless docs/api is what Sphinx's Markdown builder wrote to FOLDER
    python docs/api_pages.py FOLDER --write   # take it over

`nox -s docs` does the first, `nox -s docs -- --write` the second.
"""

import re
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
API: Final = HERE / "api"
_NOTE: Final = "<!-- Generated from docs/reference and the docstrings by `nox -s docs -- --write`; do not edit. -->"
_LINK: Final = re.compile(r"\]\(([^)#:]+\.md)")


def pages(built: Path) -> dict[str, str]:
    """Return the pages whose source holds directives, which only Sphinx can read, by name."""
    sources = sorted((HERE / "reference").glob("*.md"))
    names = [path.name for path in sources if "{eval-rst}" in path.read_text(encoding="utf-8")]
    return {name: page(built / "reference" / name, names) for name in names}


def page(built: Path, names: list[str]) -> str:
    """Return a page as it stands in `docs/api`: what is not there is linked where it is."""

    def link(match: re.Match[str]) -> str:
        target = match[1]
        return match[0] if target in names or "/" in target else f"](../reference/{target}"

    text = re.sub(r"[ \t]+$", "", built.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return f"{_NOTE}\n\n{_LINK.sub(link, text).strip()}\n"


def main(built: Path, *, write: bool) -> int:
    """Write the pages, or name those that differ; return the exit status."""
    wanted = pages(built)
    kept = {path.name: path.read_text(encoding="utf-8") for path in API.glob("*.md")}
    if write:
        API.mkdir(exist_ok=True)
        for name in kept.keys() - wanted.keys():
            (API / name).unlink()
        for name, text in wanted.items():
            (API / name).write_text(text, encoding="utf-8")
        return 0
    stale = sorted(name for name in wanted.keys() | kept.keys() if wanted.get(name) != kept.get(name))
    if stale:
        sys.stderr.write(f"docs/api is out of date, run `nox -s docs -- --write`: {', '.join(stale)}\n")
    return len(stale)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), write="--write" in sys.argv))
