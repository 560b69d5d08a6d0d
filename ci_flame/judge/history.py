"""Stage 5, pure: what builds of the base branch say of a verdict against one of them.

siblings ─ levels ─▶ spread between builds ─▶ wider intervals
                └──▶ a recording that its siblings contradict is named and set aside
anchor ────────────▶ slow creep: growth since a fixed build, that no single build has
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ci_flame import noise
from ci_flame.diff import BenchmarkDiff, diff_benchmark, differences
from ci_flame.diff.evidence import Flags
from ci_flame.judge import judge_benchmark
from ci_flame.noise import Floats, between
from ci_flame.noise.between import Between, Disagreement
from ci_flame.policy import Policy
from ci_flame.profile import TOTAL, Frame, Measurement, Mode, Run
from ci_flame.verdict import (
    BenchmarkVerdict,
    Finding,
    Note,
    Outcome,
    Sort,
    percent,
    severity_of,
    worst,
)

TYPICAL_SHARE: Final = 0.01
"""Own share from which on a function tells what spread is typical of the benchmark."""
LARGE_SHARE: Final = 0.05
"""The same of a function that a recording may be set aside for."""
LEAST_SAMPLES: Final = 20.0
"""On both sides together; of less, ln of a count is not a number to compare."""
WORTH_SAYING: Final = 0.02
"""Spread between builds that a reader is told of."""
NOT_CONFIRMED: Final = "not-confirmed"
_ONLY_AGAINST: Final = "only against the baseline that was set aside: "


@dataclass(frozen=True, slots=True)
class Levels:
    """The builds of one benchmark side by side: ln cost / that of the baseline, and its noise."""

    builds: tuple[Run, ...]
    """Oldest first, the baseline among them; those without this benchmark are left out."""
    base: int
    """Position of the baseline."""
    frames: tuple[Frame, ...]
    levels: Floats
    """Rows: the benchmark, own costs of `frames`, costs with callees of `frames`."""
    noise: Floats
    typical: Flags
    large: Flags

    def row(self, frame: Frame, *, own: bool) -> int | None:
        """Return the row of a cost; None where no build has it."""
        if frame == TOTAL:
            return 0
        if frame not in self.frames:
            return None
        return 1 + self.frames.index(frame) + (0 if own else len(self.frames))

    def without(self, builds: Sequence[int]) -> "Levels":
        """Return the levels without these builds; the baseline's position is then a fiction."""
        kept = [n for n in range(len(self.builds)) if n not in builds]
        return replace(
            self,
            builds=tuple(self.builds[n] for n in kept),
            levels=self.levels[:, kept],
            noise=self.noise[:, kept],
        )


