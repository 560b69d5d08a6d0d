"""Stage 2, pure: samples -> stacks of frames; equal call chains are named once.

The addresses of call chains are looked up as the kernel wrote them, as perf does: a caller's
is where the call returns to, which after a call that never returns is the next function's.

350,000 samples -> 90,000 call chains -> 40,000 addresses named -> 12,000 stacks
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

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
_KERNEL, _OTHER = -1, -2
_ONE, _TOP, _ALL = np.uint64(1), np.uint64(48), np.uint64(0xFFFF)
_ADDRESS: Final = np.uint64((1 << 48) - 1)
_OWNER_AT: Final = np.uint64(49)
_MANY_OWNERS: Final = 1 << 14
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


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
    counted = _count(data, names, event, part=part, unwind=unwind, max_stack=max_stack)
    groups: dict[tuple[int, int, str], dict[Stack, Weight]] = {}
    columns = (counted.part, counted.pid, counted.name, counted.stack)
    different, samples, values = _sums(columns, counted.period)
    if counted.unit is Unit.SAMPLES:
        values = samples
    for part_, pid, name, number, many, value in zip(*different, samples, values, strict=True):
        group = groups.setdefault((part_, pid, counted.names[name]), {})
        group[counted.stacks.stacks[number]] = Weight(many, value)
    parts, many_cut = np.unique(counted.part[counted.truncated], return_counts=True)
    return Folded(
        groups=dict(sorted(groups.items(), key=itemgetter(0))),
        unit=counted.unit,
        truncated=dict(zip(parts.tolist(), many_cut.tolist(), strict=True)),
        chains=counted.chains,
        addresses=counted.stacks.addresses,
    )


def profile(
    data: PerfData, names: Names, event: str = "", *, unwind: Unwind | None = None
) -> Profile:
    """Return one event's profile as `perf_script.read` does: the program's name is the root.

    Weights are nanoseconds for cpu-clock and task-clock with periods, else samples.
    """
    counted = _count(data, names, event, unwind=unwind)
    roots = [(Frame(f"[{name}]", "", Kind.MARK),) for name in counted.names]
    different, samples, values = _sums((counted.name, counted.stack), counted.period)
    if counted.unit is Unit.SAMPLES:
        values = samples
    stacks = counted.stacks.stacks
    weights = map(Weight, samples, values)
    whole = {
        roots[name] + stacks[number]: weight
        for name, number, weight in zip(*different, weights, strict=True)
    }
    return Profile(whole, counted.unit).check(data.source)


@dataclass(frozen=True, slots=True)
class _Counted:
    """The chosen samples: columns of numbers, and what the numbers stand for."""

    part: Longs
    pid: Longs
    name: Longs
    stack: Longs
    period: Words
    truncated: npt.NDArray[np.bool_]
    names: Sequence[str]
    stacks: "_Stacks"
    unit: Unit
    chains: int


def _count(
    data: PerfData,
    names: Names,
    event: str,
    *,
    part: Longs | None = None,
    unwind: Unwind | None = None,
    max_stack: int = 0,
) -> _Counted:
    """Choose the samples, find their different chains and name them."""
    chosen_event = data.events[data.choose(event)]
    same_name = np.array([each.name == chosen_event.name for each in data.events])
    if part is None:
        part = np.zeros(len(data.samples), dtype=np.int64)
    chosen = np.nonzero(same_name[data.samples.event] & (part >= 0))[0]
    placed = place(data)
    chains = _Chains(data, placed, chosen, unwind)
    stacks = _name(chains, placed, names, max_stack)
    timed = chosen_event.name in _CLOCKS
    period = data.samples.period[chosen]
    if not chosen_event.sample_type & PERIOD:
        timed = timed and not chosen_event.is_frequency
        period = np.full(len(chosen), chosen_event.period, dtype=np.uint64)
    return _Counted(
        part=part[chosen],
        pid=data.samples.pid[chosen],
        name=placed.name[chosen],
        stack=stacks.of_chain[chains.of_sample],
        period=period,
        truncated=stacks.truncated[chains.of_sample],
        names=placed.names,
        stacks=stacks,
        unit=Unit.NANOSECONDS if timed else Unit.SAMPLES,
        chains=len(chains.chain),
    )


def _sums(
    columns: tuple[Longs, ...], period: Words
) -> tuple[list[list[int]], list[int], list[int]]:
    """Return the different rows of the columns, sorted, how often each is there, and its periods.

    Sums are exact: halves of 32 bits are added up apart.
    """
    key = np.zeros(len(period), dtype=np.int64)
    kinds: list[Longs] = []
    for column in columns:
        different, index = np.unique(column, return_inverse=True)
        kinds.append(different)
        key = key * max(len(different), 1) + index
    rows, of_row = np.unique(key, return_inverse=True)
    number = len(rows)
    samples = np.bincount(of_row, minlength=number).tolist()
    low = np.bincount(of_row, weights=period & _LOW, minlength=number).tolist()
    high = np.bincount(of_row, weights=period >> _HALF, minlength=number).tolist()
    different_rows: list[list[int]] = []
    for different in reversed(kinds):
        rows, index = np.divmod(rows, max(len(different), 1))
        different_rows.append(different[index].tolist())
    values = [(int(h) << 32) + int(w) for h, w in zip(high, low, strict=True)]
    return different_rows[::-1], samples, values


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
        self.keys = len(keys)
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
    border = np.cumsum(chains.length)
    first = border - chains.length
    words = chains.words
    if len(chains.chain) != chains.keys or (chains.chain[1:] < chains.chain[:-1]).any():
        # Equal chains of several processes are there once for each.
        total = int(chains.length.sum())
        words = words[np.arange(total) - np.repeat(first - chains.start, chains.length)]
    mark = words >= _FIRST_CONTEXT
    begins = mark.copy()
    begins[first[chains.length > 0]] = True
    # Pieces of chains, each in the kernel or in user code: from one context mark to the next.
    piece = np.nonzero(begins)[0]
    length = np.diff(np.append(piece, len(words)))
    chain = np.searchsorted(border, piece, side="right")
    is_mark = mark[piece]
    owner = _owner(words[piece], is_mark, chains.mode[chain], chains.space[chain])
    real = ~mark
    frames, table = _frames(words[real], np.repeat(owner, length)[real], placed, names)
    marks = np.bincount(chain[is_mark], minlength=len(chains.length))
    return _stacks(frames, table, chains.length - marks, chains, max_stack)


def _owner(words: Words, is_mark: npt.NDArray[np.bool_], mode: Longs, space: Longs) -> Longs:
    """Return whose addresses follow: a space's number for user code, else _KERNEL or _OTHER."""
    user = np.where(is_mark, words == _CONTEXT_USER, mode == MODE_USER)
    kernel = np.where(is_mark, words == _CONTEXT_KERNEL, mode == MODE_KERNEL)
    return np.where(user, space, np.where(kernel, _KERNEL, _OTHER))


