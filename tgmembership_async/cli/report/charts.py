"""Draw charts as inline SVG with pygal; colours, fonts and both themes come from the page's style sheet.

pygal's own style sheet, script and titles are removed: screen readers would read the titles aloud.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from math import ceil
from typing import Any, Final
from xml.etree import ElementTree as ET

from tgmembership_async.cli.report.figures import Kind, Section, figure, sum_of
from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install
from tgmembership_async.protocol.envelope import printable

_SVG: Final = "http://www.w3.org/2000/svg"
_WIDTH: Final = 420
_LONGEST_LABEL: Final = 22
MAX_BARS: Final = 20
MAX_COLUMNS: Final = 120
_FEWEST_COLUMNS: Final = 7
"""A chart with fewer is filled up with empty space, so that one day of data is not one wide block."""
_ROOM_FOR_LABELS: Final = 32
"""Characters of all labels below columns, on a phone."""
_LARGEST_POWER: Final = 40
_TICKS: Final[Mapping[Kind, int]] = {"bars": 3, "columns": 4}  # numbers side by side need more space
_PLAIN: Final[dict[str, Any]] = {
    "width": _WIDTH,
    "js": (),
    "show_legend": False,
    "disable_xml_declaration": True,
    "margin": 4,
    "margin_right": 28,
    "truncate_label": -1,
    "no_data_text": "",
}
_FONT: Final = 16  # pygal reserves space for this size: the largest in the page's style sheet
_BASELINE: Final = 0.35 * _FONT  # how far pygal puts the text of the axis y below the middle of its bar or line


def pygal() -> Any:
    """Return the module pygal. Raises UsageError if the extra is missing."""
    try:
        found = import_module("pygal")
    except ModuleNotFoundError:
        msg = f"report --html needs an extra: {install('report')}"
        raise UsageError(msg) from None
    # pygal installs an import hook for map plugins, which makes Python 3.11 warn at every later import.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
    return found


def chart(section: Section, number: int) -> str:
    """Return the SVG of a section that has figures; `number` makes its ids unique on the page."""
    rows = list(section.rows)
    # pygal draws bars from the bottom up; readers expect the first at the top.
    shown = rows[-MAX_COLUMNS:] if section.kind == "columns" else rows[:MAX_BARS][::-1]
    labels = [_short(label) for label, _ in shown]
    drawn = _columns(labels) if section.kind == "columns" else _bars(len(shown))
    drawn.x_labels = labels + [""] * (_FEWEST_COLUMNS - len(labels) if section.kind == "columns" else 0)
    most = max((float(sum_of(values) or 0) for _, values in shown), default=0)
    drawn.y_labels = ticks(most, _TICKS[section.kind])
    drawn.value_formatter = "{:,.10g}".format
    for place, series in enumerate(section.series):
        drawn.add(series.name, [None if values[place] is None else float(values[place] or 0) for _, values in shown])
    root = ET.fromstring(drawn.render(is_unicode=True))  # noqa: S314 - pygal's own output
    _clean(root)
    _centre(root)
    _name(root, section)
    _describe(root, section, number)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def _bars(count: int) -> Any:
    return pygal().HorizontalStackedBar(height=40 + 30 * count, rounded_bars=2, style=_style(), **_PLAIN)


def _columns(labels: Sequence[str]) -> Any:
    step = ceil(len(labels) * len(labels[0]) / _ROOM_FOR_LABELS)
    return pygal().StackedBar(
        height=260, x_labels_major=labels[::step], show_minor_x_labels=False, style=_style(), **_PLAIN
    )


def _style() -> Any:
    return import_module("pygal.style").Style(label_font_size=_FONT, major_label_font_size=_FONT)


def _short(label: str) -> str:
    text = printable(label)
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def ticks(most: float, count: int) -> list[float]:
    """Return round whole numbers from 0 to at least `most`, in at most `count` steps."""
    steps = (digit * 10.0**power for power in range(_LARGEST_POWER) for digit in (1, 2, 2.5, 5))
    step = next((step for step in steps if step.is_integer() and step * count >= most), most)
    return [step * number for number in range(max(1, ceil(most / step)) + 1)]


def _tag(name: str) -> str:
    return f"{{{_SVG}}}{name}"


def _clean(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (_tag("defs"), _tag("title"), _tag("script"), _tag("style")):
                parent.remove(child)


def _name(root: ET.Element, section: Section) -> None:
    """Give each series a class of its name, and each bar a title for tooltips and screen readers."""
    for place, series in enumerate(section.series):
        for group in root.iter(_tag("g")):
            if f"serie-{place}" in (group.get("class") or "").split():
                group.set("class", series.hue)
    for bar in root.iter(_tag("g")):
        if bar.get("class") != "bar":
            continue
        texts = {found.get("class"): found.text or "" for found in bar.findall(_tag("desc"))}
        for found in bar.findall(_tag("desc")):
            bar.remove(found)
        title = ET.SubElement(bar, _tag("title"))
        title.text = f"{texts.get('x_label', '')}: {texts.get('value', '')}"


def _centre(root: ET.Element) -> None:
    """Put the labels of the axis y on the middle of their bars and lines; the style sheet centres the text there."""
    for axis in root.iter(_tag("g")):
        if (axis.get("class") or "").startswith("axis y"):
            for text in axis.iter(_tag("text")):
                text.set("y", f"{float(text.get('y', '0')) - _BASELINE:.2f}")


def _describe(root: ET.Element, section: Section, number: int) -> None:
    for name in ("id", "width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"chart-{number}-title chart-{number}-desc")
    for place, (name, text) in enumerate((("title", section.title), ("desc", description(section)))):
        element = ET.Element(_tag(name), {"id": f"chart-{number}-{name}"})
        element.text = printable(text)
        root.insert(place, element)


def description(section: Section) -> str:
    """Return a chart in words: its first three figures, and where the others are."""
    some = [f"{name} {figure(sum_of(values))}" for name, values in list(section.rows)[:3]]
    return f"{section.text} {', '.join(some)}; the table next to the chart has all figures."