@dataclass(frozen=True, slots=True)
class History:
    """The builds of the base branch that a store holds, beside the baseline itself."""

    base: Run
    siblings: tuple[Run, ...] = ()
    """Comparable builds near the baseline, oldest first, it is not among them."""
    anchor: Run | None = None
    """The fixed build that growth is also judged since."""
    _seen: dict[tuple[str, Mode], "Levels | None"] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Levels are asked for twice a benchmark: for the intervals, and afterwards."""

    def levels(self, benchmark: str, mode: Mode) -> Levels | None:
        """Return the builds of a benchmark side by side; None where it has no siblings."""
        key = benchmark, mode
        if key not in self._seen:
            self._seen[key] = _levels(self.base, self.siblings, benchmark, mode)
        return self._seen[key]

    def between(self, benchmark: str, mode: Mode) -> Between | None:
        """Return how far the builds of a benchmark spread; None where that is not known."""
        levels = self.levels(benchmark, mode)
        return None if levels is None else spread_of(levels)

    def only(self, benchmarks: Sequence[str]) -> "History":
        """Return the history of some benchmarks alone, as a report keeps it."""
        names = frozenset(benchmarks)

        def cut(run: Run) -> Run:
            kept = tuple(m for m in run.measurements if m.benchmark in names)
            return replace(run, measurements=kept)

        anchor = None if self.anchor is None else cut(self.anchor)
        return History(cut(self.base), tuple(map(cut, self.siblings)), anchor)


def _levels(base: Run, siblings: Sequence[Run], benchmark: str, mode: Mode) -> Levels | None:
    """Compare each sibling with the baseline, as the verdict compares two builds."""
    here = base.measurement(benchmark)
    having = [run for run in siblings if mode in _modes(run, benchmark)]
    if here is None or mode not in here.modes or not having:
        return None
    diffs = {}
    imported = base.environment.imported
    for number, run in enumerate(having):
        there = run.measurement(benchmark)
        made = None if there is None else diff_benchmark(there, here, mode, imported=imported)
        if made is not None and made.columns is not None:
            diffs[number] = made
    if not diffs:
        return None
    frames = tuple(
        sorted({f for made in diffs.values() if made.columns for f in made.columns.evidence.frames})
    )
    at = {frame: number for number, frame in enumerate(frames)}
    rows = 1 + 2 * len(frames)
    builds = [having[number] for number in diffs]
    # The baseline stands at its time; among builds of one time it is the newest.
    place = sum(run.time <= base.time for run in builds)
    builds.insert(place, base)
    levels = np.full((rows, len(builds)), np.nan)
    squared = np.full((rows, len(builds)), np.nan)
    share = np.zeros(len(frames))
    levels[:, place] = 0.0
    for column, made in zip(
        (n for n in range(len(builds)) if n != place), diffs.values(), strict=True
    ):
        _fill(made, at, levels[:, column], squared[:, column], share)
    with np.errstate(all="ignore"):
        squared[:, place] = _median(squared) / 2
    others = [n for n in range(len(builds)) if n != place]
    mine = squared[:, [place]]
    squared[:, others] = np.maximum(squared[:, others] - mine, squared[:, others] / 4)
    levels[~np.isfinite(squared)] = np.nan
    share /= len(diffs)
    nothing = np.zeros(len(frames), dtype=bool)
    return Levels(
        tuple(builds),
        place,
        frames,
        levels,
        squared,
        np.concatenate([[True], share >= TYPICAL_SHARE, nothing]),
        np.concatenate([[True], share >= LARGE_SHARE, nothing]),
    )


def _median(values: Floats) -> Floats:
    """Return each row's median over what is known; NaN where nothing is."""
    out = np.full(values.shape[0], np.nan)
    for row, each in enumerate(values):
        known = each[np.isfinite(each)]
        if len(known):
            out[row] = np.median(known)
    return out


def _modes(run: Run, benchmark: str) -> tuple[Mode, ...]:
    found = run.measurement(benchmark)
    return () if found is None else found.modes


def _fill(
    made: BenchmarkDiff, at: dict[Frame, int], levels: Floats, squared: Floats, share: Floats
) -> None:
    """Put one sibling's costs, relative to the baseline's, into its column."""
    columns = made.columns
    if columns is None:
        return
    estimates = columns.estimates
    numbers = np.array([at[frame] for frame in columns.evidence.frames], dtype=int)
    count = len(at)
    own = np.arange(1, 1 + columns.functions)
    total = own + columns.functions
    rows = np.concatenate([[0], 1 + numbers, 1 + count + numbers])
    source = np.concatenate([[0], own, total])
    samples = estimates.samples_before[source] + estimates.samples_after[source]
    known = np.isfinite(estimates.log_ratio[source]) & (samples >= LEAST_SAMPLES)
    # The sibling stands before: its level is what the baseline is less.
    levels[rows[known]] = -estimates.log_ratio[source[known]]
    squared[rows[known]] = estimates.standard_error[source[known]] ** 2
    share[numbers] += estimates.samples_after[own] / max(float(estimates.samples_after[0]), 1.0)


def spread_of(levels: Levels) -> Between:
    """Return how far builds spread, those left out that their siblings contradict."""
    bad = [each.build for each in between.disagreements(levels.levels, levels.noise, levels.large)]
    used = levels.without(bad) if len(levels.builds) - len(bad) > 1 else levels
    rows, typical, degrees = between.variances(used.levels, used.noise, used.typical)
    count = len(levels.frames)
    return Between(
        whole=float(rows[0]),
        own=dict(zip(levels.frames, rows[1 : 1 + count].tolist(), strict=True)),
        total=dict(zip(levels.frames, rows[1 + count :].tolist(), strict=True)),
        typical=float(typical),
        degrees=degrees,
        builds=len(used.builds),
    )


