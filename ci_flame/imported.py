"""Edge: files of other tools -> a Run like a recorded one.

    before-1.folded before-2.folded before-3.folded  ->  one benchmark, three processes

Other tools keep no clocks. What a file's samples stand for is told by the tool, by an option,
or not at all; then only shares are compared, per second of CPU time.
"""

import gzip
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import ci_flame
from ci_flame.errors import FormatError, UnrecognisedError, UsageError
from ci_flame.formats import bcc, bpftrace, folded, perf_script, pprof
from ci_flame.formats.sniff import FORMATS, sniff
from ci_flame.profile import (
    UNTOLD_NS,
    Environment,
    Frame,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Unit,
    Weight,
    merge,
)
from ci_flame.simplify import clean

COLLECTOR: Final = "import:"
"""Prefix of `Environment.collector` of an imported run: `import:folded`."""
NAME: Final = "imported"
MAX_FILES: Final = 1_000
MAX_FILE: Final = 1 << 30
MAX_PLAIN: Final = 512 << 20
MAX_RATIO: Final = 200
"""Text unpacks to 5 to 60 times its size; a bomb to about 1000 times."""
RATIO_FREE: Final = 16 << 20
MAX_METRICS: Final = 50
"""Keys kept of each map of bpftrace that is no profile."""
UNITS: Final = {"samples": 0, "ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
SAMPLE_NS: Final = 1_000_000
"""A time says nothing of how often it was seen: one sample per millisecond is assumed."""
_CHUNK: Final = 1 << 20
_PIECE: Final = 1 << 14
_SUFFIXES: Final = frozenset(
    {".gz", ".pb", ".pprof", ".folded", ".collapsed", ".txt", ".json", ".out", ".data", ".script",
     ".stacks", ".prof"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of the files."""

    form: str = ""
    """One of `FORMATS`; empty: told by the content."""
    name: str = NAME
    each: bool = False
    """True: every file is a benchmark of its own, named like the file."""
    mode: Mode | None = None
    unit: str = ""
    """Of bare numbers; a key of `UNITS`."""
    iterations: int | None = None
    """Of the work, in each file."""
    seconds: float | None = None
    """How long each file was recorded; an iteration is then a second."""
    frequency_hz: int | None = None
    event: str = ""
    """Of perf, where a file holds several."""
    map_name: str = ""
    """Of bpftrace, where a file holds several stack maps."""


def _no_places() -> Mapping[Frame, Place]:
    return MappingProxyType({})


def _no_metrics() -> Mapping[str, float]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reading:
    """One file, read."""

    profile: Profile
    event: str
    mode: Mode | None = None
    """None: the format does not tell."""
    unit: str = ""
    """Of the numbers, where the format tells and the profile is not in nanoseconds yet."""
    frequency_hz: int = 0
    lost: int = 0
    places: Mapping[Frame, Place] = field(default_factory=_no_places)
    metrics: Mapping[str, float] = field(default_factory=_no_metrics)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Imported:
    """The run, and what whoever compares it must know."""

    run: Run
    notes: tuple[str, ...]


# -- files ----------------------------------------------------------------------------


def load(files: Sequence[Path], wanted: Wanted) -> Imported:
    """Return the run of the files; `-` is standard input.

    Raises FormatError (with file and line) for what is broken, UsageError where files do not
    belong together or an option is missing that their figures need.
    """
    if len(files) > MAX_FILES:
        raise UsageError(f"{len(files)} files; the limit is {MAX_FILES}")
    if len({str(each) for each in files}) < len(files):
        twice = next(each for each in files if files.count(each) > 1)
        raise UsageError(f"{twice} is given twice", "a file is one process; name each one once")
    read: list[tuple[str, Reading]] = []
    for path in files:
        form, reading = _read(path, wanted)
        read.append((form, reading))
        if form != read[0][0]:
            raise UsageError(
                f"{files[0]} is {read[0][0]}, {path} is {form}: one run holds one format",
                "import them into two runs",
            )
    return _to_run(read[0][0], files, [reading for _, reading in read], wanted)


def _read(path: Path, wanted: Wanted) -> tuple[str, Reading]:
    source = "standard input" if str(path) == "-" else str(path)
    data = _unpacked(_bytes(path, source), source)
    if not data.strip():
        raise FormatError(source, "empty: 0 samples", "record it again")
    form = wanted.form or sniff(data)
    if not form:
        raise FormatError(
            source,
            f"no format that is known here; it begins with {data[:24]!r}",
            f"--from takes one of: {', '.join(FORMATS)}",
        )
    try:
        reading = READERS[form](data, source, wanted)
    except UnrecognisedError as error:
        found = sniff(data)
        cure = f"it looks like {found}: --from {found}" if found and found != form else ""
        raise FormatError(source, error.message.removeprefix(f"{source}: "), cure) from None
    if not reading.profile.samples:
        raise FormatError(source, f"{form}: 0 samples", "record it again")
    return form, reading


def _bytes(path: Path, source: str) -> bytes:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            if path.exists() and not (path.is_file() or path.is_fifo()):
                raise UsageError(f"{path} is not a file")
            with path.open("rb") as stream:
                data = stream.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{source} cannot be read: {reason}") from None
    if len(data) > MAX_FILE:
        raise FormatError(source, f"more than {MAX_FILE} bytes, the limit", "import a part of it")
    return data


def _unpacked(data: bytes, source: str) -> bytes:
    """Return the bytes, without their gzip packing if they have one."""
    if data[:2] != b"\x1f\x8b":
        return data
    plain = bytearray()
    position = 0
    try:
        while position < len(data):
            unpacker = zlib.decompressobj(31)
            while position < len(data) and not unpacker.eof:
                # Piece by piece: what is left is copied, and a file may be many small members.
                piece = data[position : position + _PIECE]
                plain += unpacker.decompress(piece, _CHUNK)
                left = len(unpacker.unused_data) if unpacker.eof else len(unpacker.unconsumed_tail)
                position += len(piece) - left
                _must_be_small(len(plain), len(data), source)
            plain += unpacker.flush()
            if not unpacker.eof:
                raise FormatError(
                    source, f"truncated: gzip data ends after {len(data)} bytes", "copy it again"
                )
    except zlib.error as error:
        message = f"broken gzip data after {len(plain)} bytes: {error}"
        raise FormatError(source, message, "copy it again") from None
    return bytes(plain)


def _must_be_small(plain: int, packed: int, source: str) -> None:
    if plain > MAX_PLAIN:
        raise FormatError(source, f"unpacks to more than {MAX_PLAIN} bytes, the limit")
    if plain > RATIO_FREE and plain > MAX_RATIO * packed:
        message = f"unpacks to more than {MAX_RATIO} times its {packed} bytes, as no profile does"
        raise FormatError(source, message)


# -- formats --------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _folded(data: bytes, source: str, _wanted: Wanted) -> Reading:
    return Reading(folded.read(_text(data), source), "samples")


def _bcc(data: bytes, source: str, _wanted: Wanted) -> Reading:
    printed = bcc.read(_text(data), source)
    off = printed.mode is Mode.OFF_CPU
    notes = (f"{source}: bcc missed {printed.missed} stacks",) if printed.missed else ()
    return Reading(
        printed.profile,
        "off-cpu" if off else "cpu-clock",
        # Folded output has no header that says it, so that an option may.
        Mode.OFF_CPU if off else None,
        "us" if off else "",
        printed.frequency_hz,
        notes=notes,
    )


def _bpftrace(data: bytes, source: str, wanted: Wanted) -> Reading:
    output = bpftrace.read(_text(data), source)
    profile = bpftrace.profile(output, source, wanted.map_name)
    stacks = bpftrace.stack_maps(output)
    others = replace(output, maps=tuple(m for m in output.maps if m.name not in stacks))
    metrics, left_out = bpftrace.metrics(others, "bpftrace.import", MAX_METRICS)
    told = [*output.notes, *([f"{left_out} values of maps were not kept"] if left_out else [])]
    notes = tuple(f"{source}: {each}" for each in told)
    return Reading(profile, "samples", lost=output.lost, metrics=metrics, notes=notes)


def _perf_data(data: bytes, source: str, wanted: Wanted) -> Reading:
    # numpy and the readers of symbols are not loaded for other formats.
    from ci_flame.formats import perf_data  # noqa: PLC0415
    from ci_flame.symbols.resolve import Resolver  # noqa: PLC0415
    from ci_flame.symbols.unwind import SampleUnwinder  # noqa: PLC0415

    recorded = perf_data.read(data, source)
    # Copies of the runtimes' maps are looked for beside the file.
    maps = None if source == "standard input" else Path(source).parent
    profile = perf_data.profile(
        recorded, Resolver(recorded, maps=maps), wanted.event, unwind=SampleUnwinder()
    )
    event = recorded.events[recorded.choose(wanted.event)].name
    return Reading(profile, event, lost=recorded.lost)


def _perf_script(data: bytes, source: str, wanted: Wanted) -> Reading:
    lines = _text(data).split("\n")
    first = next((r for r in perf_script.records(lines, source) if _is_sample(r)), None)
    event = wanted.event or (first.event if isinstance(first, perf_script.Sample) else "")
    profile = perf_script.read(lines, source, wanted.event)
    return Reading(profile, event or "samples")


def _is_sample(record: object) -> bool:
    return isinstance(record, perf_script.Sample)


def _pprof(data: bytes, source: str, _wanted: Wanted) -> Reading:
    found = pprof.read(gzip.compress(data, 1, mtime=0), source)
    profile = merge(found.profiles.values())
    return Reading(
        replace(profile, iterations=1),
        "cpu" if found.mode is Mode.ON_CPU else "off-cpu",
        found.mode,
        places=found.places,
    )


READERS: Final[Mapping[str, Callable[[bytes, str, Wanted], Reading]]] = MappingProxyType(
    {
        "perf-data": _perf_data,
        "perf-script": _perf_script,
        "bpftrace": _bpftrace,
        "bcc": _bcc,
        "folded": _folded,
        "pprof": _pprof,
    }
)

# -- a run ----------------------------------------------------------------------------


def _to_run(
    form: str, files: Sequence[Path], readings: Sequence[Reading], wanted: Wanted
) -> Imported:
    timed = [_timed(reading, path, wanted) for path, reading in zip(files, readings, strict=True)]
    modes = {reading.mode or Mode.ON_CPU for reading in timed}
    if len(modes) > 1:
        raise UsageError("some files are on-CPU profiles, others off-CPU", "import them apart")
    mode = modes.pop()
    processes = [_process(r, path, mode, wanted) for path, r in zip(files, timed, strict=True)]
    if wanted.each:
        names = [_name(path) for path in files]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two files are called {twice}", "rename one, or import them apart")
        measurements = tuple(
            Measurement(name, (process,), None, reading.places)
            for name, process, reading in zip(names, processes, timed, strict=True)
        )
    else:
        places: dict[Frame, Place] = {}
        for reading in timed:
            places |= reading.places
        measurements = (Measurement(wanted.name, tuple(processes), None, places),)
    frequencies = {reading.frequency_hz for reading in timed}
    events = sorted({reading.event for reading in timed})
    if len(events) > 1:
        raise UsageError(f"samples of several events: {', '.join(events)}", "import them apart")
    run = Run(
        Environment(
            architecture="",
            cpu_model="",
            cores=0,
            kernel="",
            python="",
            collector=COLLECTOR + form,
            event=events[0],
            frequency_hz=frequencies.pop() if len(frequencies) == 1 else 0,
            ci_flame=ci_flame.__version__,
            layout="",
        ),
        measurements,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    notes = [note for reading in timed for note in reading.notes]
    return Imported(run.check("the import"), (*notes, *_comparable(mode, processes, wanted)))


def _name(path: Path) -> str:
    name = path.name
    while (stem := Path(name)).suffix.lower() in _SUFFIXES and stem.stem:
        name = stem.stem
    if not name.isprintable():
        raise UsageError(f"{name!r} is not a name for a benchmark", "rename the file")
    return name


def _timed(reading: Reading, path: Path, wanted: Wanted) -> Reading:
    """Return the reading with its weights in nanoseconds, where anything tells them."""
    profile = reading.profile
    if wanted.mode is not None and reading.mode not in {None, wanted.mode}:
        raise UsageError(f"{path} says of itself that it is {reading.mode}, not {wanted.mode}")
    mode = reading.mode or wanted.mode or Mode.ON_CPU
    off = mode is Mode.OFF_CPU
    if profile.unit is Unit.NANOSECONDS:
        if wanted.unit:
            raise UsageError(f"{path} has its own unit, nanoseconds", "leave --unit out")
        return replace(reading, mode=mode, profile=clean(profile))
    # bcc's and bpftrace's own off-CPU programs count microseconds.
    unit = wanted.unit or reading.unit or ("us" if off else "samples")
    hertz = wanted.frequency_hz or reading.frequency_hz
    if unit == "samples":
        if off:
            raise UsageError("samples tell no waiting time", "--unit us, or --mode on-cpu")
        scaled = _sampled(profile, hertz) if hertz else profile
    else:
        scaled = _lasting(profile, UNITS[unit])
    event = f"{reading.event}, {unit}" if unit != "samples" and not off else reading.event
    event = "off-cpu" if off else event
    return replace(reading, mode=mode, event=event, frequency_hz=hertz, profile=clean(scaled))


def _sampled(profile: Profile, hertz: int) -> Profile:
    stacks = {
        stack: Weight(weight.samples, round(weight.value * 1e9 / hertz))
        for stack, weight in profile.stacks.items()
    }
    return Profile(stacks, Unit.NANOSECONDS)


def _lasting(profile: Profile, unit_ns: int) -> Profile:
    stacks = {}
    for stack, weight in profile.stacks.items():
        value = weight.value * unit_ns
        # `stats()` of bpftrace tells both; bare numbers are times, not counts.
        known = weight.samples != weight.value
        samples = weight.samples if known else max(1, value // SAMPLE_NS) if value else 0
        stacks[stack] = Weight(samples, value)
    return Profile(stacks, Unit.NANOSECONDS)


def _process(reading: Reading, path: Path, mode: Mode, wanted: Wanted) -> Process:
    profile = reading.profile
    iterations = wanted.iterations or 1
    wall_ns = round((wanted.seconds or 0.0) * 1e9)
    factor = 1.0
    if wanted.seconds is not None and wanted.iterations is None:
        iterations = max(1, round(wanted.seconds))
        factor = iterations / wanted.seconds
    known = wanted.iterations is not None or wanted.seconds is not None
    if known and profile.unit is not Unit.NANOSECONDS:
        raise UsageError(
            f"{path} counts samples, and nothing says how long one of them is",
            "add --frequency HZ (perf record -F HZ, profile -F HZ, profile:hz:HZ)",
        )
    if factor != 1.0:
        stacks = {
            stack: replace(weight, value=round(weight.value * factor))
            for stack, weight in profile.stacks.items()
        }
        profile = replace(profile, stacks=stacks)
    cpu_ns = 0 if mode is Mode.OFF_CPU else profile.value if known else UNTOLD_NS
    each = Round(
        iterations=iterations,
        cpu_ns=cpu_ns,
        wall_ns=wall_ns,
        profiles={mode: replace(profile, iterations=iterations)},
    )
    return Process(
        (each,), profile.samples, reading.lost, metrics=reading.metrics, notes=reading.notes
    )


def _comparable(mode: Mode, processes: Sequence[Process], wanted: Wanted) -> list[str]:
    """Return what a comparison of this run can and cannot say."""
    notes = []
    known = wanted.iterations is not None or wanted.seconds is not None
    if not known and mode is Mode.ON_CPU:
        notes.append(
            "no --iterations and no --seconds: shares of CPU time are compared, growth of"
            " everything together cannot be seen"
        )
    elif not known:
        notes.append("no --iterations and no --seconds: every file is taken to cover the same work")
    if wanted.each or len(processes) == 1:
        notes.append(
            "one file a benchmark: how much recordings of the same code differ is not known, so"
            " that a comparison is inconclusive; import several of each side"
        )
    return notes


def check_wanted(wanted: Wanted) -> Wanted:
    """Return the options; raise UsageError for figures that are out of range."""
    ranges = (
        ("--iterations", wanted.iterations, 1, 10**12),
        ("--seconds", wanted.seconds, 0.001, 10**7),
        ("--frequency", wanted.frequency_hz, 1, 100_000),
    )
    for shown, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise UsageError(f"{shown} {value:g} is outside {low:g} to {high:g}")
    if wanted.each and wanted.name != NAME:
        raise UsageError("--each names benchmarks by their files", "leave --name out")
    if not wanted.name.strip() or not wanted.name.isprintable():
        raise UsageError(f"{wanted.name!r} is not a name", "give --name one line of text")
    return wanted
