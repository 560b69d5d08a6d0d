"""Stage 6, pure: a Verdict as SARIF 2.1.0, for GitHub code scanning and editors that read it.

Reference: https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/ and, for what GitHub shows
of it and its limits, docs.github.com "SARIF support for code scanning".
"""

import json
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_from_bytes

import ci_flame
from ci_flame.profile import TOTAL
from ci_flame.report.findings import NAME, Shown, line, reasons, shown
from ci_flame.report.words import plural
from ci_flame.verdict import Finding, Outcome, Sort, Verdict
from ci_flame.verdict.located import Spot, path_spots, policy_spot

RESULTS: Final = 5_000
"""GitHub refuses a run of more than 25,000 results and keeps the 5,000 worst."""
FLOWS: Final = 200
"""Results that tell the call path, the worst first: a file may have 10 MB, compressed."""
STEPS: Final = 100
"""Functions of a call path, the innermost."""
SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
ROOT: Final = "%SRCROOT%"

Json = dict[str, object]

NEW_COST: Final = "new-cost"
EXPIRED: Final = "waiver-expired"
RULES: Final = {
    Sort.GROWTH.value: (
        "HotPathGrew",
        "A function or call path grew past its limit",
        (
            "Its cost per iteration of the benchmark, callees included, grew by more than"
            " `max_growth` of the policy allows, and by more than noise can explain."
        ),
    ),
    NEW_COST: (
        "NewCost",
        "A function that was not there before takes more than it may",
        "The baseline has no such function. What is new may take `min_impact` of the benchmark.",
    ),
    Sort.BUDGET.value: (
        "OverBudget",
        "A function or call path costs more than its budget",
        "Its cost is past `budget` of the policy, whatever it was before.",
    ),
    Sort.METRIC.value: (
        "MetricOverLimit",
        "A metric is past its limit",
        (
            "A figure that was measured beside the stacks is past `max`, or grew by more than"
            " `max_growth`."
        ),
    ),
    Sort.COUNT.value: (
        "ExactCountGrew",
        "A function executes more bytecodes or makes more calls than it may",
        "Bytecodes and calls of one iteration are counted exactly: there is no noise in them.",
    ),
    Sort.CREEP.value: (
        "SlowCreep",
        "A function or call path grew past its limit since the anchor",
        "No build of its own broke the limit: the growth since the fixed anchor does.",
    ),
    EXPIRED: (
        "WaiverExpired",
        "A waiver has ended and what it let pass counts again",
        "Renew the waiver in the policy with a reason, or remove it.",
    ),
}
"""Rule id -> name, title, text."""
_INDEX: Final = {name: number for number, name in enumerate(RULES)}


def render(verdict: Verdict, *, name: str = "") -> str:
    """Return the log file; the same verdict gives the same bytes (no time, no host).

    `name` tells the legs of a matrix apart.
    """
    text = json.dumps(document(verdict, name=name), ensure_ascii=True, allow_nan=False, indent=1)
    return text + "\n"


def document(verdict: Verdict, *, name: str = "") -> Json:
    """Return the log file as plain values."""
    found, passed = shown(verdict, name=name), shown(verdict, name=name, waived=True)
    expired = _expired(verdict)
    results = [_result(one, verdict, flow=n < FLOWS) for n, one in enumerate(found)]
    results += [*map(_of_waiver, expired), *(_result(one, verdict, flow=False) for one in passed)]
    run: Json = {
        "tool": {
            "driver": {
                "name": "ci_flame",
                "version": ci_flame.__version__,
                "rules": [_rule(key) for key in RULES],
            }
        },
        # The columns of names that are not ASCII would be counted differently without it.
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {ROOT: {"description": {"text": "The root of the repository."}}},
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    *_notifications(verdict),
                    *_left_out(len(results) - RESULTS),
                ],
            }
        ],
        "results": results[:RESULTS],
        "properties": {"outcome": verdict.outcome.value},
    }
    if name:
        # The part before the last slash is what GitHub takes for the category.
        run["automationDetails"] = {"id": f"ci_flame/{line(name, NAME)}/"}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(key: str) -> Json:
    name, title, text = RULES[key]
    level = "note" if key == EXPIRED else "error"
    return {
        "id": key,
        "name": name,
        "shortDescription": {"text": title},
        "fullDescription": {"text": text},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": level},
        "properties": {
            "tags": ["performance"],
            "precision": "high",
            "problem.severity": "recommendation" if key == EXPIRED else "error",
        },
    }


