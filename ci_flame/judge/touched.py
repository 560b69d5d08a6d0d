"""Stage 5, pure: whose change: what a diff touched -> a label on each finding.

    Changed in this diff: src/shop/parser.py:88.
    Calls what changed in this diff: shop.lexer:scan (src/shop/lexer.py:12).
    Not touched by this diff.

A label explains; it never changes an outcome.
"""

from dataclasses import replace
from typing import Final

from ci_flame.diff import BenchmarkDiff
from ci_flame.profile import TOTAL
from ci_flame.verdict import BenchmarkVerdict, Finding, Note, Verdict
from ci_flame.verdict.touch import Spot, Touch, Touched

_SLUG: Final = "changed-since"
_SHOWN: Final = 3
"""Files of dependencies that a label names."""


def label(verdict: BenchmarkVerdict, touched: Touched | None) -> BenchmarkVerdict:
    """Return the verdict with every finding on code labelled; outcomes stay as they are."""
    if touched is None or not verdict.findings:
        return verdict
    told = []
    for finding in verdict.findings:
        how, words = _label(finding, verdict.diff, touched)
        spot = touched.spots.get(str(finding.frame)) if how == Touch.CHANGED else None
        told.append(replace(finding, touched=how, changed=words, changed_at=spot))
    return replace(verdict, findings=tuple(told))


def label_all(verdict: Verdict, touched: Touched | None) -> Verdict:
    """Return the whole build's verdict labelled, with a note on what the diff is of."""
    if touched is None or not any(each.findings for each in verdict.benchmarks):
        return verdict
    benchmarks = tuple(label(each, touched) for each in verdict.benchmarks)
    note = Note(_SLUG, f"this diff: everything since {touched.since}")
    notes = verdict.notes if note in verdict.notes else (*verdict.notes, note)
    return replace(verdict, benchmarks=benchmarks, notes=notes)


def _label(  # noqa: C901, PLR0911 - a ladder, one rung a label
    finding: Finding, diff: BenchmarkDiff | None, touched: Touched
) -> tuple[str, str]:
    """Return the kind of touch and its words; both empty where nothing is known."""
    if not finding.of_code:
        return "", ""
    name = str(finding.frame)
    spot = touched.spots.get(name)
    if spot is not None and spot.how is Touch.CHANGED:
        return Touch.CHANGED, f"Changed in this diff: {spot.file}:{spot.line}."
    if spot is not None and spot.how is Touch.READS:
        words = f"Uses {spot.told}, changed in this diff: {spot.file}:{spot.line}."
        return Touch.READS, words
    below = _changed_below(finding, diff, touched)
    if below is not None:
        callee, where = below
        return (
            Touch.CALLS,
            f"Calls what changed in this diff: {callee} ({where.file}:{where.line}).",
        )
    if spot is not None:
        words = f"Moved unchanged in this diff: {spot.file}:{spot.line} (from {spot.told})."
        return Touch.MOVED, words
    if finding.frame == TOTAL:
        return Touch.UNTOUCHED, "Nothing that it runs was touched by this diff."
    if name in touched.native or (finding.place and finding.place.file in touched.files):
        return Touch.UNTOUCHED, "Not touched by this diff."
    if name in touched.unlined:
        return "", f"No line table tells whose change it is: build {finding.frame.module} with -g."
    if finding.place is None:
        return "", ""
    if touched.dependencies:
        more = len(touched.dependencies) - _SHOWN
        names = ", ".join(touched.dependencies[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return Touch.ELSEWHERE, f"Not in this repository; {names} changed in this diff."
    return Touch.ELSEWHERE, "Not in this repository."


def _changed_below(
    finding: Finding, diff: BenchmarkDiff | None, touched: Touched
) -> tuple[str, Spot] | None:
    """Return the changed function below the finding whose cost grew most."""
    changed = {n: spot for n, spot in touched.spots.items() if spot.how is Touch.CHANGED}
    if diff is None or not changed:
        return None
    grew: dict[str, float] = {}
    for node in diff.paths:
        name = str(node.path[-1])
        if name not in changed:
            continue
        if finding.frame == TOTAL or finding.frame in node.path[:-1]:
            grown = node.total.after_ns - node.total.before_ns
            grew[name] = grew.get(name, 0.0) + grown
    if not grew:
        return None
    most = min(grew, key=lambda each: (-grew[each], each))
    return most, changed[most]
