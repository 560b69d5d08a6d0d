"""Stage 2, pure: gzipped pprof <-> profiles by process and round.

`write` is in `pprof_write.py`; here is `read`, for our own files and anybody's.

What is read may come from a stranger (a downloaded baseline): sizes are bounded before
the bytes are unpacked, and again before each structure is built.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote

from google.protobuf.message import DecodeError

from ci_flame.errors import FormatError
from ci_flame.formats import profile_pb2 as pb
from ci_flame.formats.foreign import foreign_frame
from ci_flame.formats.pprof_write import (
    JIT,
    KERNEL,
    MARK,
    NOT_CODE,
    PROCESS,
    ROUND,
    PprofProfiles,
    write,
)
from ci_flame.profile import Frame, Kind, Listed, Mode, Place, Profile, Stack, Unit, Weight

__all__ = ["PprofProfiles", "read", "write"]

MAX_COMPRESSED: Final = 64 << 20
MAX_PLAIN: Final = 256 << 20
MAX_RATIO: Final = 200
"""Real profiles unpack to 3 to 30 times their size; a bomb to about 1000 times."""
RATIO_FREE: Final = 8 << 20
"""Bytes up to which nobody asks for the ratio."""
MAX_DEPTH: Final = 4096
MAX_FRAMES: Final = 32 << 20
"""Frames of all different stacks together; inlined lines make many of few bytes."""
MAX_STRING: Final = 64 << 10
MAX_MESSAGE: Final = 256 << 10
"""Bytes of one sample, location, function or mapping."""
MAX_PROCESS: Final = 9_999
MAX_ROUND: Final = 9_999_999
MAX_COUNTS: Final = {
    "sample_type": 64,
    "sample": 2_000_000,
    "mapping": 65_536,
    "location": 1_000_000,
    "function": 1_000_000,
    "string_table": 2_000_000,
}

_TO_NS: Final = {
    "nanoseconds": 1,
    "microseconds": 1_000,
    "milliseconds": 1_000_000,
    "seconds": 1_000_000_000,
}
_CURE: Final = "record it again, or fetch it again if it was downloaded"
_CHUNK: Final = 1 << 20
_LENGTH_DELIMITED: Final = 2
_MAX_SHIFT: Final = 70
_MORE: Final = 0x80
"""Bit of a varint's byte that says another one follows."""


def read(data: bytes, source: str) -> PprofProfiles:
    """Return the profiles of one gzipped pprof file by (process, round).

    Raises FormatError, naming `source`, for what is not pprof, truncated, larger than the
    limits above, contradicts itself, or counts something other than samples or time.
    """
    plain = _unzip(data, source)
    _check_counts(plain, source)
    try:
        message = pb.Profile.FromString(plain)
    except DecodeError as error:
        raise FormatError(source, "not a pprof profile (broken message)", _CURE) from error
    return _Reader(message, source).profiles()


def _unzip(data: bytes, source: str) -> bytes:
    if not data:
        raise FormatError(source, "0 bytes; a gzipped pprof profile was expected", _CURE)
    if data[:2] != b"\x1f\x8b":
        raise FormatError(
            source, f"not gzip: begins with {data[:4].hex(' ')}, not 1f 8b", f"gzip {source}"
        )
    if len(data) > MAX_COMPRESSED:
        raise FormatError(source, f"{len(data)} bytes; the limit is {MAX_COMPRESSED}")
    unpacker = zlib.decompressobj(31)
    plain = bytearray()
    rest = data
    try:
        while rest and not unpacker.eof:
            plain += unpacker.decompress(rest, _CHUNK)
            rest = unpacker.unconsumed_tail
            _check_size(len(plain), len(data), source)
        plain += unpacker.flush()
    except zlib.error as error:
        message = f"broken gzip data after {len(plain)} bytes: {error}"
        raise FormatError(source, message, _CURE) from error
    if not unpacker.eof:
        raise FormatError(source, f"truncated: gzip data ends after {len(data)} bytes", _CURE)
    if unpacker.unused_data:
        raise FormatError(source, f"{len(unpacker.unused_data)} bytes after the gzip data", _CURE)
    return bytes(plain)


