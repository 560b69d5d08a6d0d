"""Stage 6, pure: a Verdict as the code quality report of GitLab, which reads Code Climate's issues.

Reference: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format. GitLab
stops reading at the first entry that lacks a key, so that every finding gets a file.
"""

import json
from typing import Final

from ci_flame.report.findings import Shown, line, shown
from ci_flame.verdict import Outcome, Verdict

ENTRIES: Final = 1_000
"""Entries, the worst first; `verdict.json` has all."""
SEVERITIES: Final = {Outcome.FAIL: "critical", Outcome.WARN: "minor"}


def render(verdict: Verdict, *, name: str = "") -> str:
    """Return the JSON array; empty where nothing was found, which closes what was known.

    `name` tells the legs of a matrix apart: GitLab takes equal fingerprints for one issue.
    """
    entries = [_entry(one) for one in shown(verdict, name=name)[:ENTRIES]]
    return json.dumps(entries, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def _entry(one: Shown) -> dict[str, object]:
    return {
        "type": "issue",
        "check_name": f"ci_flame/{one.finding.sort.value}",
        "description": one.sentence,
        "categories": ["Performance"],
        "fingerprint": one.fingerprint,
        "severity": SEVERITIES[one.finding.outcome],
        "location": {"path": line(one.spot.file), "lines": {"begin": one.spot.line}},
    }
