"""Edge, pure: what is told of a build -> annotations at the lines of the guilty functions.

GitHub keeps ten of each level for a whole composite action, and drops the others without a
word, so the most important come first, one function is one annotation, and room is left for
what other steps have to say: the gate's last line, a missing permission, the collector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.github.verdict_json import Told, ToldBenchmark, ToldFinding, Where
from ci_flame.report.words import cut, plural, split_id, visible
from ci_flame.verdict import Outcome
from ci_flame.verdict.absent import BROKEN, NEW

MAX_ERRORS: Final = 9
"""Of GitHub's ten; the last is the gate's."""
MAX_WARNINGS: Final = 6
"""Of GitHub's ten; baseline, upload and comment may each have one to say."""
MAX_NOTICES: Final = 4
MAX_TITLE: Final = 200
MAX_SENTENCE: Final = 3_000
"""Of the 4,096 characters that the runner keeps of a message."""
_OTHERS: Final = 5
"""Further benchmarks that an annotation names."""
_ROOM: Final = {"error": MAX_ERRORS, "warning": MAX_WARNINGS, "notice": MAX_NOTICES}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation; without a file it is at the head of the build."""

    level: str
    """`error`, `warning` or `notice`."""
    title: str
    message: str
    file: str = ""
    line: int = 0


def annotations(told: Told) -> tuple[Annotation, ...]:
    """Return at most MAX_ERRORS, MAX_WARNINGS and MAX_NOTICES, the most important first.

    Failures by impact, then warnings and what weakens the gate, then what could not be judged
    and what is new. What is found in several benchmarks at one function is told once, in the
    words of the most important.
    """
    by_level: dict[str, list[Annotation]] = {level: [] for level in _ROOM}
    for group in _groups(told.findings):
        by_level[_level(group[0])].append(_found(group))
    by_level["warning"] += [_at(None, "warning", "ci-flame", each) for each in told.warnings]
    by_level["warning"] += [_unrun(group) for group in _broken(told)]
    by_level["notice"] += [_unjudged(group) for group in _undecided(told)]
    by_level["notice"] += _added(told)
    return tuple(each for level, most in _ROOM.items() for each in by_level[level][:most])


def left_out(told: Told) -> int:
    """Return how many functions have a finding and no annotation."""
    groups = _groups(told.findings)
    return sum(
        max(0, sum(_level(group[0]) == level for group in groups) - most)
        for level, most in _ROOM.items()
    )


def _level(first: ToldFinding) -> str:
    return "error" if first.outcome is Outcome.FAIL else "warning"


def _groups(findings: Sequence[ToldFinding]) -> list[list[ToldFinding]]:
    """Return findings of one function and outcome together, in the order of the first of each."""
    groups: dict[tuple[object, ...], list[ToldFinding]] = {}
    for each in findings:
        # What is no code (`[total]`, a metric) is another thing in every benchmark.
        of = each.benchmark if each.function.startswith("[") else each.where
        groups.setdefault((each.outcome, each.function, of), []).append(each)
    return list(groups.values())


def _undecided(told: Told) -> list[list[ToldBenchmark]]:
    """Return benchmarks that could not be judged, those of one reason together."""
    groups: dict[str, list[ToldBenchmark]] = {}
    for each in told.benchmarks:
        if each.outcome is Outcome.INCONCLUSIVE and not each.findings:
            groups.setdefault(each.notes[0] if each.notes else "", []).append(each)
    return list(groups.values())


def _found(group: Sequence[ToldFinding]) -> Annotation:
    first = group[0]
    title = f"{_short(first.benchmark)}: {first.function}"
    return _at(first.where, _level(first), title, _message(first.sentence, group))


def _unjudged(group: Sequence[ToldBenchmark]) -> Annotation:
    first = group[0]
    why = first.notes[0] if first.notes else "the report says why"
    title = f"{_short(first.benchmark)}: inconclusive"
    return _at(first.where, "notice", title, _message(f"{first.benchmark}: {why}", group))


def _broken(told: Told) -> list[list[ToldBenchmark]]:
    """Return benchmarks that the base commit cannot run, those of one reason together."""
    groups: dict[str, list[ToldBenchmark]] = {}
    for each in told.benchmarks:
        if each.absent == BROKEN:
            groups.setdefault(each.notes[0], []).append(each)
    return list(groups.values())


def _unrun(group: Sequence[ToldBenchmark]) -> Annotation:
    first = group[0]
    title = f"{_short(first.benchmark)}: not compared"
    return _at(
        first.where, "warning", title, _message(f"{first.benchmark}: {first.notes[0]}", group)
    )


def _added(told: Told) -> list[Annotation]:
    """Return one annotation that names what is new beside benchmarks that were compared."""
    new = [each for each in told.benchmarks if each.absent == NEW]
    if not new or not any(not each.absent for each in told.benchmarks):
        return []
    words = f"{new[0].benchmark} is new: there was nothing to compare it with, and it fails nothing"
    return [_at(new[0].where, "notice", f"{_short(new[0].benchmark)}: new", _message(words, new))]


def _at(where: Where | None, level: str, title: str, message: str) -> Annotation:
    file, line = ("", 0) if where is None else (where.file, where.line)
    return Annotation(level, cut(visible(title), MAX_TITLE), message, file, line)


def _message(told: str, group: Sequence[ToldFinding | ToldBenchmark]) -> str:
    """Return a message that names the first benchmarks of those that it holds for."""
    message = cut(visible(told), MAX_SENTENCE)
    others = list(dict.fromkeys(each.benchmark for each in group if each is not group[0]))
    others = [name for name in others if name != group[0].benchmark]
    if not others:
        return message
    names = ", ".join(cut(visible(name), 120) for name in others[:_OTHERS])
    more = f" and {plural(len(others) - _OTHERS, 'benchmark')} more" * (len(others) > _OTHERS)
    return f"{message}\nAlso in {names}{more}."


def _short(benchmark: str) -> str:
    """Return the test's own name: the title is short, the sentence has the whole id."""
    return split_id(benchmark)[1] or benchmark
