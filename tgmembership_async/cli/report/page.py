"""Render a report as one HTML page without external resources."""

from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from tgmembership_async.cli.output import shown
from tgmembership_async.cli.report.charts import MAX_BARS, MAX_COLUMNS, chart, pygal
from tgmembership_async.cli.report.figures import Commands, Hold, Section, figure
from tgmembership_async.version import __version__

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p>Created on <time datetime="$iso">$moment UTC</time></p>
</header>
<main>
$sections
</main>
<footer><p>tgmembership-async $version. This page contains your figures and makes no network requests.</p></footer>
</body>
</html>
""")


def page(sections: Sequence[Section], bot_id: int, now: datetime) -> str:
    """Return the page. Raises UsageError if pygal is missing."""
    pygal()
    return _PAGE.substitute(
        title=f"TGmembership report of bot {bot_id}",
        iso=now.isoformat(timespec="seconds"),
        moment=f"{now:%Y-%m-%d %H:%M}",
        style=files("tgmembership_async.cli.report").joinpath("report.css").read_text(encoding="utf-8"),
        sections="\n".join(_section(section, number) for number, section in enumerate(sections, 1)),
        version=__version__,
    )


def _section(section: Section, number: int) -> str:
    heading = f'<h2 id="section-{number}">{_text(section.title)}</h2>'
    if section.problem:
        content = f'<p class="problem"><strong>No figures:</strong> {_text(section.problem)}</p>'
    elif section.kind == "held":
        holds = "\n".join(_hold(hold, is_first=not number) for number, hold in enumerate(section.holds))
        content = f"<p>{_text(section.text)}</p>\n{_commands(section.commands)}\n{holds}"
    elif not section.labels:
        content = f"<p>{_text(section.text)}</p>"
    elif section.kind == "cards":
        content = f"<p>{_text(section.text)}</p>\n{_cards(section)}"
    else:
        drawn = f"<figure>\n{chart(section, number)}\n{_legend(section)}</figure>"
        content = f'<p>{_description(section)}</p>\n<div class="pair">\n{drawn}\n{_table(section)}\n</div>'
    kind = f"{section.kind} wide" if len(section.series) > 1 else section.kind
    return f'<section aria-labelledby="section-{number}" class="{kind}">\n{heading}\n{content}\n</section>'


def _description(section: Section) -> str:
    most, which = (MAX_BARS, "first") if section.kind == "bars" else (MAX_COLUMNS, "last")
    if len(section.labels) <= most:
        return _text(section.text)
    return f"{_text(section.text)} The chart shows the {which} {most}, the table all {len(section.labels):,}."


def _hold(hold: Hold, *, is_first: bool) -> str:
    opened = " open" if is_first else ""
    why = f"\n<p>{_text(hold.why)}</p>" if hold.why else ""
    return (
        f"<details{opened}><summary><strong>{_text(hold.ref)}</strong>"
        f' <span class="status {_text(hold.status)}">{_text(hold.status)}</span> {_text(hold.about)}</summary>'
        f"{why}\n{_commands(hold.commands)}</details>"
    )


def _commands(commands: Commands) -> str:
    lines = (f"<dt>{_text(what)}</dt><dd><code>{_text(line)}</code></dd>" for what, line in commands)
    return f"<dl>{''.join(lines)}</dl>"


def _cards(section: Section) -> str:
    cards = (f"<div><dt>{_text(name)}</dt><dd>{_text(figure(values[0]))}</dd></div>" for name, values in section.rows)
    return f"<dl>{''.join(cards)}</dl>"


def _legend(section: Section) -> str:
    if section.kind != "columns" and len(section.series) == 1:
        return ""
    names = (f'<li class="{_text(series.hue)}">{_text(series.name)}</li>' for series in section.series)
    return f"<figcaption><ul>{''.join(names)}</ul></figcaption>\n"


def _table(section: Section) -> str:
    heads = "".join(f'<th scope="col">{_text(series.name)}</th>' for series in section.series)
    newest_first = list(section.rows)[:: -1 if section.kind == "columns" else 1]
    rows = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th>{"".join(f"<td>{_text(figure(value))}</td>" for value in values)}</tr>'
        for name, values in newest_first
    )
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="Figures: {_text(section.title)}">\n<table>'
        f"<caption>{_text(section.title)}</caption>\n"
        f'<thead><tr><th scope="col">{_text(section.head)}</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(shown(text))
