"""Render the figures in `benchmarks/results` into the documentation, so that none is typed by hand.

    python benchmarks/figures_page.py            writes the pages
    python benchmarks/figures_page.py --check    fails if a page is not up to date

All tables of all files go into `docs/explanation/figures.md`. Another page quotes a table, or some of its columns,
between two comments: `<!-- figures call: 64 tasks: who, ratio -->` and `<!-- /figures -->`.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tables import markdown, sentence

HERE = Path(__file__).parent.parent
RESULTS = HERE / "benchmarks" / "results"
PAGE = HERE / "docs" / "explanation" / "figures.md"
SUITES: Final[Mapping[str, tuple[str, str]]] = {
    "call": ("One call", "`benchmarks/call.py`: a call of a Session next to bare HTTP clients and other SDKs."),
    "null": ("A call without network", "`benchmarks/null.py`: the cost of a call above its transport."),
    "parsers": (
        "Parsers",
        "`benchmarks/parsers.py`: h11 and json next to parsers in C, which the package does not use.",
    ),
    "starting": ("Import and start", "`benchmarks/starting.py`: import, Session and first encrypted call."),
    "structuring": ("Large replies", "`benchmarks/structuring.py`: from the bytes of a reply to typed results."),
    "webhook": ("Webhooks", "`benchmarks/webhook.py`: the verification of a webhook next to other verifiers."),
    "ledger": ("The ledger", "`benchmarks/ledger.py`: durable changes of SqliteLedger next to simpler stores."),
    "engine": ("The engine", "`benchmarks/engine.py`: the cost of a bulk run above its calls."),
    "provision": ("A bulk run", "`benchmarks/provision.py`: `provision` next to `asyncio.gather` over bare httpx."),
    "million": ("A large ledger", "`benchmarks/million.py`: commands on up to 1,000,000 rows; nothing is sent."),
    "reconcile": ("Reconciliation", "`benchmarks/reconcile.py`: `reconcile` next to reads of the same members."),
    "report": ("A report", "`benchmarks/report.py`: `tgmembership report` of a small and a large SQLite file."),
    "crash": ("Kills of a bulk run", "`nox -s crash`."),
    "crash_fulfillment": ("Kills of a Fulfillment", "`nox -s crash`: Telegram refuses messages, and answers late."),
    "crash_postgres": ("Kills on PostgreSQL", "`nox -s crash_postgres`."),
    "crash_bot": ("Kills of a bot", "`nox -s crash_bot`."),
    "gateways": ("Gateways", "`nox -s gateways`: the worker is killed and the gateway is reloaded."),
}
HEAD = """# Figures

All measured figures of this documentation, rendered by `benchmarks/figures_page.py` from the JSON that the benchmarks
and the long test suites wrote. `nox -s bench` measures the benchmarks again on your machine. CPU is the time of the
measuring process; candidates were measured alternately in one run, and the figures are medians unless a column says
otherwise.
"""
_QUOTE = re.compile(r"(<!-- figures (\w+): (.+?)(?:: (.+?))? -->\n)(.*?)(<!-- /figures -->)", re.DOTALL)


def load(suite: str) -> dict[str, Any]:
    """Return the results of a suite."""
    content: dict[str, Any] = json.loads((RESULTS / f"{suite}.json").read_text(encoding="utf-8"))
    return content


def page() -> str:
    """Return the page of all figures."""
    parts = [HEAD]
    for suite, (title, what) in SUITES.items():
        if (RESULTS / f"{suite}.json").exists():
            results = load(suite)
            parts.append(f"## {title}\n\n{what} Measured: {sentence(results['about'])}.\n")
            parts += [f"### {name}\n\n{markdown(rows)}\n" for name, rows in results["tables"].items()]
    return "\n".join(parts)


def quoted(text: str) -> str:
    """Return a page with its quoted tables rendered again."""

    def render(match: re.Match[str]) -> str:
        begin, suite, name, names, _, end = match.groups()
        rows = load(suite)["tables"][name]
        if names:
            rows = [{column: row.get(column) for column in names.split(", ")} for row in rows]
        return f"{begin}\n{markdown(rows)}\n\n{end}"

    return _QUOTE.sub(render, text)


def rendered() -> dict[Path, str]:
    """Return each page with figures, and its text as it should be."""
    pages = [HERE / "README.md", *sorted((HERE / "docs").rglob("*.md"))]
    texts = {path: quoted(path.read_text(encoding="utf-8")) for path in pages if path != PAGE}
    return {PAGE: page(), **{path: text for path, text in texts.items() if "<!-- figures " in text}}


def main() -> int:
    """Write the pages; with `--check`, only tell which are not up to date."""
    late = [path for path, text in rendered().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" not in sys.argv:
        for path in late:
            path.write_text(rendered()[path], encoding="utf-8")
        return 0
    for path in late:
        print(f"{path.relative_to(HERE)} is not up to date: run `python benchmarks/figures_page.py`", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
