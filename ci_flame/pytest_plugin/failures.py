"""Edge: tells the step of a job which tests failed, and why, where it is no growth.

Registered where a step of a job asks (`pipeline.reasons`). A hot path that grew is told by the
verdict, and not here.
"""

from pathlib import Path

import pytest

from ci_flame.pipeline import reasons

_JUDGED = "Captured ci-flame call"
"""Section of the report of a test that was judged: its failure is the verdict's."""


class Failures:
    """Writes a line for each test or file that failed."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell a test that failed, whatever part of it."""
        judged = report.when == "call" and any(name == _JUDGED for name, _ in report.sections)
        if report.failed and not judged:
            part = "" if report.when == "call" else f" in its {report.when}"
            reasons.tell(self._place, f"{report.nodeid} failed{part}: {_cause(report)}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell a file that could not be collected."""
        if report.failed:
            reasons.tell(self._place, f"{report.nodeid} cannot be collected: {_cause(report)}")

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell an error of pytest or of a plugin."""
        reasons.tell(self._place, f"pytest: {excinfo.exconly(tryshort=True)}")


def _cause(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the line that says what was raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in text.splitlines() if line.startswith("E   ")]
    if raised:  # of an import, whose first line only says that it failed
        return raised[-1][1:].strip()
    return lines[0] if lines else "no reason was given"
