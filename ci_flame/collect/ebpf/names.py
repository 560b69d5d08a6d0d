"""Stage 1, edge: the collector process's tables: ids and addresses -> frames, and replies."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final, Protocol

from ci_flame.collect.ebpf.records import (
    FLAG_FAULT,
    FLAG_GC,
    FLAG_PYTHON,
    FLAG_TRUNCATED,
    Code,
    Place,
    stack_key,
    unpack_code,
    unpack_kernel_stack,
    unpack_stack,
    unpack_string,
)
from ci_flame.collect.ebpf.waits import WaitKey, WaitSum, by_reason, reason, without_scheduler
from ci_flame.profile import GC, TRUNCATED, UNKNOWN, Kind
from ci_flame.symbols.kernel import KernelNames
from ci_flame.symbols.native import AddressSpace, NativeNames

RawFrame = tuple[str, str, str, str, int]
"""kind, module, function, file, first line; a Python frame's module is named by the owner."""

MOST_RECORDS: Final = 200_000
MOST_BYTES: Final = 64 << 20
"""Of stacks, code objects and strings each, and of all their bytes: a program that never repeats
itself must not fill the memory. What comes after that is `[unknown]`, and counted."""

# Borders between frames in folded stacks and in paths; a line must stay a line.
_UNSAFE: Final = {ord(";"): ",", **dict.fromkeys((*range(32), 127, 133, 8232, 8233), " ")}


class ImageNames(Protocol):
    """What is needed of a program image to name its addresses."""

    pid: int
    space: AddressSpace


