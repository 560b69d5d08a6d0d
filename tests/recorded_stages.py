"""What a target's stages left in a recording, by stage."""

from collections import Counter

from interpreters import STAGES

from ci_flame.collect import COLLECTORS, Target
from ci_flame.profile import Kind


class Recorded:
    """One recording of `stages.py`; `numbers` tells the phase of each stage."""

    def __init__(self, recording, version, numbers):
        self.recording = recording
        self.version = version
        self._numbers = numbers

    def phase(self, stage):
        return self._numbers[stage]

    def stacks(self, stage):
        """Return [(frames as text, frames, samples)]."""
        samples = self.recording.samples[self._numbers[stage]]
        return [([str(f) for f in stack], stack, count) for stack, count in samples.items()]

    def total(self, stage):
        return sum(count for *_, count in self.stacks(stage))

    def share(self, stage, *wanted):
        """Return the share of samples whose stack holds all of `wanted`, in this order."""
        hits = 0
        for stack, _, count in self.stacks(stage):
            rest = iter(stack)
            hits += count * all(any(frame == each for frame in rest) for each in wanted)
        return hits / self.total(stage)

    def roots(self, stage):
        """Return samples by outermost frame."""
        counts = Counter()
        for stack, _, count in self.stacks(stage):
            counts[stack[0]] += count
        return counts

    def frames(self, stage):
        """Return samples by frame, each counted once a stack."""
        counts = Counter()
        for stack, _, count in self.stacks(stage):
            counts.update(dict.fromkeys(stack, count))
        return counts

    def leaves(self, stage):
        """Return samples by the library of the native leaf."""
        counts = Counter()
        for _, stack, count in self.stacks(stage):
            leaf = next((f for f in stack if f.kind is Kind.NATIVE), None)
            counts[leaf.module if leaf else ""] += count
        return counts


def record(target, *wanted, collector="ebpf", frequency_hz=1999):
    """Let a target do these stages, each in a window of its own."""
    numbers = {stage: number for number, stage in enumerate(wanted, 1)}
    session = COLLECTORS[collector].start(
        Target(target.pid, python=True, roots=(str(STAGES.parent),), frequency_hz=frequency_hz)
    )
    try:
        for stage, phase in numbers.items():
            session.set_phase(phase)
            target.run(stage)
            session.set_phase(0)
        return Recorded(session.read(), session.started["python"], numbers)
    finally:
        session.close()
