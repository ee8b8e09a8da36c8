"""The architecture page names existing files, and says where to change what."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tgmembership_async"
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_exists() -> None:
    there = {f"/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*")}
    for name in re.findall(r"`([a-z_0-9/]+(?:\.py|/))`", PAGE):
        assert (ROOT / name).exists() or any(path.endswith(f"/{name.rstrip('/')}") for path in there), name


def test_every_folder_of_the_package_is_on_it() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert {name for name in folders if f"{name}/" not in PAGE} == set()


def test_it_says_where_to_change_what() -> None:
    assert len(re.findall(r"^\| [^|]+ \| `", PAGE, re.MULTILINE)) >= 15