class Names:
    """What the BPF program has told about strings, code objects and stacks."""

    def __init__(self, native: NativeNames) -> None:
        self._native = native
        self._kernel: KernelNames | None = None
        self._strings: dict[int, str] = {}
        self._codes: dict[int, Code] = {}
        self._stacks: dict[int, bytes] = {}
        self._kernel_stacks: dict[int, bytes] = {}
        """The records as they came: 8 bytes a frame; unpacked, they would be 40."""
        self._bytes = 0
        self.refused = 0
        """Records that there was no room for, in all."""

    def add_string(self, data: bytes) -> None:
        """Keep a STRING record."""
        key, text = unpack_string(data)
        if self._has_room(self._strings, key, len(data)):
            self._strings[key] = text.translate(_UNSAFE)

    def add_code(self, data: bytes) -> None:
        """Keep a CODE record."""
        key, code = unpack_code(data)
        if self._has_room(self._codes, key, len(data)):
            self._codes[key] = code

    def add_stack(self, data: bytes) -> None:
        """Keep a STACK record."""
        key = stack_key(data)
        if self._has_room(self._stacks, key, len(data)):
            self._stacks[key] = data

    def add_kernel_stack(self, data: bytes) -> None:
        """Keep a KERNEL_STACK record."""
        key = stack_key(data)
        if self._has_room(self._kernel_stacks, key, len(data)):
            self._kernel_stacks[key] = data

    def _has_room(self, kept: Mapping[int, object], key: int, size: int) -> bool:
        """Count a record that is new; False, and counted as refused, when there are too many."""
        if key in kept:
            return True
        if len(kept) >= MOST_RECORDS or self._bytes + size > MOST_BYTES:
            self.refused += 1
            return False
        self._bytes += size
        return True

    def reply(
        self,
        counts: Mapping[bytes, int],
        waits: Mapping[bytes, WaitSum],
        images: Mapping[int, ImageNames],
    ) -> dict[str, Any]:
        """Return frames, stacks, samples and waits by number, and the phases' shortcomings."""
        table = _Table()
        return {
            **self._samples(counts, images, table),
            "off_cpu": self._waits(waits, images, table),
            "frames": list(table.frames),
            "stacks": list(table.stacks),
        }

    def _waits(
        self, waits: Mapping[bytes, WaitSum], images: Mapping[int, ImageNames], table: "_Table"
    ) -> list[tuple[int, int, int, int]]:
        """Return phase, stack, number of waits and ns; the stack's leaf is the reason."""
        totals: dict[tuple[int, int], tuple[int, int]] = {}
        for packed, total in waits.items():
            key = WaitKey.unpack(packed)
            frames = self._python(key, table)
            if key.address:
                frames += (table.frame(self._leaf(key, images)),)
            raw = self._kernel_stacks.get(key.kernel)
            symbols = [self._symbol(each) for each in unpack_kernel_stack(raw)[1]] if raw else []
            for symbol in without_scheduler(symbols):
                frames += (table.frame((Kind.KERNEL, "", symbol, "", 0)),)
            why = reason(symbols, key.state, key.flags)
            for leaf, (number, nanoseconds) in by_reason(total, why).items():
                stack = table.stack((*frames, table.frame(_mark(leaf))))
                before = totals.get((key.phase, stack), (0, 0))
                totals[key.phase, stack] = (before[0] + number, before[1] + nanoseconds)
        return [(*place, *weight) for place, weight in totals.items()]

    def _samples(
        self, counts: Mapping[bytes, int], images: Mapping[int, ImageNames], table: "_Table"
    ) -> dict[str, Any]:
        truncated: Counter[int] = Counter()
        no_python: Counter[int] = Counter()
        samples: defaultdict[tuple[int, int], int] = defaultdict(int)
        python: dict[tuple[int, int], tuple[int, ...]] = {}
        native: dict[tuple[int, int], int] = {}
        for key, count in counts.items():
            place = Place.unpack(key)
            head = (place.stack, place.flags)
            if head not in python:
                python[head] = self._python(place, table)
            stack = python[head]
            leaf = (place.image, place.address)
            if place.address and leaf not in native:
                native[leaf] = table.frame(self._leaf(place, images))
            frames = (*stack, *([native[leaf]] if place.address else ()))
            if place.kernel:
                frames += tuple(table.frame(self._kernel_frame(a)) for a in place.kernel[::-1])
            samples[
                place.phase, table.stack(frames or (table.frame(_mark(UNKNOWN.function)),))
            ] += count
            if place.flags & (FLAG_TRUNCATED | FLAG_FAULT):
                truncated[place.phase] += count
            if place.flags & FLAG_PYTHON and not place.stack:
                no_python[place.phase] += count
        return {
            "samples": [(phase, stack, count) for (phase, stack), count in samples.items()],
            "truncated": truncated,
            "no_python": no_python,
        }

    def _python(self, place: Place | WaitKey, table: "_Table") -> tuple[int, ...]:
        """Return the Python part of a stack, with the marks that its flags ask for."""
        raw = self._stacks.get(place.stack)
        frames = [self._code_frame(each) for each in unpack_stack(raw)[1]] if raw else []
        if place.stack and not frames:
            frames = [_mark(UNKNOWN.function)]  # the record of the stack was lost
        if place.flags & (FLAG_TRUNCATED | FLAG_FAULT):
            frames.insert(0, _mark(TRUNCATED.function))
        if place.flags & FLAG_GC and place.stack:
            frames.append(_mark(GC.function))
        return tuple(map(table.frame, frames))

    def _code_frame(self, key: int) -> RawFrame:
        code = self._codes.get(key)
        if code is None:
            return _mark(UNKNOWN.function)
        qualname = self._strings.get(code.qualname, "")
        return (Kind.PYTHON, "", qualname, self._strings.get(code.file, ""), code.line)

    def _leaf(self, place: Place | WaitKey, images: Mapping[int, ImageNames]) -> RawFrame:
        image = images.get(place.image)
        if image is None:
            return (Kind.NATIVE, UNKNOWN.function, UNKNOWN.function, "", 0)
        library, symbol = self._native.name(image.space, place.address, image.pid)
        return (Kind.NATIVE, library, symbol, "", 0)

    def _kernel_frame(self, address: int) -> RawFrame:
        return (Kind.KERNEL, "", self._symbol(address), "", 0)

    def _symbol(self, address: int) -> str:
        if self._kernel is None:
            self._kernel = KernelNames.of_this_machine()
        return self._kernel.name(address)


class _Table:
    """Numbers for frames and stacks, in the order of their first use."""

    def __init__(self) -> None:
        self.frames: dict[RawFrame, int] = {}
        self.stacks: dict[tuple[int, ...], int] = {}

    def frame(self, frame: RawFrame) -> int:
        return self.frames.setdefault(frame, len(self.frames))

    def stack(self, stack: tuple[int, ...]) -> int:
        return self.stacks.setdefault(stack, len(self.stacks))


def _mark(name: str) -> RawFrame:
    return (Kind.MARK, "", name, "", 0)