def _result(one: Shown, verdict: Verdict, *, flow: bool) -> Json:
    finding = one.finding
    level = "error" if finding.outcome is Outcome.FAIL else "warning"
    key = _rule_of(finding)
    result: Json = {
        "ruleId": key,
        "ruleIndex": _INDEX[key],
        # GitHub shows what is suppressed like everything else.
        "level": "note" if finding.waiver else level,
        "message": {"text": one.sentence},
        "locations": [_location(one.spot) | {"logicalLocations": [_logical(finding)]}],
        "partialFingerprints": {"ciFlame/v1": one.fingerprint},
        "properties": {"benchmark": line(finding.benchmark, NAME), "mode": str(finding.mode)},
    }
    steps = _steps(one, verdict) if flow else []
    if len(steps) > 1:
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    if finding.waiver is not None:
        until = f"until {finding.waiver.until.isoformat()}: {finding.waiver.reason}"
        result["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": line(until)}
        ]
    return result


def _rule_of(finding: Finding) -> str:
    new = finding.sort is Sort.GROWTH and finding.figure is None and not finding.change.before_ns
    return NEW_COST if new else finding.sort.value


def _location(spot: Spot) -> Json:
    artifact = {"uri": uri(spot.file), "uriBaseId": ROOT}
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": spot.line}}}


def uri(file: str) -> str:
    """Return a path as a relative reference, of ASCII alone.

    Names that are not UTF-8 carry their bytes as lone surrogates, which are bytes again here.
    """
    try:
        data = file.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = file.encode("utf-8", "surrogatepass")
    return quote_from_bytes(data, safe="/")


def _logical(finding: Finding) -> Json:
    name = finding.benchmark if finding.frame == TOTAL else str(finding.frame)
    return {"fullyQualifiedName": line(name, NAME), "kind": "function"}


def _steps(one: Shown, verdict: Verdict) -> list[Json]:
    """Return the call path: the functions of the repository on it, outermost first."""
    finding = one.finding
    nodes = {} if one.each.diff is None else {n.path[-1]: n.total for n in one.each.diff.paths
                                              if finding.path[: len(n.path)] == n.path}  # fmt: skip
    steps: list[Json] = []
    for frame, spot in path_spots(finding, one.each, verdict)[-STEPS:]:
        told = line(str(frame), NAME)
        if (node := nodes.get(frame)) is not None:
            told += f", {node.after_share * 100:.1f} % of the benchmark"
        steps.append({"location": _location(spot) | {"message": {"text": told}}})
    return steps


def _expired(verdict: Verdict) -> list[tuple[str, Spot]]:
    """Return the waivers that have ended and still have something to let pass."""
    found: dict[tuple[str, Spot], None] = {}
    for waiver in verdict.policy.waivers:
        if not waiver.expired(verdict.policy.today):
            continue
        names = dict.fromkeys(
            str(finding.frame)
            for each in verdict.benchmarks
            for finding in each.findings
            if waiver.covers(finding.benchmark, finding.path)
        )
        if names:
            text = (
                f"The waiver of {', '.join(names)} ended on {waiver.until.isoformat()}:"
                f" {waiver.reason}"
            )
            found[line(text), policy_spot(waiver.place, verdict.located)] = None
    return list(found)


def _of_waiver(expired: tuple[str, Spot]) -> Json:
    text, spot = expired
    return {
        "ruleId": EXPIRED,
        "ruleIndex": _INDEX[EXPIRED],
        "level": "note",
        "message": {"text": text},
        "locations": [_location(spot)],
    }


def _notifications(verdict: Verdict) -> Iterable[Json]:
    """Yield what is no finding: notes on the build, benchmarks that could not be judged."""
    for note in verdict.notes:
        yield {"level": "note", "message": {"text": line(note.text)}}
    for each in verdict.benchmarks:
        if each.outcome in {Outcome.INCONCLUSIVE, Outcome.NO_BASELINE}:
            level = "warning" if each.outcome is Outcome.INCONCLUSIVE else "note"
            told = f"{line(each.benchmark, NAME)}: {each.outcome.value}. {reasons(each)}"
            yield {"level": level, "message": {"text": told}}


def _left_out(number: int) -> list[Json]:
    if number <= 0:
        return []
    text = f"{plural(number, 'result')} left out: GitHub keeps {RESULTS:,}; verdict.json has all."
    return [{"level": "warning", "message": {"text": text}}]
