"""Stage 2, pure: samples -> stacks of frames; equal call chains are named once.

The addresses of call chains are looked up as the kernel wrote them, as perf does: a caller's
is where the call returns to, which after a call that never returns is the next function's.

350,000 samples -> 90,000 call chains -> 40,000 addresses named -> 12,000 stacks
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ci_flame.formats.perf_data.header import Event
from ci_flame.formats.perf_data.recording import PerfData
from ci_flame.formats.perf_data.records import MODE_KERNEL, MODE_USER, Mapped, Words
from ci_flame.formats.perf_data.samples import PERIOD, Longs
from ci_flame.formats.perf_data.spaces import Placed, Space, grouped, place
from ci_flame.profile import TRUNCATED, Frame, Kind, Profile, Stack, Unit, Weight

_FIRST_CONTEXT: Final = np.uint64(2**64 - 4095)
_CONTEXT_KERNEL: Final = np.uint64(2**64 - 128)
_CONTEXT_USER: Final = np.uint64(2**64 - 512)
_USER_MARK: Final = int(_CONTEXT_USER).to_bytes(8, "little")
_CLOCKS: Final = frozenset({"cpu-clock", "task-clock"})
"""Events whose period is in nanoseconds."""
_KERNEL, _USER, _OTHER = 0, 1, 2


class Names(Protocol):
    """Names addresses; asked once for each address of each mapping."""

    def kernel(self, addresses: Words) -> Sequence[Frame]:
        """Return the frame of each address that ran in the kernel."""

    def user(self, mapping: Mapped | None, addresses: Words) -> Sequence[Frame]:
        """Return the frame of each address of one mapping; None: nothing was mapped there."""


Unwind = Callable[[Space, Mapping[int, int], memoryview], tuple[Sequence[int], bool]]
"""(address space, user registers, copy of the stack) -> addresses leaf first, and whether the
stack is complete. Addresses are looked up as they are: callers' must be those of the calls, one
less than what they return to."""


@dataclass(frozen=True, slots=True)
class Folded:
    """One event's samples by stack."""

    groups: Mapping[tuple[int, int, str], Mapping[Stack, Weight]]
    """(part, pid, thread's name) -> stack -> weight; sorted. A stack has no frame for the
    program; it is empty where perf recorded none."""
    unit: Unit
    truncated: Mapping[int, int]
    """Part -> samples whose outermost frames are missing; their stacks begin with `[truncated]`."""
    chains: int
    """Different call chains that there were."""
    addresses: int
    """Addresses that were named."""


def fold(
    data: PerfData,
    names: Names,
    event: str = "",
    *,
    part: Longs | None = None,
    unwind: Unwind | None = None,
    max_stack: int = 0,
) -> Folded:
    """Return the stacks of one event's samples.

    `part` splits the samples (one number for each, as in `data.samples`; negative: left out),
    `max_stack` is the number of frames from which on a call chain is truncated (0: not looked
    for), `unwind` walks the copied user stacks of `perf record --call-graph dwarf`.
    FormatError where the event has no samples, or is not chosen among several.
    """
    chosen_event = data.choose(event)
    same_name = [
        data.events[index].name == data.events[chosen_event].name
        for index in range(len(data.events))
    ]
    wanted = np.array(same_name)[data.samples.event]
    if part is None:
        part = np.zeros(len(data.samples), dtype=np.int64)
    chosen = np.nonzero(wanted & (part >= 0))[0]
    placed = place(data)
    chains = _Chains(data, placed, chosen, unwind)
    stacks = _name(chains, placed, names, max_stack)
    wanted_event = data.events[chosen_event]
    return _gather(_Chosen(data, placed, chosen, part[chosen], wanted_event), chains, stacks)


def profile(
    data: PerfData, names: Names, event: str = "", *, unwind: Unwind | None = None
) -> Profile:
    """Return one event's profile as `perf_script.read` does: the program's name is the root.

    Weights are nanoseconds for cpu-clock and task-clock with periods, else samples.
    """
    folded = fold(data, names, event, unwind=unwind)
    stacks: dict[Stack, Weight] = {}
    for (_, _, name), group in folded.groups.items():
        root = Frame(f"[{name}]", "", Kind.MARK)
        for stack, weight in group.items():
            whole = (root, *stack)
            have = stacks.get(whole)
            stacks[whole] = weight if have is None else have + weight
    return Profile(stacks, folded.unit).check(data.source)


