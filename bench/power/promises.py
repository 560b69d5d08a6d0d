"""What the project promises, what was measured, and whether it holds: pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.power import report
from bench.power.compare import Row
from bench.power.statistics import lower, upper
from bench.power.table import Table, percent, rate

FALSE: Final = 0.005
"""Upper end of the rate of false failures, after confirming."""
INNOCENT: Final = 0.01
UNCLEAR: Final = 0.05
LIMIT: Final = 10
"""The default, in percent."""
MASKS: Final = ("masked",)
"""Parts of a goal that have rows of their own in the table of power."""


def promises(rows: Sequence[Row], counted: Sequence[Mapping[str, Any]]) -> Table:
    """Return one line for each goal; what is not recorded is said to be that."""
    made = [
        _at_most("the same code fails", FALSE, _false_failures(rows), surely=True),
        *(
            _at_least(f"found: {goal.words}", goal.least, _power(rows, goal))
            for goal in report.GOALS
            if not goal.words.endswith(MASKS)
        ),
        _at_least("found: 0 %, +2 % bytecodes", 1.0, _bytecodes(counted)),
        _at_most("an innocent function accused, too", INNOCENT, _innocents(rows)),
        _at_most("INCONCLUSIVE", UNCLEAR, _inconclusive(rows)),
    ]
    return Table(("goal", "promised", "measured", "95 % sure of", "holds"), tuple(made))


def _false_failures(rows: Sequence[Row]) -> tuple[int, int]:
    kept = report.same(rows)
    return sum(report.after_confirming(row, LIMIT) for row in kept), len(kept)


def _power(rows: Sequence[Row], goal: report.Goal) -> tuple[int, int]:
    chosen = [row for row in rows if goal.chosen(row)]
    return sum(report.found(row, goal.limit) for row in chosen), len(chosen)


def _bytecodes(counted: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    chosen = [each for each in counted if each["kind"] == "growth"]
    named = [each for each in chosen if any("workloads:f10" in text for text in each["found"])]
    return len(named), len(chosen)


def _innocents(rows: Sequence[Row]) -> tuple[int, int]:
    chosen = report.longest(row for row in rows if row.variant["kind"] in {"growth", "masked"})
    return sum(bool(row.verdicts[str(LIMIT)].innocent) for row in chosen), len(chosen)


def _inconclusive(rows: Sequence[Row]) -> tuple[int, int]:
    chosen = report.longest(rows)
    return sum(map(report.inconclusive, chosen)), len(chosen)


def _at_least(words: str, least: float, measured: tuple[int, int]) -> tuple[str, ...]:
    found, of = measured
    promised = f">= {percent(least)}"
    if not of:
        return words, promised, "not recorded", "", ""
    missed = least - found / of
    holds = "yes" if missed <= 0 else f"no, by {100 * missed:.1f} points"
    return words, promised, rate(found, of), f">= {percent(lower(found, of))}", holds


def _at_most(
    words: str, most: float, measured: tuple[int, int], *, surely: bool = False
) -> tuple[str, ...]:
    """`surely`: the upper end must keep the goal, not only what was found."""
    found, of = measured
    promised = f"<= {percent(most)}" + (", 95 % sure" if surely else "")
    if not of:
        return words, promised, "not recorded", "", ""
    end = upper(found, of)
    over = found / of - most
    if over > 0:
        holds = f"no, by {100 * over:.1f} points"
    else:
        holds = "yes" if end <= most or not surely else "so far"
    return words, promised, rate(found, of), f"<= {percent(end)}", holds
