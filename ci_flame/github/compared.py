"""Edge, pure: what a check was really compared with, told by its verdict.

The step that looks for a baseline runs before the check, and the check may record the base
commit instead of what was found, or beside it to confirm a failure.
"""

from dataclasses import dataclass, replace

from ci_flame.github.verdict_json import Told


@dataclass(frozen=True, slots=True)
class Compared:
    """The before side of a build; every text may be empty: not known."""

    word: str = ""
    """For `--baseline`."""
    source: str = ""
    """`given`, `artifact`, `ancestor`, `rerun` or `none`."""
    sha: str = ""
    distance: int | None = None
    """First-parent commits from the base commit to it; None: not known."""
    told: str = ""
    """What it is, or why there is none, in one line."""
    again: str = ""
    """Commit that was recorded for a part of the benchmarks, those that failed; empty: none."""

    def outputs(self) -> dict[str, str]:
        """Return the outputs of a step."""
        return {
            "baseline": self.word,
            "baseline_sha": self.sha,
            "baseline_distance": "" if self.distance is None else str(self.distance),
            "baseline_source": self.source,
            "baseline_told": self.told,
        }


def really(told: Told | None, found: Compared) -> Compared:
    """Return what a check was compared with, of which `found` was to be."""
    if told is None or not told.before_commit:
        return found
    sides = {each.recorded for each in told.benchmarks if each.total is not None}
    whole = told.recorded or (sides.pop() if len(sides) == 1 else "")
    if whole:
        return _recorded(whole, found)
    again = next((each for each in sorted(sides) if each), "")
    if found.sha and found.sha != told.before_commit:
        # Something else was found, and nobody says what this is.
        return Compared(sha=told.before_commit, again=again)
    return replace(found, sha=told.before_commit, again=again)


def _recorded(sha: str, found: Compared) -> Compared:
    """Return a commit that was recorded in the job instead of what was found."""
    return Compared(
        word=f"rerun:{sha}",
        source="rerun",
        sha=sha,
        # What is recorded is the base commit itself, unless that is not to be had.
        distance=found.distance if sha == found.sha else 0,
        told=f"baseline {sha[:10]}, recorded in this job",
    )
