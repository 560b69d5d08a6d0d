"""Stage 2, pure: a perf.data file, read without perf -> samples, and Profiles of them.

    read      bytes -> PerfData: events, samples as columns of numbers, what processes did
    fold      PerfData and something that names addresses -> stacks of frames

perf script prints every sample's every address with its name, and the reader of its text
takes all that apart again. Here equal call chains are put together while they are numbers,
each address of each process is named once, and only different stacks become frames.
"""

from typing import Final

from ci_flame.errors import FormatError
from ci_flame.formats.perf_data.folding import Folded, Names, Unwind, fold, profile
from ci_flame.formats.perf_data.header import Buffer, Event, Head, is_perf_data, read_head
from ci_flame.formats.perf_data.recording import PerfData
from ci_flame.formats.perf_data.records import (
    Ended,
    Forked,
    KernelCode,
    Mapped,
    Named,
    Task,
    read_side,
    scan,
)
from ci_flame.formats.perf_data.samples import Samples, read_samples
from ci_flame.formats.perf_data.spaces import Placed, Space, is_anonymous, place

__all__ = [
    "Buffer",
    "Ended",
    "Event",
    "Folded",
    "Forked",
    "Head",
    "KernelCode",
    "Mapped",
    "Named",
    "Names",
    "PerfData",
    "Placed",
    "Samples",
    "Space",
    "Task",
    "Unwind",
    "fold",
    "is_anonymous",
    "is_perf_data",
    "place",
    "profile",
    "read",
    "read_head",
]

MAX_BYTES: Final = 4 << 30


def read(data: Buffer, source: str) -> PerfData:
    """Return what a perf.data file holds, of perf record or of `perf record -o -`.

    `data` may be a read-only memory map: nothing is copied but the columns. Raises
    UnrecognisedError where it is no perf.data file; FormatError, with the offset, where it is
    cut off, half-written, too large or not as its own header says.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(
            source,
            f"{len(data)} bytes; the limit is {MAX_BYTES >> 30} GiB",
            "record for a shorter time, or at a lower frequency",
        )
    head = read_head(data, source)
    scanned = scan(data, head, source)
    if not scanned.events:
        raise FormatError(source, "a recording without events")
    side = read_side(scanned, source)
    samples = read_samples(scanned, source)
    return PerfData(
        source=source,
        events=scanned.events,
        samples=samples,
        tasks=side.tasks,
        lost=side.lost,
        build_ids=scanned.build_ids,
        command=head.command,
        architecture=head.architecture,
        raw=scanned.data,
        base=scanned.base,
    )
