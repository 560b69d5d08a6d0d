"""Stage 2, pure: profiles by process and round -> gzipped pprof.

Reference: https://github.com/google/pprof/blob/main/proto/profile.proto

A file holds one mode of one benchmark. Each sample is a stack of one round, with the
numeric labels `process` and `round` and two values: samples, and nanoseconds. So
`go tool pprof`, speedscope, Pyroscope and Parca open a baseline as it is. Reading is in
`pprof.py`; this file writes, and holds what both must agree on.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ci_flame.errors import FormatError
from ci_flame.formats import profile_pb2 as pb
from ci_flame.profile import Frame, Kind, Measurement, Mode, Place, Profile, Unit

INT64_MAX: Final = (1 << 63) - 1
MARK: Final = "ci-flame pprof 1"
"""First comment of our own files: there the system name is a frame's identity."""
KERNEL: Final = "[kernel.kallsyms]"
JIT: Final = "[jit]"
NOT_CODE: Final = "[mark]"
PROCESS: Final = "process"
ROUND: Final = "round"
_INDEX: Final = "index"
"""Unit of the labels; without a unit, readers drop a label whose number is 0."""
TYPES: Final = {Mode.ON_CPU: "cpu", Mode.OFF_CPU: "off-cpu"}
UNITS: Final = {Unit.NANOSECONDS: "nanoseconds", Unit.SAMPLES: "count"}


@dataclass(frozen=True, slots=True)
class PprofProfiles:
    """What one file holds: a profile per (process, round), and where the functions are."""

    profiles: Mapping[tuple[int, int], Profile]
    """Without labels everything is in (0, 0). Iterations are 1: `run.json` knows them."""
    places: Mapping[Frame, Place]
    mode: Mode
    unit: Unit


def write(measurement: Measurement, mode: Mode) -> bytes:
    """Return the rounds of one mode as gzipped pprof; the same rounds give the same bytes.

    Raises FormatError where a weight does not fit into 64 bits.
    """
    rounds = [
        (process, number, each.profiles[mode])
        for process, of_process in enumerate(measurement.processes)
        for number, each in enumerate(of_process.rounds)
        if mode in each.profiles
    ]
    # Hashing frames is slow, and rounds hold the same stacks: each object is looked at once.
    stacks = {id(stack): stack for _, _, profile in rounds for stack in profile.stacks}
    objects = {id(frame): frame for stack in stacks.values() for frame in stack}
    frames = sorted(set(objects.values()))
    unit = rounds[0][2].unit if rounds else Unit.NANOSECONDS
    message = pb.Profile()
    strings = _Strings(message)
    kind, amount = strings[TYPES[mode]], strings[UNITS[unit]]
    message.sample_type.add(type=strings["samples"], unit=strings["count"])
    message.sample_type.add(type=kind, unit=amount)
    message.default_sample_type = kind
    message.comment.append(strings[MARK])
    message.comment.append(strings[f"benchmark: {measurement.benchmark}"])
    message.comment.append(strings["iterations of each round: run.json"])
    _add_frames(message, strings, frames, measurement.places)
    ranks = {frame: position for position, frame in enumerate(frames, 1)}
    by_object = {each: ranks[frame] for each, frame in objects.items()}
    paths = {
        each: tuple(map(by_object.__getitem__, map(id, stack))) for each, stack in stacks.items()
    }
    samples = value = 0
    for process, number, profile in rounds:
        _check_weights(profile, measurement.benchmark)
        _add_samples(message, strings, profile, paths, (process, number))
        samples += profile.samples
        value += profile.value
    if samples:
        message.period_type.CopyFrom(pb.ValueType(type=kind, unit=amount))
        message.period = min(round(value / samples), INT64_MAX)
    return _gzip(message.SerializeToString(deterministic=True))


def shown(place: Place | None) -> bool:
    """Say whether pprof can carry a place: 0 and the empty string mean "not known" there."""
    return place is not None and bool(place.file) and 1 <= place.line <= INT64_MAX


def printable(text: str) -> str:
    """Return text with what UTF-8 cannot carry (lone surrogates) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def identity(frame: Frame) -> str:
    """Return the system name: `PREFIX:MODULE:FUNCTION`, with colons inside the module escaped.

    Not `str(frame)`, which may change: a stored frame is the same frame in every version. The
    mapping tells the kind, so that a Python module named `kernel` stays one.
    """
    module = frame.module
    if "%" in module or ":" in module:
        module = module.replace("%", quote("%")).replace(":", quote(":"))
    match frame.kind:
        case Kind.PYTHON:
            return f"{module}:{frame.function}"
        case Kind.NATIVE:
            return f"native:{module}:{frame.function}"
        case Kind.KERNEL | Kind.JIT:
            return f"{frame.kind}:{frame.function}"
        case Kind.MARK:
            return frame.function


def _check_weights(profile: Profile, benchmark: str) -> None:
    for weight in profile.stacks.values():
        if max(weight.samples, weight.value) > INT64_MAX:
            raise FormatError(
                benchmark, f"a weight of {max(weight.samples, weight.value)} is above 2^63-1"
            )


def _add_samples(
    message: pb.Profile,
    strings: "_Strings",
    profile: Profile,
    paths: Mapping[int, tuple[int, ...]],
    position: tuple[int, int],
) -> None:
    process, number = position
    key_process, key_round, index = strings[PROCESS], strings[ROUND], strings[_INDEX]
    by_ids = {paths[id(stack)]: weight for stack, weight in profile.stacks.items()}
    for path in sorted(by_ids):
        weight = by_ids[path]
        sample = message.sample.add(location_id=path[::-1], value=(weight.samples, weight.value))
        sample.label.add(key=key_process, num=process, num_unit=index)
        sample.label.add(key=key_round, num=number, num_unit=index)


def _add_frames(
    message: pb.Profile,
    strings: "_Strings",
    frames: Sequence[Frame],
    places: Mapping[Frame, Place],
) -> None:
    """Add a function and a location per frame; both have the frame's rank as their id."""
    mappings: dict[str, int] = {}
    for number, frame in enumerate(frames, 1):
        place = places.get(frame)
        function = message.function.add(
            id=number, name=strings[str(frame)], system_name=strings[identity(frame)]
        )
        if place is not None and shown(place):
            function.filename = strings[place.file]
            function.start_line = place.line
        location = message.location.add(id=number)
        location.line.add(function_id=number, line=function.start_line)
        if frame.kind is not Kind.PYTHON:
            location.mapping_id = mappings.setdefault(_mapping(frame), len(mappings) + 1)
    for name, number in mappings.items():
        message.mapping.add(id=number, filename=strings[name], has_functions=True)


def _mapping(frame: Frame) -> str:
    match frame.kind:
        case Kind.KERNEL:
            return KERNEL
        case Kind.JIT:
            return JIT
        case Kind.MARK:
            return NOT_CODE
        case _:
            # Never empty, and never one of the names above.
            return f"lib:{frame.module}" if frame.module[:1] in {"", "["} else frame.module


class _Strings:
    """The string table being built: text -> index, in order of first use."""

    def __init__(self, message: pb.Profile) -> None:
        self._indexes = {"": 0}
        self._table = message.string_table
        self._table.append("")

    def __getitem__(self, text: str) -> int:
        number = self._indexes.get(text)
        if number is None:
            number = self._indexes[text] = len(self._indexes)
            self._table.append(printable(text))
        return number


def _gzip(data: bytes) -> bytes:
    """Compress with zlib's own gzip header: no time, and the same bytes on every Python."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()
