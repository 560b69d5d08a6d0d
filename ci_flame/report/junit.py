"""Stage 6, pure: a Verdict as JUnit XML, one test case per benchmark.

The failure's message is the finding's sentence. What was not judged (no baseline, machines
that may not be compared) is `skipped` with the reason, or `error` where the policy makes
it fail the build.
"""

import unicodedata
from typing import Final

from junit_xml import TestCase, TestSuite, to_xml_report_string

from ci_flame.report import terminal
from ci_flame.report.findings import reasons
from ci_flame.report.words import split_id
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome, Verdict
from ci_flame.verdict.absent import is_compared
from ci_flame.verdict.located import benchmark_spot, spot

NO_CHARACTER: Final = 0xFFFE


def render(verdict: Verdict) -> str:
    """Return the XML document; the same verdict gives the same bytes (no time, no host)."""
    cases = [_case(each, verdict) for each in verdict.benchmarks]
    suite = TestSuite(
        "ci-flame", cases, stdout=_legal("\n".join(n.text for n in verdict.notes)) or None
    )
    return str(to_xml_report_string([suite], encoding="utf-8"))


def _case(each: BenchmarkVerdict, verdict: Verdict) -> TestCase:
    file, name = split_id(each.benchmark)
    module, *classes = file.split("::")
    classname = ".".join([module.removesuffix(".py").replace("/", "."), *classes])
    here = benchmark_spot(each, verdict)
    case = TestCase(
        _legal(name or each.benchmark) + ("" if each.mode == "on-cpu" else f" ({each.mode})"),
        classname=_legal(classname) or "ci-flame",
        # From the repository's root: GitLab links it.
        file=_legal(here.file if here else module) or None,
        line=here.line if here else None,
        stdout=_legal("\n".join(terminal.benchmark_lines(each, width=120))),
        allow_multiple_subelements=True,
    )
    failed = [finding for finding in each.findings if finding.outcome is Outcome.FAIL]
    if failed:
        # One failure a case: of several Jenkins shows the first, GitLab a list as it is printed.
        text = "\n\n".join(_details(finding, each, verdict) for finding in failed)
        told = " ".join(map(str, failed))
        case.add_failure_info(_legal(told), _legal(text), "ci_flame.growth")
    reason = _legal(reasons(each)) or each.outcome.value
    policy = verdict.policy
    if each.left_out:
        case.add_skipped_info(reason)
    if each.outcome is Outcome.INCONCLUSIVE:
        if policy.inconclusive_fails:
            case.add_error_info(reason, error_type="ci_flame.inconclusive")
        else:
            case.add_skipped_info(reason)
    if each.outcome is Outcome.NO_BASELINE:
        if policy.baseline_required and not is_compared(verdict.benchmarks):
            case.add_error_info(reason, error_type="ci_flame.no_baseline")
        else:
            case.add_skipped_info(reason)
    return case


def _details(finding: Finding, each: BenchmarkVerdict, verdict: Verdict) -> str:
    """Return the sentence, where it is and the call path to it."""
    where = spot(finding, each, verdict)
    path = "\n".join(map(str, finding.path))
    return f"{finding}\n{where.file}:{where.line}\n{path}"


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
