"""Stage 2, pure: what one perf.data file holds, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci_flame.errors import FormatError
from ci_flame.formats.perf_data.header import DUMMY, Buffer, Event
from ci_flame.formats.perf_data.records import Task
from ci_flame.formats.perf_data.samples import Samples


@dataclass(frozen=True, slots=True)
class PerfData:
    """A recording: numbers only, nothing named yet."""

    source: str
    events: tuple[Event, ...]
    samples: Samples
    tasks: tuple[Task, ...]
    """By time: mappings, names, forks and ends of processes, new kernel code."""
    lost: int
    """Samples that were lost while recording."""
    build_ids: Mapping[str, bytes]
    """File -> build id."""
    command: tuple[str, ...]
    """`perf record`'s command line."""
    architecture: str
    """As uname tells it; empty where not recorded."""
    raw: Buffer = field(repr=False)
    """Where `samples.words` lie: word 0 is at byte `base`."""
    base: int

    def choose(self, event: str = "") -> int:
        """Return the index of the event of this name, or of the only one with samples.

        Raises FormatError where `event` has no sample, or where several have and none is named.
        """
        counts = [int((self.samples.event == index).sum()) for index in range(len(self.events))]
        names = [each.name for each in self.events]
        there = [index for index, count in enumerate(counts) if count]
        # The same event opened twice (on two kinds of core) counts as one name.
        if event:
            for index in there:
                if names[index] == event:
                    return index
            told = ", ".join(names[index] for index in there) or "none at all"
            raise FormatError(self.source, f"no sample of {event}", f"samples are of: {told}")
        if len({names[index] for index in there}) > 1:
            told = ", ".join(sorted(names[index] for index in there))
            raise FormatError(
                self.source, f"samples of several events: {told}", "choose one of them"
            )
        if there:
            return there[0]
        told = ", ".join(name for name in names if name != DUMMY) or DUMMY
        raise FormatError(
            self.source, f"no sample of {told}", "record something that runs for longer"
        )