# -- the verdict ----------------------------------------------------------------------


def review(
    verdict: BenchmarkVerdict,
    after: Measurement,
    policy: Policy,
    family: int,
    history: History,
    *,
    before: Measurement | None = None,
) -> BenchmarkVerdict:
    """Return a verdict against a stored baseline with what the other builds say of it.

    A failure against a baseline that its siblings contradict must also hold against the
    nearest of them, and growth since the anchor warns. `before` is what it was compared with,
    by default what is stored. Another recording is the baseline's commit once more, made beside
    to confirm a failure: both sides are then sound, and the gate is against that commit alone.
    """
    if verdict.diff is None:
        return verdict
    mode = Mode(verdict.mode)
    levels = history.levels(verdict.benchmark, mode)
    if levels is not None:
        stored = history.base.measurement(verdict.benchmark)
        again = before is not None and before is not stored and before != stored
        verdict = _set_aside(verdict, after, policy, family, levels, again=again)
    if history.anchor is not None:
        verdict = _crept(verdict, after, policy, family, history)
    return verdict


def _set_aside(
    verdict: BenchmarkVerdict,
    after: Measurement,
    policy: Policy,
    family: int,
    levels: Levels,
    *,
    again: bool,
) -> BenchmarkVerdict:
    """Name the recordings that disagree; against a bad baseline the milder verdict counts.

    `again`: the baseline's commit was recorded once more, and that is what it was compared with.
    """
    found = between.disagreements(levels.levels, levels.noise, levels.large)
    notes = [_named(each, levels, verdict.benchmark) for each in found if each.build != levels.base]
    spread = spread_of(levels)
    typical = float(np.sqrt(max(spread.typical, spread.whole)))
    if typical >= WORTH_SAYING:
        words = (
            f"recordings of {spread.builds} builds spread by {percent(typical)} % more than their"
            " own noise explains: allowed for in every interval"
        )
        notes.append(Note("between-builds", words, verdict.benchmark))
    bad = {each.build for each in found}
    mine = next((each for each in found if each.build == levels.base), None)
    instead = _nearest(levels, bad)
    if mine is not None and again:
        notes.insert(0, _named(mine, levels, verdict.benchmark, again=True))
    if mine is None or instead is None or again:
        return replace(verdict, notes=(*verdict.notes, *notes))
    notes.insert(0, _named(mine, levels, verdict.benchmark, instead=_name(levels.builds[instead])))
    other = levels.builds[instead].measurement(verdict.benchmark)
    if verdict.outcome is Outcome.FAIL and other is not None:
        mode = Mode(verdict.mode)
        imported = levels.builds[instead].environment.imported
        milder = judge_benchmark(
            diff_benchmark(other, after, mode, between=spread, imported=imported),
            policy,
            family=family,
        )
        if severity_of(milder.outcome) < severity_of(verdict.outcome):
            told = str(verdict.findings[0]).removeprefix(f"{verdict.benchmark}: ")
            notes.append(Note(NOT_CONFIRMED, f"{_ONLY_AGAINST}{told}", verdict.benchmark))
            verdict = milder
    return replace(verdict, notes=(*verdict.notes, *notes))


def _nearest(levels: Levels, bad: set[int]) -> int | None:
    """Return the build nearest to the baseline that nobody contradicts, an older one first."""
    good = [n for n in range(len(levels.builds)) if n not in bad and n != levels.base]
    key = {n: (abs(n - levels.base), n > levels.base) for n in good}
    return min(good, key=key.__getitem__, default=None)


def _name(run: Run) -> str:
    commit = run.commit[:10] or "a build outside git"
    return f"{commit} of {run.time[:10]}" if run.time else commit


def softened(verdicts: Iterable[BenchmarkVerdict]) -> bool:
    """Tell whether a failure was let pass because its baseline disagrees with its siblings."""
    return any(
        note.slug == NOT_CONFIRMED and note.text.startswith(_ONLY_AGAINST)
        for verdict in verdicts
        for note in verdict.notes
    )