class _Chains:
    """The different call chains of the chosen samples, by space and mode."""

    def __init__(
        self, data: PerfData, placed: Placed, chosen: Longs, unwind: Unwind | None
    ) -> None:
        self.incomplete: set[int] = set()
        keys: dict[bytes, int] = {}
        chain = self._number(data, placed, chosen, unwind, keys)
        self.words = np.frombuffer(b"".join(keys), dtype="<u8")
        lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys)) // 8
        ends = np.cumsum(lengths)
        # A chain means the same only in the same address space; its first address may lack a
        # context mark, and then is where the sample's own address is.
        mode = data.samples.mode[chosen].astype(np.int64)
        many = max(len(keys), 1)
        key = (placed.space[chosen] * 8 + mode) * many + chain
        different, self.of_sample = np.unique(key, return_inverse=True)
        self.chain = different % many
        self.mode = different // many % 8
        self.space = different // many // 8
        self.start = (ends - lengths)[self.chain] if keys else self.chain
        self.length = lengths[self.chain] if keys else self.chain

    def _number(
        self,
        data: PerfData,
        placed: Placed,
        chosen: Longs,
        unwind: Unwind | None,
        keys: dict[bytes, int],
    ) -> Longs:
        """Return the number of each sample's chain; `keys` are the chains themselves."""
        samples = data.samples
        if unwind is not None and samples.registers_abi[chosen].any():
            return self._unwound(data, placed, chosen, unwind, keys)
        length = samples.chain_length[chosen]
        raw = data.raw
        if isinstance(raw, memoryview | bytearray):
            raw = bytes(raw)
        start = data.base + 8 * samples.chain_at[chosen]
        if (length < 0).any():
            # Without call chains: the sample's own address.
            own = samples.ip[chosen].astype("<u8").tobytes()
            raw, start, length = own, np.arange(len(chosen)) * 8, np.ones(len(chosen), np.int64)
        end = start + 8 * length
        number = keys.setdefault
        return np.fromiter(
            (
                number(raw[first:last], len(keys))
                for first, last in zip(start.tolist(), end.tolist(), strict=True)
            ),
            dtype=np.int64,
            count=len(chosen),
        )

    def _unwound(
        self,
        data: PerfData,
        placed: Placed,
        chosen: Longs,
        unwind: Unwind,
        keys: dict[bytes, int],
    ) -> Longs:
        samples = data.samples
        numbers = np.zeros(len(chosen), dtype=np.int64)
        for place_, index in enumerate(chosen.tolist()):
            key = samples.chain(index).astype("<u8").tobytes()
            complete = True
            event = data.events[int(samples.event[index])]
            if registers := samples.registers(index, event.user_registers):
                space = placed.spaces[int(placed.space[index])]
                addresses, complete = unwind(space, registers, samples.stack(index))
                walked = np.array([each & (2**64 - 1) for each in addresses], dtype="<u8")
                # An address like a context mark would be read as one.
                key += _USER_MARK + walked[walked < _FIRST_CONTEXT].tobytes()
            number = keys.setdefault(key, len(keys))
            numbers[place_] = number
            if not complete:
                self.incomplete.add(number)
        return numbers


@dataclass(frozen=True, slots=True)
class _Stacks:
    """The different stacks, and which of them each chain has."""

    stacks: Sequence[Stack]
    of_chain: Longs
    truncated: npt.NDArray[np.bool_]
    addresses: int


def _name(chains: _Chains, placed: Placed, names: Names, max_stack: int) -> _Stacks:
    """Name every address once, then put chains with the same names together."""
    total = int(chains.length.sum())
    border = np.cumsum(chains.length)
    first = border - chains.length
    owner = np.repeat(np.arange(len(chains.chain)), chains.length)
    flat = np.arange(total) - np.repeat(first - chains.start, chains.length)
    words = chains.words[flat]
    mark = words >= _FIRST_CONTEXT
    # The nearest context mark before each address; before the first one, the chain's start.
    since = np.where(mark, np.arange(total), -1)
    starts = first[chains.length > 0]
    since[starts] = starts
    since = np.maximum.accumulate(since) if total else since
    where = _where(words, mark, since, chains.mode[owner])
    real = ~mark
    frames, table = _frames(words[real], where[real], chains.space[owner[real]], placed, names)
    owner = owner[real]
    length = np.bincount(owner, minlength=len(chains.chain)).astype(np.int64)
    return _stacks(frames, table, length, chains, max_stack)


def _where(words: Words, mark: npt.NDArray[np.bool_], since: Longs, mode: Longs) -> Longs:
    """Return for each address whether it ran in the kernel, in user code or elsewhere."""
    if not len(words):
        return since
    context = words[since]
    by_mode = np.select([mode == MODE_KERNEL, mode == MODE_USER], [_KERNEL, _USER], _OTHER)
    by_mark = np.select(
        [context == _CONTEXT_KERNEL, context == _CONTEXT_USER], [_KERNEL, _USER], _OTHER
    )
    return np.where(mark[since], by_mark, by_mode)


