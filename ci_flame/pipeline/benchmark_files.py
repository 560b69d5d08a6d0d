"""Edge: a benchmark whose own file is not the one that what is stored ran.

What changed in the benchmark itself is no growth of the code, and what it saves is none either.
"""

from collections.abc import Iterable
from pathlib import Path

from ci_flame.baseline import git
from ci_flame.profile import Run
from ci_flame.verdict import Note


def changed(benchmark: str, file: Path, commits: Iterable[str], start: Path) -> tuple[Note, ...]:
    """Return the note where a benchmark's file differs from that of one of these commits.

    Nothing where git cannot tell: outside of it, and of a commit that the clone lacks.
    """
    for commit in dict.fromkeys(filter(None, commits)):
        if git.differs(file, commit, start):
            name = benchmark.partition("::")[0]
            words = f"{name} differs from that of {commit[:10]}: what is stored ran its own"
            return (Note("benchmark-changed", words, benchmark),)
    return ()


def changed_since(before: Run, after: Run, base: str, start: Path) -> tuple[Note, ...]:
    """Return the same of all benchmarks of two stored runs, whose ids are relative to `start`.

    Nothing where the work tree is not what was measured.
    """
    if not after.commit or git.state(start).commit != after.commit:
        return ()
    shared = [
        each.benchmark
        for each in after.measurements
        if each.root is not None and before.measurement(each.benchmark) is not None
    ]
    commits = (before.commit, base)
    return tuple(
        note
        for name in shared
        for note in changed(name, start / name.partition("::")[0], commits, start)
    )
