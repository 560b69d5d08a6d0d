"""Stage 6, pure: a Verdict as the lines that a person reads in a terminal or a CI log.

Findings are printed whole, as their sentence; everything else fits the width.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from ci_flame.diff import BenchmarkDiff, Change, FrameChange
from ci_flame.noise import benjamini_hochberg
from ci_flame.profile import Kind, Mode
from ci_flame.report import alone, machine
from ci_flame.report.picture import Direction, direction
from ci_flame.report.words import columns, cut, duration, growth, interval, plural, share, visible
from ci_flame.verdict import BenchmarkVerdict, Outcome, Verdict

CHANCE: Final = 0.05
"""Of the functions listed as changed, the share that may be chance (false discovery rate)."""
ROWS: Final = 10
"""Functions listed per benchmark; the others are counted."""
NAME: Final = 24
"""Columns that a name should have; where there are fewer, the share is left out."""
ALWAYS: Final = 3
"""Columns of figures that no terminal is too narrow for: cost, growth and its interval."""
SHORTEST: Final = 16
OWN: Final = " (own cost)"
_UNDER: Final = 100
"""Columns of a caller's name beside its function's."""
_ARROW: Final = "->"
_HASHES: Final = re.compile(r"##(\w*\[)")
_COLOURS: Final = {
    Outcome.PASS: "32",
    Outcome.NO_BASELINE: "36",
    Outcome.WARN: "33",
    Outcome.INCONCLUSIVE: "33",
    Outcome.FAIL: "31",
}


def render(verdict: Verdict, width: int = 100, *, colour: bool = False) -> str:
    """Return the whole verdict as text, ending in a newline."""
    lines: list[str] = []
    for each in without_repeats(once(each, verdict) for each in verdict.benchmarks):
        lines += [*benchmark_lines(each, width=width, colour=colour), ""]
    lines += [f"note: {visible(note.text)}" for note in verdict.notes]
    lines.append(headline(verdict, colour=colour))
    return "\n".join(map(no_command, lines)) + "\n"


def no_command(line: str) -> str:
    """Return a line that no CI takes for a command of a job, whatever names are in it.

    GitHub reads `::name …::` at the beginning of a line and `##[name]` anywhere, Azure
    `##vso[…]`, TeamCity `##teamcity[…]`.
    """
    words = line.lstrip()
    if words.startswith("::") and "::" in words[2:]:
        line = line.replace("::", "\\x3a:", 1)
    return _HASHES.sub(r"\\x23#\1", line)


def once(each: BenchmarkVerdict, verdict: Verdict) -> BenchmarkVerdict:
    """Return the benchmark without the notes that the verdict already has, for the whole build."""
    said = {note.text for note in verdict.notes}
    return replace(each, notes=tuple(note for note in each.notes if note.text not in said))


def without_repeats(benchmarks: Iterable[BenchmarkVerdict]) -> list[BenchmarkVerdict]:
    """Return the verdicts without the notes that a mode of the same benchmark above has.

    For lines that stand below each other: tabs of a page need them all.
    """
    said: set[tuple[str, str]] = set()
    kept = []
    for each in benchmarks:
        notes = tuple(note for note in each.notes if (each.benchmark, note.text) not in said)
        said |= {(each.benchmark, note.text) for note in notes}
        kept.append(replace(each, notes=notes))
    return kept


def headline(verdict: Verdict, *, colour: bool = False) -> str:
    """Return the last line: `ci-flame: FAIL (3 benchmarks: 1 fail, 2 pass)`."""
    outcome = _outcome(verdict.outcome, colour=colour)
    return f"ci-flame: {outcome} ({tally(verdict.counts)})"


def tally(counts: Mapping[Outcome, int]) -> str:
    """Return `3 benchmarks: 1 fail, 2 pass` of `Verdict.counts`.

    What has no baseline beside others that were compared is new.
    """
    words = {Outcome.NO_BASELINE: "new"} if len(counts) > 1 else {}
    told = ", ".join(
        f"{number:,} {words.get(outcome, outcome.value)}" for outcome, number in counts.items()
    )
    return plural(sum(counts.values()), "benchmark") + (f": {told}" if told else "")


def benchmark_lines(each: BenchmarkVerdict, *, width: int = 100, colour: bool = False) -> list[str]:
    """Return the lines of one benchmark: outcome, findings, functions that changed, notes."""
    mode = "" if each.mode == "on-cpu" else f" [{each.mode}]"
    lines = [
        f"{visible(each.benchmark)}{mode} {_outcome(each.outcome, colour=colour, word=each.word)}"
    ]
    for finding in each.findings:
        lines.append(f"  {visible(str(finding))}")
        where = []
        if finding.place is not None:
            where.append(f"at {visible(finding.place.file)}:{finding.place.line}")
        if len(finding.path) > 1:
            where.append(f"called by {visible(str(finding.path[-2]))}")
        if where:
            lines.append(f"    {', '.join(where)}")
    if each.diff is not None:
        if each.diff.total.before_ns or each.diff.total.after_ns:
            lines += _compared(each, each.diff, width)
    elif each.alone is not None and (told := alone.line(each.alone, Mode(each.mode))):
        lines.append(f"  {told}")
    if told := machine.line(each.figures):
        lines.append(f"  {told}")
    lines += [f"  note: {visible(note.text)}" for note in each.notes]
    return list(map(no_command, lines))


def changed(each: BenchmarkVerdict) -> tuple[FrameChange, ...]:
    """Return the functions that a rule reads and whose change can be told from noise.

    Those of findings are among them. Of what is listed one in twenty may be chance: among
    hundreds of functions a few look changed at any level that each is held to alone.
    """
    if each.diff is None:
        return ()
    blamed = {finding.frame for finding in each.findings}
    frames = tuple(each.diff.frames)
    chance = benjamini_hochberg(np.array([frame.total.p_value for frame in frames]))
    return tuple(
        frame
        for frame, share in zip(frames, chance.tolist(), strict=True)
        if frame.frame in blamed
        or (
            share <= CHANCE
            and direction(frame.total) is not Direction.NOISE
            and each.is_read(frame.frame, frame.path)
            # Every wait ends in the same kernel functions, and its reason says what they do.
            and (each.mode != Mode.OFF_CPU or frame.frame.kind is not Kind.KERNEL)
        )
    )


def told_of(each: BenchmarkVerdict, frame: FrameChange) -> tuple[Change, str]:
    """Return what a table shows of a function, and the words after its name.

    Of what broke a rule it is the very figure of the sentence: two figures of one function, own
    cost and cost with callees, would read as a contradiction.
    """
    found = [
        f for f in each.findings if f.frame == frame.frame and f.figure is None and not f.since
    ]
    for finding in sorted(found, key=lambda one: bool(one.under)):
        return finding.change, about(finding.under, own=finding.self_only)
    return frame.total, ""


def about(under: str, *, own: bool) -> str:
    """Return which cost of a function a row has: ` (own cost, under shop.search:Index.add)`."""
    if not under:
        return OWN if own else ""
    under = cut(under, _UNDER)
    return f" (own cost, under {under})" if own else f" (under {under})"


def _compared(each: BenchmarkVerdict, diff: BenchmarkDiff, width: int) -> list[str]:
    frames = changed(each)
    whole = f"  {_costs(diff.total)} per iteration, {growth(diff.total)}"
    if interval(diff.total):
        whole += f" ({interval(diff.total)})"
    lines = [f"{whole}; processes {diff.processes_before} + {diff.processes_after}"]
    if frames:
        of = "waiting" if each.mode == Mode.OFF_CPU else "benchmark"
        lines += _table(each, frames[:ROWS], width, of)
        if len(frames) > ROWS:
            lines.append(f"  and {plural(len(frames) - ROWS, 'function')} more that changed")
    elif each.unjudged:
        lines.append("  no function was judged: see the note")
    else:
        compared = plural(len(diff.frames), "function")
        lines.append(
            f"  {compared} compared, none that is judged changed more than noise can explain"
        )
    blind = any(note.slug == "blind" for note in each.notes)  # says the same, and more
    if each.smallest_visible is not None and not blind:
        seen = share(each.smallest_visible)
        lines.append(
            f"  smallest growth that would have been seen in a function of 5 % or more: {seen}"
        )
    return lines


def _costs(change: Change) -> str:
    return f"{duration(change.before_ns)} {_ARROW} {duration(change.after_ns)}"


def _shares(change: Change) -> str:
    return f"{share(change.before_share)} {_ARROW} {share(change.after_share)}"


def _table(
    each: BenchmarkVerdict, frames: tuple[FrameChange, ...], width: int, whole: str
) -> list[str]:
    """Return aligned rows; a narrow terminal leaves out the last columns, before it cuts names."""
    seen = each.visible
    heads = ("per iteration", "growth", "90 % interval", f"share of {whole}", "could have seen")
    rows: list[tuple[str, ...]] = [("function", *heads)]
    rows += [
        (
            visible(f"{frame.frame}{own}"),
            _costs(change),
            growth(change),
            interval(change),
            _shares(change),
            share(seen[frame.frame]) if frame.frame in seen else "-",
        )
        for frame, (change, own) in ((frame, told_of(each, frame)) for frame in frames)
    ]
    if all(row[-1] == "-" for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(columns(row[i]) for row in rows) for i in range(1, len(rows[0]))]
    wanted = min(max(columns(row[0]) for row in rows), NAME)
    while len(widths) > ALWAYS and width - sum(widths) - 2 * len(widths) - 2 < wanted:
        widths.pop()
    room = max(SHORTEST, width - sum(widths) - 2 * len(widths) - 2)
    names = [cut(row[0], room) for row in rows]
    first = max(map(columns, names))
    return [
        "  "
        + name
        + " " * (first - columns(name))
        + "".join(
            "  " + " " * (w - columns(cell)) + cell
            for w, cell in zip(widths, row[1 : 1 + len(widths)], strict=True)
        )
        for name, row in zip(names, rows, strict=True)
    ]


def _outcome(outcome: Outcome, *, colour: bool, word: str = "") -> str:
    text = (word or outcome.value).upper()
    return f"\x1b[1;{_COLOURS[outcome]}m{text}\x1b[0m" if colour else text
