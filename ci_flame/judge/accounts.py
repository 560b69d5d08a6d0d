"""Stage 5, pure: what must be said of a recording before it is compared with anything."""

from collections.abc import Sequence
from typing import Final

from ci_flame.profile import Measurement, Mode, Process
from ci_flame.verdict import Note

MIN_SAMPLES: Final = 100
"""Fewer say nothing: a function of 10 % of the benchmark would have ten."""


def accounts(measurement: Measurement, frequency_hz: int) -> tuple[Note, ...]:
    """Return what must be said of most processes of a recording, as the first one said it."""
    modes = measurement.modes
    processes = measurement.processes
    notes = [
        note
        for process in processes
        for note in account(measurement.benchmark, process, frequency_hz, modes)
    ]
    slugs = [note.slug for note in notes]
    return tuple(
        note
        for index, note in enumerate(notes)
        if slugs.index(note.slug) == index and 2 * slugs.count(note.slug) > len(processes)
    )


def account(
    benchmark: str, process: Process, frequency_hz: int, modes: Sequence[Mode]
) -> tuple[Note, ...]:
    """Return what must be said of one process's recording.

    Too few samples: the note `too-short` says how many seconds would give enough.
    """
    cpu_ns = sum(each.cpu_ns for each in process.rounds)
    wall_ns = sum(each.wall_ns for each in process.rounds)
    cpu_s, wall_s = cpu_ns / 1e9, wall_ns / 1e9
    notes = []
    share = cpu_s / wall_s if wall_s else 0.0
    delay_ns = min(wall_ns, sum(each.run_delay_ns for each in process.rounds))
    waits = 10 * cpu_ns < wall_ns - delay_ns  # under a tenth
    if 2 * delay_ns > wall_ns:
        notes.append(
            Note(
                "starved",
                f"waited for a CPU in {100 * delay_ns / wall_ns:.0f} % of {wall_s:.1f} s:"
                " other programs are using this machine",
                benchmark,
            )
        )
    elif waits and Mode.OFF_CPU not in modes:
        notes.append(
            Note(
                "waits",
                f"on the CPU for only {100 * share:.2g} % of {wall_s:.1f} s:"
                " its waiting is not judged; add --flame-mode off-cpu",
                benchmark,
            )
        )
    if (
        process.kept < MIN_SAMPLES
        and Mode.ON_CPU in modes
        and not (waits and Mode.OFF_CPU in modes)
    ):
        per_second = frequency_hz * min(1.0, share)
        needed = MIN_SAMPLES / per_second if per_second else 0.0
        cure = (
            f"it needs about --flame-seconds {_seconds(needed)}"
            if needed and needed <= 600  # noqa: PLR2004 - what the flag allows
            else "it uses too little CPU time to be profiled"
        )
        notes.append(
            Note(
                "too-short",
                f"too short to sample: {process.kept} samples in {cpu_s:.3g} s of CPU time,"
                f" {MIN_SAMPLES} are the least; {cure}",
                benchmark,
            )
        )
    if not process.settled:
        notes.append(
            Note(
                "warming",
                f"still getting faster after {process.warm_up_ns / 1e9:.2g} s of warm-up",
                benchmark,
            )
        )
    return tuple(notes)


def _seconds(value: float) -> str:
    """Round up to a figure that a person would type."""
    if value <= 1:
        return f"{max(0.1, -(-value * 10 // 1) / 10):g}"
    return f"{-(-value // 1):.0f}"
