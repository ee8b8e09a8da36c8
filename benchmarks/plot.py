"""Plot the figures of `call.py --json`.

python benchmarks/plot.py FILE.json    writes FILE.png and FILE.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

SHOWN = ("1 task", "64 tasks")
OURS, THEIRS = "#1f77b4", "#b8b8b8"


def draw(results: dict[str, Any]) -> Any:
    """Return a figure with one panel for each case in SHOWN."""
    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "tgmembership"})
    figure, panels = plt.subplots(1, len(SHOWN), figsize=(9, 3.4), layout="constrained")
    for panel, case in zip(panels, SHOWN, strict=True):
        rows = sorted(results["tables"][case], key=lambda row: row["CPU µs per call"], reverse=True)
        colours = [OURS if row["who"].startswith("Session") else THEIRS for row in rows]
        bars = panel.barh([row["who"] for row in rows], [row["CPU µs per call"] for row in rows], color=colours)
        panel.bar_label(bars, fmt="{:,.0f}", padding=2)
        panel.set_title(f"CPU µs per call, {case}")
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.15)
    about = results["about"]
    versions = ", ".join(f"{name} {what}" for name, what in about.items())
    figure.supxlabel(f"A small JSON reply on loopback, decoded. {versions}", fontsize=6)
    return figure


def main() -> None:
    """Write the plots next to the JSON file."""
    path = Path(sys.argv[1])
    figure = draw(json.loads(path.read_text(encoding="utf-8")))
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
