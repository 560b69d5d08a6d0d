"""Edge: findings labelled by `git diff`: changed in this diff, calls what changed, not touched.

git is asked when there is a finding to label, and once. What was found goes into the report
folder with the policy, so that `ci-flame explain` says the same without the repository.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from ci_flame.baseline import changes, git
from ci_flame.config.baselines import NO_REVISION
from ci_flame.errors import BaselineError
from ci_flame.profile import Frame, Kind, Measurement
from ci_flame.symbols import line_tables
from ci_flame.verdict import BenchmarkVerdict, Finding, Note
from ci_flame.verdict.touch import Touched

SLUG: Final = "changed-since"


class Labels:
    """The diff between a revision and what was measured, and what it touched."""

    def __init__(
        self,
        asked: str,
        commit: str,
        start: Path,
        *,
        after: str = "",
        dirty: bool = True,
        told: str = "the baseline's commit",
    ) -> None:
        """Take the revision that was asked for, or the baseline's commit where none was.

        `told` is what that commit is called. The after side is the commit `after`; the work tree
        of `start` where it is empty, or HEAD and `dirty`. Raises BaselineError where what was
        asked for does not exist.
        """
        self.note: Note | None = None
        """Why there are no labels, where there should be some."""
        self.touched: Touched | None = None
        """Of every benchmark that was labelled."""
        self._asked = asked
        self._commit = commit
        self._start = start
        self._told = told
        self._after = after
        self._dirty = dirty
        self._changes: changes.Changes | None = None
        if asked and asked != NO_REVISION:
            self._commit = git.resolve(asked, git.top_level(start))

    def of(self, verdicts: Iterable[BenchmarkVerdict], after: Measurement | None) -> Touched | None:
        """Return what the diff touched of a benchmark that has findings; None without any."""
        verdicts = tuple(verdicts)
        findings = [f for each in verdicts for f in each.findings if f.of_code]
        if not findings or after is None or not self._find():
            return None
        assert self._changes is not None  # noqa: S101 - _find says so
        found = changes.touched(self._changes, after.places)
        if self._after in {"", git.state(self._start).commit}:
            # Only then were the files that lie here built from what was measured.
            native = line_tables.touched(self._changes, _native(findings, verdicts))
            found = replace(
                found,
                spots={**found.spots, **native.spots},
                native=native.known,
                unlined=native.unlined,
            )
        self.touched = found if self.touched is None else self.touched | found
        return found

    def _find(self) -> bool:
        """Ask git, once; tell whether it knows."""
        if self._changes is not None:
            return True
        if self.note is not None or not self._commit or self._asked == NO_REVISION:
            return False
        told = f"--changed-since {self._asked}" if self._asked else self._told
        try:
            self._changes = changes.find(
                self._commit, told, self._start, after=self._after, dirty=self._dirty
            )
        except BaselineError as error:
            cure = f" ({error.hint})" if error.hint else ""
            words = f"whose change it is cannot be told: {error.message}{cure}"
            self.note = Note(SLUG, words)
            return False
        return True


def _native(findings: Iterable[Finding], verdicts: Iterable[BenchmarkVerdict]) -> list[Frame]:
    """Return the native functions that findings are about, or that may run below them."""
    frames = {each.frame for each in findings}
    for each in verdicts:
        if each.diff is not None:
            frames.update(node.path[-1] for node in each.diff.paths if node.path)
    return sorted(each for each in frames if each.kind is Kind.NATIVE)
