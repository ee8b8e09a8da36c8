"""Record what the long suites counted, as JSON in the folder `TGM_FIGURES`; the docs are rendered from these files."""

import os
from pathlib import Path

from tables import Row, write

_RECORDED: dict[str, dict[str, list[Row]]] = {}


def record(suite: str, table: str, row: Row) -> None:
    """Add a row to a table of the suite's file, sorted by its first column; without `TGM_FIGURES`, write nothing."""
    tables = _RECORDED.setdefault(suite, {})
    rows = [*tables.get(table, []), row]
    tables[table] = sorted(rows, key=lambda one: str(next(iter(one.values()))))
    if folder := os.environ.get("TGM_FIGURES"):
        write(Path(folder, f"{suite}.json"), tables)
