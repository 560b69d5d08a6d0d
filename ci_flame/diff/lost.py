"""Stage 4, pure: which part of a side the collector knows that it lost.

Samples are lost where a ring buffer or a map is full; what was running then is unknown, and need
not be what was running otherwise. What py-spy read while it changed (`collector.torn`) is not
among it: it is left out evenly, and known to be.
"""

from typing import Final

from ci_flame.profile import Measurement, Mode

WAITS: Final = "collector.lost_waits"
"""Of `Process.lost`, those that were waits."""
TORN: Final = "collector.torn"


def lost_share(measurement: Measurement, mode: Mode) -> float:
    """Return lost / (lost + kept) samples, or waits, of a side; 0: none is known to be lost."""
    lost = sum(
        each.metrics.get(WAITS, 0.0)
        if mode is Mode.OFF_CPU
        else each.lost - each.metrics.get(WAITS, 0.0) - each.metrics.get(TORN, 0.0)
        for each in measurement.processes
    )
    if lost <= 0:
        return 0.0
    kept = sum(
        each.profiles[mode].samples
        for process in measurement.processes
        for each in process.rounds
        if mode in each.profiles
    )
    return float(lost / (lost + kept))
