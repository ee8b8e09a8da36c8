"""Every measured figure in the documentation comes from the JSON in benchmarks/results."""

import re
from pathlib import Path

import figures_page
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RENDERED = re.compile(r"<!-- (?:figures )?([\w: ,./-]+?) -->.*?<!-- /\w+ -->", re.DOTALL)
MEASURED = re.compile(
    r"[\d.,]+ ?(?:µs|(?:calls|members|rows|verifications|changes|jobs)/s|times (?:as|the|faster|slower))"
)


def test_the_pages_are_rendered_from_the_results() -> None:
    late = [path for path, text in figures_page.rendered().items() if path.read_text(encoding="utf-8") != text]
    assert late == [], "run `python benchmarks/figures_page.py`"


@pytest.mark.parametrize("page", [page for page in PAGES if page != figures_page.PAGE], ids=lambda page: page.stem)
def test_no_figure_is_typed_by_hand(page: Path) -> None:
    assert MEASURED.findall(RENDERED.sub("", page.read_text(encoding="utf-8"))) == []