def _frames(
    addresses: Words, where: Longs, space: Longs, placed: Placed, names: Names
) -> tuple[npt.NDArray[np.int32], list[Frame]]:
    """Return the number of each address's frame, and the frames."""
    table: dict[Frame, int] = {}
    found = np.zeros(len(addresses), dtype=np.int32)
    # Kernel code is the same for all processes.
    owner = np.where(where == _USER, space, np.where(where == _KERNEL, -1, -2))
    for number, chosen in grouped(owner):
        different, back = np.unique(addresses[chosen], return_inverse=True)
        if number == -1:
            named: Sequence[Frame] = names.kernel(different)
        elif number == -2:  # noqa: PLR2004 - hypervisors and guests: nothing is known of them
            named = names.user(None, different)
        else:
            named = _user(placed.spaces[number], different, names)
        numbers = [table.setdefault(frame, len(table)) for frame in named]
        found[chosen] = np.array(numbers, dtype=np.int32)[back]
    return found, list(table)


def _user(space: Space, addresses: Words, names: Names) -> list[Frame]:
    """Name sorted addresses of one space, mapping by mapping."""
    starts = np.array(space.starts, dtype=np.uint64)
    index = np.searchsorted(starts, addresses, side="right") - 1
    named: list[Frame] = []
    borders = np.nonzero(np.diff(index))[0] + 1
    for chosen in np.split(np.arange(len(addresses)), borders):
        number = int(index[chosen[0]])
        mapping = space.mappings[number] if number >= 0 else None
        within = addresses[chosen]
        inside = 0
        if mapping is not None:
            inside = int(np.searchsorted(within, np.uint64(min(mapping.end, 2**64 - 1))))
        if inside:
            named += names.user(mapping, within[:inside])
        if inside < len(within):
            named += names.user(None, within[inside:])
    return named


def _stacks(
    frames: npt.NDArray[np.int32],
    table: list[Frame],
    length: Longs,
    chains: _Chains,
    max_stack: int,
) -> _Stacks:
    """Turn each chain of frame numbers round and put equal ones together."""
    end = np.cumsum(length)
    start = end - length
    total = len(frames)
    turned = frames[np.repeat(start + end - 1, length) - np.arange(total)]
    truncated = np.isin(chains.chain, list(chains.incomplete))
    if max_stack:
        truncated |= length >= max_stack
    raw = turned.tobytes()
    numbers: dict[tuple[bool, bytes], int] = {}
    width = turned.itemsize
    of_chain = np.fromiter(
        (
            numbers.setdefault((cut, raw[first:last]), len(numbers))
            for cut, first, last in zip(
                truncated.tolist(), (start * width).tolist(), (end * width).tolist(), strict=True
            )
        ),
        dtype=np.int64,
        count=len(length),
    )
    stacks = []
    for cut, key in numbers:
        stack = tuple(table[number] for number in np.frombuffer(key, dtype=np.int32).tolist())
        stacks.append((TRUNCATED, *stack) if cut else stack)
    return _Stacks(stacks, of_chain, truncated, len(table))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The samples that are folded."""

    data: PerfData
    placed: Placed
    index: Longs
    part: Longs
    event: Event


def _gather(from_: _Chosen, chains: _Chains, stacks: _Stacks) -> Folded:
    """Count the samples of each part, process, name and stack."""
    samples, chosen, part, placed = from_.data.samples, from_.index, from_.part, from_.placed
    timed = from_.event.name in _CLOCKS
    period = samples.period[chosen].astype(np.int64)
    if not from_.event.sample_type & PERIOD:
        timed = timed and not from_.event.is_frequency
        period[:] = from_.event.period
    stack = stacks.of_chain[chains.of_sample]
    columns = (part, samples.pid[chosen], placed.name[chosen], stack)
    order = np.lexsort(columns[::-1])
    ordered = [column[order] for column in columns]
    new = np.ones(len(order), dtype=bool)
    if len(order):
        new[1:] = np.any([column[1:] != column[:-1] for column in ordered], axis=0)
    start = np.nonzero(new)[0]
    count = np.diff(np.append(start, len(order)))
    value = np.add.reduceat(period[order], start) if len(start) else count
    groups: dict[tuple[int, int, str], dict[Stack, Weight]] = {}
    for part_, pid, name, number, samples_, value_ in zip(
        *(column[start].tolist() for column in ordered),
        count.tolist(),
        value.tolist() if timed else count.tolist(),
        strict=True,
    ):
        group = groups.setdefault((part_, pid, placed.names[name]), {})
        group[stacks.stacks[number]] = Weight(samples_, value_)
    cut = stacks.truncated[chains.of_sample]
    parts, many = np.unique(part[cut], return_counts=True)
    return Folded(
        groups=dict(sorted(groups.items())),
        unit=Unit.NANOSECONDS if timed else Unit.SAMPLES,
        truncated=dict(zip(parts.tolist(), many.tolist(), strict=True)),
        chains=len(chains.chain),
        addresses=stacks.addresses,
    )
