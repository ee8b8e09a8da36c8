"""Write the programs that a documentation page tells its readers to save: python page_programs.py PAGE FOLDER."""

import sys
from pathlib import Path

from pages import fences


def write(page: Path, folder: Path) -> None:
    """Write each file under the name that the page gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    for fence in fences(page):
        if fence.language == "python" and fence.file is not None:
            (folder / fence.file).write_text(fence.code, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