def _frames(
    addresses: Words, owner: Longs, placed: Placed, names: Names
) -> tuple[npt.NDArray[np.int32], list[Frame]]:
    """Return the number of each address's frame, and the frames."""
    owners, different, back = _different(owner, addresses)
    table: dict[Frame, int] = {}
    numbers = np.zeros(len(different), dtype=np.int32)
    for number, chosen in grouped(owners):
        if number == _KERNEL:
            # Kernel code is the same for all processes.
            named: Sequence[Frame] = names.kernel(different[chosen])
        elif number == _OTHER:
            # Of hypervisors and guests nothing is known.
            named = names.user(None, different[chosen])
        else:
            named = _user(placed.spaces[number], different[chosen], names)
        # Mostly the same objects again and again: their equality need not be looked at.
        known: dict[int, int] = {}
        numbers[chosen] = [
            known[id(frame)]
            if id(frame) in known
            else known.setdefault(id(frame), table.setdefault(frame, len(table)))
            for frame in named
        ]
    return numbers[back], list(table)


def _different(owner: Longs, addresses: Words) -> tuple[Longs, Words, Longs]:
    """Return the different pairs, by owner and address, and where each pair's own is."""
    top = addresses >> _TOP
    if len(owner) and int(owner.max()) < _MANY_OWNERS and bool(((top == 0) | (top == _ALL)).all()):
        # Addresses of x86-64 and arm64 fit into one word together with their owner.
        key = (owner - _OTHER).astype(np.uint64) << _OWNER_AT
        key |= (addresses & _ADDRESS) | (top & _ONE) << _TOP
        keys, back = np.unique(key, return_inverse=True)
        low, high = keys & _ADDRESS, keys >> _TOP & _ONE
        return (keys >> _OWNER_AT).astype(np.int64) + _OTHER, low | high * (_ALL << _TOP), back
    order = np.lexsort((addresses, owner))
    new = np.ones(len(order), dtype=bool)
    owners, ordered = owner[order], addresses[order]
    new[1:] = (owners[1:] != owners[:-1]) | (ordered[1:] != ordered[:-1])
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.cumsum(new) - 1
    return owners[new], ordered[new], back


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
    frame = table.__getitem__
    stacks = []
    for cut, key in numbers:
        stack = tuple(map(frame, memoryview(key).cast("i")))
        stacks.append((TRUNCATED, *stack) if cut else stack)
    return _Stacks(stacks, of_chain, truncated, len(table))
