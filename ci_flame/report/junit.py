"""Stage 6, pure: a Verdict as JUnit XML, one test case per benchmark.

The failure's message is the finding's sentence. What was not judged (no baseline, machines
that may not be compared) is `skipped` with the reason, or `error` where the policy makes
it fail the build.
"""

import unicodedata
from typing import Final

from junit_xml import TestCase, TestSuite, to_xml_report_string

from ci_flame.report import terminal
from ci_flame.report.words import visible
from ci_flame.verdict import BenchmarkVerdict, Outcome, Verdict

NO_CHARACTER: Final = 0xFFFE


def render(verdict: Verdict) -> str:
    """Return the XML document; the same verdict gives the same bytes (no time, no host)."""
    cases = [_case(each, verdict) for each in verdict.benchmarks]
    suite = TestSuite(
        "ci-flame", cases, stdout=_legal("\n".join(n.text for n in verdict.notes)) or None
    )
    return str(to_xml_report_string([suite], encoding="utf-8"))


def _case(each: BenchmarkVerdict, verdict: Verdict) -> TestCase:
    file, _, name = each.benchmark.rpartition("::")
    module, *classes = file.split("::")
    classname = ".".join([module.removesuffix(".py").replace("/", "."), *classes])
    case = TestCase(
        _legal(name or each.benchmark) + ("" if each.mode == "on-cpu" else f" ({each.mode})"),
        classname=_legal(classname) or "ci-flame",
        file=_legal(module) or None,
        stdout=_legal("\n".join(terminal.benchmark_lines(each, width=120))),
        allow_multiple_subelements=True,
    )
    for finding in each.findings:
        if finding.outcome is Outcome.FAIL:
            where = f"{finding.place.file}:{finding.place.line}\n" if finding.place else ""
            path = "\n".join(map(str, finding.path))
            case.add_failure_info(_legal(str(finding)), _legal(where + path), "ci_flame.growth")
    reason = _legal(" ".join(visible(note.text) for note in each.notes)) or each.outcome.value
    policy = verdict.policy
    if each.outcome is Outcome.INCONCLUSIVE:
        if policy.inconclusive_fails:
            case.add_error_info(reason, error_type="ci_flame.inconclusive")
        else:
            case.add_skipped_info(reason)
    if each.outcome is Outcome.NO_BASELINE:
        if policy.baseline_required:
            case.add_error_info(reason, error_type="ci_flame.no_baseline")
        else:
            case.add_skipped_info(reason)
    return case


def _legal(text: str) -> str:
    """Return the text with what XML 1.0 cannot carry written as escapes.

    junit-xml would drop such characters silently, and two names would become one.
    """
    return "".join(
        letter if letter in "\t\n" or not _illegal(letter) else ascii(letter)[1:-1]
        for letter in text
    )


def _illegal(letter: str) -> bool:
    # Every plane ends in two code points that are no characters: U+FFFE, U+FFFF, U+1FFFE …
    return unicodedata.category(letter) in {"Cc", "Cs"} or ord(letter) % 0x10000 >= NO_CHARACTER
