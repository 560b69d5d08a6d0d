"""Stage 6, pure: the findings of a build in one order, each with a name that outlives its figures.

CI systems that keep findings between builds (code scanning, code quality) tell by a fingerprint
which of them they know. It holds who grew and what was asked, no line and no number: those differ
from build to build.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from ci_flame.report.words import ELLIPSIS, visible
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome, Verdict, severity_of
from ci_flame.verdict.located import Spot, spot

MESSAGE: Final = 4_000
"""Characters of a sentence that is shown elsewhere; with names of 100 kB its middle is left out."""
NAME: Final = 300
"""Characters of a name beside a sentence."""


class Shown(NamedTuple):
    """One finding as CI systems are told of it."""

    finding: Finding
    each: BenchmarkVerdict
    spot: Spot
    fingerprint: str
    """64 hex digits; no two findings of a build have the same."""

    @property
    def sentence(self) -> str:
        """The sentence, on one line."""
        return line(str(self.finding))


def line(text: str, limit: int = MESSAGE) -> str:
    """Return text on one line without control characters, its middle left out past the limit."""
    told = visible(text)
    if len(told) <= limit:
        return told
    # By characters: `words.cut` counts the columns of a terminal, which takes long at this length.
    head = (limit - 1) // 2
    return told[:head] + ELLIPSIS + told[head + 1 - limit :]


def shown(verdict: Verdict, *, name: str = "", waived: bool = False) -> list[Shown]:
    """Return the findings, failures first, those that cost most first among them.

    `name` tells builds of one commit apart (the legs of a matrix); `waived`: instead of them
    those that a waiver lets pass.
    """
    seen: Counter[str] = Counter()
    found = []
    for each in verdict.benchmarks:
        for finding in each.waived if waived else each.findings:
            key = _key(finding, name)
            number = seen[key]
            seen[key] += 1
            whole = f"{key}\0{number}" if number else key
            mark = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
            found.append(Shown(finding, each, spot(finding, each, verdict), mark))
    found.sort(key=lambda one: (one.finding.outcome is not Outcome.FAIL, -_impact(one.finding)))
    return found


def _key(finding: Finding, name: str) -> str:
    metric = finding.figure.name if finding.figure else ""
    own = "own" if finding.self_only else ""
    words = (name, finding.benchmark, finding.mode, finding.sort, str(finding.frame), finding.under,
             metric, own)  # fmt: skip
    return "\0".join(words)


def _impact(finding: Finding) -> float:
    return finding.change.after_ns - finding.change.before_ns


def reasons(each: BenchmarkVerdict) -> str:
    """Return the notes of a benchmark as one line: why it was not judged comes first."""
    return line(" ".join(f"{note.text.removesuffix('.')}." for note in each.notes))


def worst_first(verdict: Verdict) -> Iterator[BenchmarkVerdict]:
    """Yield the benchmarks, the worst outcome first, in their own order otherwise."""
    yield from sorted(verdict.benchmarks, key=lambda each: -severity_of(each.outcome))
