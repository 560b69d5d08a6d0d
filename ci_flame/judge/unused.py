"""Stage 5, pure: rules that name nothing, so that a slip of the pen is no open gate.

A rule on `shopp.parser:*` judges nothing and could never fail. It is told with the name that it may
have meant; where no rule names anything, nothing was judged, and the build is no PASS.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from ci_flame.diff.evidence import Evidence
from ci_flame.judge.family import matched_nodes
from ci_flame.policy import Policy, Rule, gates_total, matches_frames
from ci_flame.profile import Frame, Kind
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome

SLUG: Final = "rule-unused"
_LIKE: Final = 0.6
_LOOKED_AT: Final = 2000
"""Names among which the one that was meant is looked for."""


def unused(verdicts: Sequence[BenchmarkVerdict], policy: Policy) -> tuple[list[Note], Outcome]:
    """Return a note for each rule on functions that named none, and what that makes of the build.

    PASS but where every rule is such a one: then INCONCLUSIVE. Of builds in which nothing was
    compared nothing is said.
    """
    rules = [rule for rule in policy.rules if not rule.metric and rule.place != "default"]
    compared = [
        (each, each.diff.columns.evidence)
        for each in verdicts
        if each.diff is not None and each.diff.columns is not None
    ]
    if not rules or not compared:
        return [], Outcome.PASS
    modes = {each.mode for each, _ in compared}
    idle = [rule for rule in rules if rule.mode in modes and not _used(rule, compared)]
    notes = [Note(SLUG, _words(rule, compared)) for rule in idle]
    nothing = bool(idle) and len(idle) == len([rule for rule in policy.rules if rule.mode in modes])
    if nothing:
        notes.append(Note(SLUG, "no rule names anything that was recorded: nothing was judged"))
    return notes, Outcome.INCONCLUSIVE if nothing else Outcome.PASS


def _used(rule: Rule, compared: Iterable[tuple[BenchmarkVerdict, Evidence]]) -> bool:
    return any(
        rule.applies_to(each.benchmark, each.mode) and _names(rule, evidence)
        for each, evidence in compared
    )


def _names(rule: Rule, evidence: Evidence) -> bool:
    """Tell whether the rule names a function or a path of a benchmark, or the benchmark itself."""
    if gates_total(rule) or any(matches_frames(rule.frames, evidence.frames)):
        return True
    return bool(rule.paths) and bool(matched_nodes(evidence, rule))


def _words(rule: Rule, compared: Sequence[tuple[BenchmarkVerdict, Evidence]]) -> str:
    """Return which part of a rule names nothing, and what is near to it."""
    place = f"{rule.place}: " if rule.place else ""
    where = [each for each, _ in compared if each.mode == rule.mode]
    if not any(rule.applies_to(each.benchmark, each.mode) for each in where):
        near = _near(rule.benchmarks, [each.benchmark for each in where])
        return f"{place}no benchmark of this build is {_listed(rule.benchmarks)}{near}"
    frames: dict[Frame, None] = {}
    for _, evidence in compared:
        frames |= dict.fromkeys(evidence.frames)
    names = [str(frame) for frame in frames if frame.kind is not Kind.KERNEL]
    near = _near(rule.frames, names)
    what = "call path" if rule.paths else "function"
    return f"{place}no {what} that was recorded is {_listed(rule.frames)}: it judges nothing{near}"


def _listed(globs: Sequence[str]) -> str:
    return " or ".join(f"`{glob}`" for glob in globs if not glob.startswith("!")) or "left"


def _near(globs: Sequence[str], names: Sequence[str]) -> str:
    """Return the nearest of the names, in words; empty: none is near."""
    for glob in globs:
        if glob.startswith("!") or ";" in glob:
            continue
        module, colon, function = glob.partition(":")
        if colon and any(sign in function for sign in "*?["):
            found = _closest(module, [name.partition(":")[0] for name in names])
            if found:
                return f" (did you mean `{found}:{function}`?)"
            continue
        found = _closest(glob, names)
        if found:
            return f" (did you mean `{found}`?)"
    return ""


def _closest(word: str, names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))[:_LOOKED_AT]
    found = get_close_matches(word, known, n=1, cutoff=_LIKE)
    return found[0] if found else ""
