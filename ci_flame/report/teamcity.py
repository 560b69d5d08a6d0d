"""Stage 6, pure: a Verdict as TeamCity's service messages, to be printed into the build log.

Reference: https://www.jetbrains.com/help/teamcity/service-messages.html. One line a message: a
test per benchmark, a statistic per benchmark (charts over builds), one build problem where the
verdict fails the build.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from ci_flame.profile import Mode
from ci_flame.report import alone, terminal
from ci_flame.report.findings import line, reasons, shown, worst_first
from ci_flame.verdict import BenchmarkVerdict, Outcome, Verdict
from ci_flame.verdict.absent import is_compared

NAME: Final = 400
"""Characters of a test's name; TeamCity cuts what is longer, and two names could become one."""
KEY: Final = 400
"""Characters of a statistic's key: at most 512."""
DETAILS: Final = 40
"""Lines of a failed test's details."""
NOTES: Final = 50
"""Notes on the build that are told."""
STATISTICS: Final = 500
"""Benchmarks with a statistic, the worst first: each is a chart that TeamCity keeps."""
_SPECIAL: Final = {"'": "|'", "\n": "|n", "\r": "|r", "|": "||", "[": "|[", "]": "|]"}


def render(verdict: Verdict, *, name: str = "") -> str:
    """Return the messages, one a line, ASCII alone; the same verdict gives the same bytes.

    `name` tells the legs of a matrix apart: the suite and the statistics are called by it.
    """
    suite = f"ci_flame {line(name, 100)}" if name else "ci_flame"
    lines = [message("testSuiteStarted", name=suite)]
    for each in verdict.benchmarks:
        lines += _test(each, verdict)
    lines.append(message("testSuiteFinished", name=suite))
    lines += [message("message", text=line(note.text)) for note in verdict.notes[:NOTES]]
    lines += _statistics(verdict, suite)
    lines += _problem(verdict, suite)
    return "\n".join(lines) + "\n"


def message(kind: str, **values: str) -> str:
    """Return one service message; no value can end it or begin another."""
    told = " ".join(f"{key}='{escaped(value)}'" for key, value in values.items())
    return f"##teamcity[{kind} {told}]"


def escaped(text: str) -> str:
    """Return a value as TeamCity reads it; what is not ASCII in UTF-16, as it has it."""
    return "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if " " <= letter <= "~":
        return letter
    data = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"|0x{data[i]:02X}{data[i + 1]:02X}" for i in range(0, len(data), 2))


def _test(each: BenchmarkVerdict, verdict: Verdict) -> Iterator[str]:
    test = _short(each, NAME)
    yield message("testStarted", name=test, captureStandardOutput="false")
    policy, reason = verdict.policy, reasons(each)
    absent = each.outcome is Outcome.NO_BASELINE
    missing = policy.baseline_required and not is_compared(verdict.benchmarks)
    unsure = each.outcome is Outcome.INCONCLUSIVE
    failed = [str(finding) for finding in each.findings if finding.outcome is Outcome.FAIL]
    if failed:
        details = "\n".join(line(one) for one in terminal.benchmark_lines(each)[:DETAILS])
        told = line(" ".join(failed))
        yield message("testFailed", name=test, message=told, details=details)
    elif (absent and missing) or (unsure and policy.inconclusive_fails):
        yield message("testFailed", name=test, message=f"{each.outcome.value}: {reason}")
    elif absent or unsure or each.left_out:
        yield message("testIgnored", name=test, message=f"{each.word}: {reason}")
    for finding in each.findings:
        if finding.outcome is Outcome.WARN:
            yield message("message", text=line(str(finding)), status="WARNING")
    yield message("testFinished", name=test)


def _statistics(verdict: Verdict, suite: str) -> Iterator[str]:
    """Yield the cost per iteration of each benchmark, in whole nanoseconds."""
    for each in [*worst_first(verdict)][:STATISTICS]:
        cost = _cost_ns(each)
        if cost is not None:
            key = f"{suite}: {_short(each, KEY - len(suite))}, ns per iteration"
            yield message("buildStatisticValue", key=key, value=str(round(cost)))


def _cost_ns(each: BenchmarkVerdict) -> float | None:
    if each.diff is not None:
        return each.diff.total.after_ns
    told = alone.document(each.alone, Mode(each.mode)) or {}
    cost = told.get("per_iteration_ns")
    return cost if isinstance(cost, float) else None


def _problem(verdict: Verdict, suite: str) -> Iterable[str]:
    policy = verdict.policy
    fails = (
        verdict.outcome is Outcome.FAIL
        or (verdict.outcome is Outcome.INCONCLUSIVE and policy.inconclusive_fails)
        or (policy.baseline_required and not is_compared(verdict.benchmarks))
    )
    if not fails:
        return ()
    first = next((f" {one.sentence}" for one in shown(verdict)), "")
    told = line(f"{terminal.headline(verdict)}{first}", 3_900)
    # The identity must be a Java identifier of at most 60 characters.
    mark = hashlib.sha256(suite.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return (message("buildProblem", description=told, identity=f"ci_flame_{mark}"),)


def _short(each: BenchmarkVerdict, room: int) -> str:
    """Return a benchmark's name in so many characters; what is cut keeps a mark of the whole."""
    mode = "" if each.mode == Mode.ON_CPU else f" ({each.mode})"
    whole = each.benchmark + mode
    told = line(whole, room)
    if told == whole:
        return told
    mark = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{line(whole, max(room - 9, 9))} {mark}"
