"""Record what the long suites counted, as JSON in the folder `TGM_FIGURES`; the docs are rendered from these files."""

import os
from pathlib import Path

from tables import Row, write

_RECORDED: dict[str, dict[str, list[Row]]] = {}


def record(suite: str, table: str, row: Row) -> None:
    """Add a row to a table of the suite's file; without `TGM_FIGURES`, do nothing."""
    tables = _RECORDED.setdefault(suite, {})
    tables.setdefault(table, []).append(row)
    if folder := os.environ.get("TGM_FIGURES"):
        write(Path(folder, f"{suite}.json"), tables)
