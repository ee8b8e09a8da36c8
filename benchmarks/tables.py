"""Tables of figures: printed, and written as JSON with the date, the machine and the versions.

`--json FILE` on the command line of a benchmark names the file. `python benchmarks/figures_page.py` renders the files.
"""

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Value = str | float | None
Row = Mapping[str, Value]
Tables = Mapping[str, Sequence[Row]]


def about(*libraries: str, **more: str) -> dict[str, str]:
    """Return the date, the machine, and the versions of Python and of the libraries that are installed."""
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **more,
    }
    for library in libraries:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            continue
    return facts


def sentence(facts: Mapping[str, str]) -> str:
    """Return the facts of a run on one line."""
    return ", ".join(what if name in {"date", "machine"} else f"{name} {what}" for name, what in facts.items())


def shown(value: Value) -> str:
    """Return a cell's text: three significant digits, and whole numbers with thousands separators."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; the columns are the keys of all rows, in the order they appear."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    right = {name for name in names if not any(isinstance(row.get(name), str) for row in rows)}

    def lines() -> Iterator[str]:
        yield f"| {' | '.join(names)} |"
        yield f"| {' | '.join('---:' if name in right else '---' for name in names)} |"
        for row in rows:
            yield f"| {' | '.join(shown(row.get(name)) for name in names)} |"

    return "\n".join(lines())


def option(name: str) -> str | None:
    """Return the value of an option of the command line, or None."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def write(path: Path, tables: Tables, *libraries: str, **more: str) -> None:
    """Write the tables and the facts as JSON."""
    content = {"about": about(*libraries, **more), "tables": tables}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(tables: Tables, *libraries: str, **more: str) -> None:
    """Print the tables; with `--json FILE` on the command line, also write them to the file."""
    print(sentence(about(*libraries, **more)))
    for title, rows in tables.items():
        print(f"\n{title}\n\n{markdown(rows)}", flush=True)
    if path := option("--json"):
        write(Path(path), tables, *libraries, **more)