def _check_size(plain: int, packed: int, source: str) -> None:
    if plain > MAX_PLAIN:
        raise FormatError(source, f"unpacks to more than {MAX_PLAIN} bytes, the limit")
    if plain > RATIO_FREE and plain > MAX_RATIO * packed:
        raise FormatError(
            source,
            f"unpacks to more than {MAX_RATIO} times its {packed} bytes, as no real profile does",
        )


def _check_counts(plain: bytes, source: str) -> None:
    """Count and measure the top-level messages before protobuf builds them.

    An empty sample takes two bytes here and about a hundred in memory.
    """
    names = {field.number: field.name for field in pb.Profile.DESCRIPTOR.fields}
    counts = dict.fromkeys(MAX_COUNTS, 0)
    position = 0
    while position < len(plain):
        tag, position = _varint(plain, position, source)
        name = names.get(tag >> 3, "")
        if tag & 7 != _LENGTH_DELIMITED:
            position = _skip(plain, position, tag & 7, source)
            continue
        length, position = _varint(plain, position, source)
        position += length
        if position > len(plain):
            raise FormatError(source, f"truncated: {name or 'a field'} ends after the data", _CURE)
        if name not in counts:
            continue
        counts[name] += 1
        if counts[name] > MAX_COUNTS[name]:
            raise FormatError(source, f"more than {MAX_COUNTS[name]} of {name}, the limit")
        limit = MAX_STRING if name == "string_table" else MAX_MESSAGE
        if length > limit:
            raise FormatError(source, f"a {name} of {length} bytes; the limit is {limit}")


def _varint(plain: bytes, position: int, source: str) -> tuple[int, int]:
    if position < len(plain) and plain[position] < _MORE:  # most are one byte
        return plain[position], position + 1
    value = shift = 0
    while position < len(plain) and shift < _MAX_SHIFT:
        byte = plain[position]
        position += 1
        value |= (byte & ~_MORE) << shift
        if byte < _MORE:
            return value, position
        shift += 7
    raise FormatError(source, f"not a pprof profile (broken number at byte {position})", _CURE)


def _skip(plain: bytes, position: int, wire: int, source: str) -> int:
    if wire == 0:
        return _varint(plain, position, source)[1]
    if wire in {1, 5}:
        return position + (8 if wire == 1 else 4)
    raise FormatError(source, f"not a pprof profile (wire type {wire} at byte {position})", _CURE)


_Identified = TypeVar("_Identified", pb.Mapping, pb.Function, pb.Location)


@dataclass(frozen=True, slots=True)
class _Values:
    """Which of a sample's values count."""

    columns: int
    """Values that each sample must have."""
    samples: int | None
    """Column of the number of samples; None: each record is one."""
    value: int
    factor: int
    unit: Unit
    mode: Mode


