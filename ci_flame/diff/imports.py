"""Stage 4, pure: what a comparison of imported runs cannot know."""

from ci_flame.profile import Run


def single_files(before: Run, after: Run) -> tuple[str, ...]:
    """Return that a side of imported runs is one file; empty: it is not.

    What one process of ours may differ by is known from many recordings; what somebody else's
    file may differ by, recorded anyhow, only other such files can tell.
    """
    if not (before.environment.imported or after.environment.imported):
        return ()
    for measurement in after.measurements:
        other = before.measurement(measurement.benchmark)
        if other is None:
            continue
        counts = len(other.processes), len(measurement.processes)
        if min(counts) == 1:
            few = f"files of {measurement.benchmark}: {counts[0]}, {counts[1]}"
            return (f"{few}; how much two of one side differ is only known from several a side",)
    return ()