def _named(
    each: Disagreement, levels: Levels, benchmark: str, *, instead: str = "", again: bool = False
) -> Note:
    count = len(levels.frames)
    frame = "the benchmark itself" if each.row == 0 else str(levels.frames[(each.row - 1) % count])
    growth = float(np.expm1(each.shift))
    sign = "more" if growth > 0 else "less"
    subject = "the baseline" if instead or again else "a build"
    words = (
        f"{subject}, {_name(levels.builds[each.build])}, disagrees with its siblings"
        f" ({frame} costs {percent(abs(growth))} % {sign} than in those before and after it):"
        " it was set aside"
    )
    if instead:
        words = words.replace("those before and after it", "those next to it")
        words += (
            f", and what fails must fail against {instead} too;"
            " record that commit once more to tell a bad recording from a change"
        )
    if again:
        words = words.replace("those before and after it: it was set aside", "those next to it")
        words += "; what was recorded beside this build is what counts"
    return Note("set-aside", words, benchmark)


def _crept(
    verdict: BenchmarkVerdict, after: Measurement, policy: Policy, family: int, history: History
) -> BenchmarkVerdict:
    """Add growth since the anchor that the gate does not see; it warns."""
    anchor = history.anchor
    assert anchor is not None  # noqa: S101 - the caller has looked
    mode = Mode(verdict.mode)
    here = anchor.measurement(verdict.benchmark)
    if here is None or mode not in here.modes or anchor.commit == history.base.commit:
        return verdict
    unlike = differences(anchor.environment, history.base.environment)
    if unlike:
        words = f"growth since the anchor {_name(anchor)} is not judged: {'; '.join(unlike)}"
        return replace(verdict, notes=(*verdict.notes, Note("anchor", words, verdict.benchmark)))
    spread = history.between(verdict.benchmark, mode)
    since = judge_benchmark(
        diff_benchmark(here, after, mode, between=spread, imported=anchor.environment.imported),
        policy,
        family=family,
    )
    said = {(str(each.frame), each.under) for each in verdict.findings}
    crept = tuple(
        _creeping(each, anchor, history, verdict)
        for each in since.findings
        if each.sort is Sort.GROWTH and (str(each.frame), each.under) not in said
    )
    return replace(
        verdict,
        findings=(*verdict.findings, *crept),
        outcome=worst([verdict.outcome, *(each.outcome for each in crept)]),
    )


def _creeping(found: Finding, anchor: Run, history: History, verdict: BenchmarkVerdict) -> Finding:
    return replace(
        found,
        outcome=Outcome.WARN,
        sort=Sort.CREEP,
        since=_name(anchor),
        cause=_steps(found, anchor, history, Mode(verdict.mode)) or found.cause,
    )


def _steps(found: Finding, anchor: Run, history: History, mode: Mode) -> str:
    """Say whether any build since the anchor grew past the limit by itself; empty: not known."""
    levels = history.levels(found.benchmark, mode)
    limit = found.rule.max_growth
    if levels is None or limit is None or limit.share is None:
        return ""
    row = levels.row(found.frame, own=found.self_only)
    if row is None or found.under:
        return ""
    since = [n for n, run in enumerate(levels.builds) if run.time >= anchor.time]
    known = [n for n in since if np.isfinite(levels.levels[row, n])]
    if len(known) < 2:  # noqa: PLR2004 - a step needs two
        return ""
    grown = np.expm1(np.diff(levels.levels[row, known]))
    largest = int(np.argmax(grown))
    # Its own noise must not make a step of it.
    error = float(np.sqrt(levels.noise[row, known[largest : largest + 2]].sum()))
    surely = noise.probability_above(
        float(np.log1p(grown[largest])), error, 8.0, float(np.log1p(limit.share))
    )
    if float(surely) >= found.rule.certainty:
        step = levels.builds[known[largest + 1]]
        return f"The largest step was {percent(float(grown[largest]))} % with {_name(step)}."
    return f"None of the last {len(known)} builds surely grew past its limit."