class _Reader:
    """One message being read; every index is checked where it is used."""

    def __init__(self, message: pb.Profile, source: str) -> None:
        self.message = message
        self.source = source
        self.strings: Sequence[str] = list(message.string_table)
        if not self.strings or self.strings[0]:
            raise self.error("its string table does not begin with the empty string")
        self.own = bool(message.comment) and self.string(message.comment[0], "comment") == MARK
        self.places: dict[Frame, Place] = {}
        self.frames = 0

    def error(self, message: str) -> FormatError:
        """Return the error to raise about this file."""
        return FormatError(self.source, message, _CURE)

    def string(self, index: int, place: str) -> str:
        """Return an entry of the string table."""
        if not 0 <= index < len(self.strings):
            raise self.error(
                f"string {index} of a {place} is not among the {len(self.strings)} strings"
            )
        return self.strings[index]

    def profiles(self) -> PprofProfiles:
        """Return everything, by process and round."""
        values = self.values()
        rounds: dict[tuple[int, int], dict[int, Weight]] = {}
        locations = self.locations()
        known: dict[tuple[int, ...], int] = {}
        by_stack: dict[Stack, int] = {}
        labels = {
            index: text for index, text in enumerate(self.strings) if text in {PROCESS, ROUND}
        }
        weights: dict[tuple[int, int], Weight] = {}
        for number, sample in enumerate(self.message.sample):
            ids = tuple(sample.location_id)
            at = known.get(ids)
            if at is None:
                stack = self.stack(ids, locations, number)
                at = known[ids] = by_stack.setdefault(stack, len(by_stack))
            weight = self.weight(sample, values, number, weights)
            of_round = rounds.setdefault(self.round(sample, labels, number), {})
            have = of_round.get(at)
            of_round[at] = weight if have is None else have + weight
        shared = tuple(by_stack)
        profiles = {
            key: Profile(
                Listed(shared, tuple(rounds[key]), tuple(rounds[key].values())), values.unit
            )
            for key in sorted(rounds)
        }
        return PprofProfiles(profiles, self.places, values.mode, values.unit)

    def values(self) -> _Values:
        """Choose the values that count: the default type, but time rather than a count."""
        types = [
            (self.string(each.type, "sample type"), self.string(each.unit, "sample type"))
            for each in self.message.sample_type
        ]
        if not types:
            raise self.error("it names no sample type")
        wanted = self.string(self.message.default_sample_type, "default sample type")
        counts = {("samples", "count"), ("sample", "count")}
        samples = next((i for i, each in enumerate(types) if each in counts), None)
        timed = [i for i, (_, unit) in enumerate(types) if unit in _TO_NS]
        value = next((i for i, (name, _) in enumerate(types) if name == wanted), None)
        if value is None or (types[value][1] not in _TO_NS and not self.own and timed):
            value = timed[-1] if timed else len(types) - 1
        name, unit = types[value]
        mode = (
            Mode.OFF_CPU
            if name.replace("_", "-").startswith(("off-cpu", "offcpu"))
            else Mode.ON_CPU
        )
        if unit in _TO_NS:
            return _Values(len(types), samples, value, _TO_NS[unit], Unit.NANOSECONDS, mode)
        if unit == "count":
            samples = value if samples is None else samples
            return _Values(len(types), samples, value, 1, Unit.SAMPLES, mode)
        raise FormatError(
            self.source,
            f"it measures {name} in {unit or 'no unit'}; samples or time can be compared",
            "record a CPU profile",
        )

    def locations(self) -> Mapping[int, Stack]:
        """Return the frames of each location, outermost first."""
        libraries = {
            number: self.string(mapping.filename, "mapping")
            for number, mapping in self.by_id("mapping", self.message.mapping).items()
        }
        libraries[0] = ""
        functions = self.by_id("function", self.message.function)
        frames: dict[tuple[int, int], Frame] = {}
        found: dict[int, Stack] = {}
        for number, location in self.by_id("location", self.message.location).items():
            if location.mapping_id not in libraries:
                raise self.error(
                    f"location {number} is in mapping {location.mapping_id}, which is not there"
                )
            library = libraries[location.mapping_id]
            stack = []
            # The last line is the caller that the others were inlined into.
            for line in reversed(location.line):
                key = (line.function_id, location.mapping_id)
                if key not in frames:
                    if line.function_id not in functions:
                        raise self.error(
                            f"location {number} is in function {line.function_id},"
                            " which is not there"
                        )
                    frames[key] = self.frame(functions[line.function_id], library)
                stack.append(frames[key])
            found[number] = tuple(stack) or (foreign_frame("", "", library),)
        return found

    def by_id(self, kind: str, messages: Iterable[_Identified]) -> dict[int, _Identified]:
        """Return messages by their ids, which must differ."""
        found: dict[int, _Identified] = {}
        for each in messages:
            if each.id == 0 or each.id in found:
                raise self.error(f"{kind} {each.id} is there twice, or its id is 0")
            found[each.id] = each
        return found

    def frame(self, function: pb.Function, library: str) -> Frame:
        """Return a function's frame, and remember where it is."""
        name = self.string(function.name, "function")
        system = self.string(function.system_name, "function")
        file = self.string(function.filename, "function")
        frame = self.own_frame(system, library) if self.own else None
        if frame is None:
            frame = foreign_frame(name or system, file, library)
        if file and function.start_line > 0:
            self.places.setdefault(frame, Place(file, function.start_line))
        return frame

    def own_frame(self, identity: str, library: str) -> Frame:
        """Return the frame that `pprof_write.identity` named; the mapping tells its kind."""
        match library:
            case "":
                prefix, kind, has_module = "", Kind.PYTHON, True
            case _ if library == KERNEL:
                prefix, kind, has_module = "kernel:", Kind.KERNEL, False
            case _ if library == JIT:
                prefix, kind, has_module = "jit:", Kind.JIT, False
            case _ if library == NOT_CODE:
                prefix, kind, has_module = "", Kind.MARK, False
            case _:
                prefix, kind, has_module = "native:", Kind.NATIVE, True
        text = identity.removeprefix(prefix)
        module, colon, function = text.partition(":") if has_module else ("", ":", text)
        if not identity.startswith(prefix) or not colon or not function:
            raise self.error(f"{identity!r} is not the name of a {kind} frame")
        return Frame(function, unquote(module), kind)

    def stack(self, ids: tuple[int, ...], locations: Mapping[int, Stack], number: int) -> Stack:
        """Return the stack of leaf-first location ids, outermost first."""
        if not ids:
            raise self.error(f"sample {number} has an empty stack")
        frames: list[Frame] = []
        for each in reversed(ids):
            if each not in locations:
                raise self.error(f"sample {number} is in location {each}, which is not there")
            frames.extend(locations[each])
            if len(frames) > MAX_DEPTH:
                raise self.error(f"sample {number} is deeper than {MAX_DEPTH} frames, the limit")
        self.frames += len(frames)
        if self.frames > MAX_FRAMES:
            raise self.error(f"its stacks have more than {MAX_FRAMES} frames in all, the limit")
        return tuple(frames)

    def weight(
        self,
        sample: pb.Sample,
        values: _Values,
        number: int,
        known: dict[tuple[int, int], Weight],
    ) -> Weight:
        """Return a sample's weight in the profile's unit; most weigh the same: one of `known`."""
        column = sample.value
        if len(column) != values.columns:
            raise self.error(
                f"sample {number} has {len(column)} values for {values.columns} sample types"
            )
        value = column[values.value]
        samples = 1 if values.samples is None else column[values.samples]
        found = known.get((samples, value))
        if found is None:
            if value < 0 or samples < 0:
                raise self.error(f"sample {number} has the negative value {min(value, samples)}")
            found = known[samples, value] = Weight(samples, value * values.factor)
        return found

    def round(self, sample: pb.Sample, labels: Mapping[int, str], number: int) -> tuple[int, int]:
        """Return process and round of a sample; 0 where it has no such label.

        `labels`: the strings that are the names of labels that count.
        """
        process = of_process = 0
        for label in sample.label:
            name = labels.get(label.key)
            if name is None:
                self.string(label.key, "label")
                continue
            if label.str:
                continue
            value = label.num
            limit = MAX_PROCESS if name == PROCESS else MAX_ROUND
            if not 0 <= value <= limit:
                raise self.error(f"sample {number} is of {name} {value}; 0 to {limit} can be")
            if name == PROCESS:
                process = value
            else:
                of_process = value
        return process, of_process
