"""Power curves as a picture: what was measured, and what the formula promises."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench.power import report
from bench.power.compare import Row
from bench.power.statistics import lower, power, upper

COLOURS = {5: "#7b3294", 10: "#d95f02", 20: "#1b9e77", 30: "#0571b0"}


def curves(rows: Sequence[Row], place: Path) -> None:
    """Draw power against k, a panel for each limit; one-sided 95 % ends as bars."""
    limits = (0, 5, 10)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, len(limits), sharey=True)
    k = np.geomspace(100, 64_000, 200)
    for panel, limit in zip(panels, limits, strict=True):
        for growth, colour in COLOURS.items():
            if growth <= limit:
                continue
            panel.plot(k, [power(each, growth / 100, limit / 100) for each in k], color=colour,
                       linewidth=1, alpha=0.6)  # fmt: skip
            made = report.points(rows, limit, growth)
            centres = [np.sqrt(max(low, 100) * high) for low, high, *_ in made]
            shares = [hit / of for _, _, hit, of, _ in made]
            below = [
                share - lower(hit, of) for share, (*_, hit, of, _) in zip(shares, made, strict=True)
            ]
            above = [
                upper(hit, of) - share for share, (*_, hit, of, _) in zip(shares, made, strict=True)
            ]
            panel.errorbar(centres, shares, yerr=(below, above), fmt="o", color=colour,
                           markersize=4, capsize=2, label=f"+{growth} %")  # fmt: skip
        panel.set_xscale("log")
        panel.set_title(f"limit {limit} %")
        panel.set_xlabel("samples in the function, a side")
        panel.set_ylim(-0.02, 1.02)
        panel.grid(visible=True, alpha=0.3)
        panel.legend(loc="lower right")
    panels[0].set_ylabel("found at first look")
    figure.suptitle("Points: measured (one-sided 95 % ends). Lines: the formula, dispersion 1.")
    fresh = place.with_name(f".{place.name}")
    figure.savefig(fresh, dpi=110, format="png", metadata={"Software": None})
    fresh.rename(place)
