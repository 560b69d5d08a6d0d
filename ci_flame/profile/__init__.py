"""Model, pure: what every format is read into and every stage takes and returns.

    main;shop.api:checkout;shop.parser:tokenize 12
    └─ Frame ─┘             Stack, outermost first; 12 samples of it

A `Profile` is a multiset of stacks. A `Round` is one window of a benchmark with its
profile and its clocks; rounds belong to a `Process`, processes to a `Measurement`
(one benchmark), measurements to a `Run` (what a baseline holds).
"""

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ci_flame.errors import FormatError
from ci_flame.profile.counts import Count, Counting
from ci_flame.profile.frame import (
    GC,
    RUN_QUEUE,
    TOTAL,
    TRUNCATED,
    UNKNOWN,
    Frame,
    Kind,
    Place,
    Stack,
    fold,
)
from ci_flame.profile.timing import Timing

__all__ = [
    "BIASES",
    "GC",
    "HISTOGRAM_BUCKETS",
    "HISTOGRAM_OCTAVE",
    "RUN_QUEUE",
    "TOTAL",
    "TRUNCATED",
    "UNKNOWN",
    "UNTOLD_NS",
    "Count",
    "Environment",
    "Frame",
    "Histogram",
    "Kind",
    "Listed",
    "Measurement",
    "Mode",
    "Place",
    "Process",
    "Profile",
    "Round",
    "Run",
    "Stack",
    "Unit",
    "Weight",
    "fold",
    "merge",
]


class Mode(StrEnum):
    """What a profile's weights count."""

    ON_CPU = "on-cpu"
    OFF_CPU = "off-cpu"


class Unit(StrEnum):
    """What one unit of weight is."""

    SAMPLES = "samples"
    NANOSECONDS = "nanoseconds"


@dataclass(frozen=True, slots=True)
class Weight:
    """How often a stack was seen, and how much that stands for."""

    samples: int
    value: int
    """In the profile's unit."""

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(self.samples + other.samples, self.value + other.value)


@dataclass(frozen=True, slots=True, eq=False)
class Listed(Mapping[Stack, Weight]):
    """Weights by stack, over a list of stacks that many profiles share.

    What is read from a file: a stack is seen in hundreds of rounds, and as the key of a dict
    all of its frames would be hashed again in each of them.
    """

    shared: Sequence[Stack]
    """Different stacks; not all of them are in this profile."""
    numbers: Sequence[int]
    """Of `shared`, each once."""
    weights: Sequence[Weight]
    """Of `numbers`."""

    def __getitem__(self, stack: Stack) -> Weight:
        for number, weight in zip(self.numbers, self.weights, strict=True):
            if self.shared[number] == stack:
                return weight
        raise KeyError(stack)

    def __iter__(self) -> Iterator[Stack]:
        return map(self.shared.__getitem__, self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def values(self) -> ValuesView[Weight]:
        """Return the weights, without a look-up of each."""
        return _ListedValues(self)

    def items(self) -> ItemsView[Stack, Weight]:
        """Return stacks and weights, without a look-up of each."""
        return _ListedItems(self)


class _ListedValues(ValuesView[Weight]):
    _mapping: Listed

    def __iter__(self) -> Iterator[Weight]:
        return iter(self._mapping.weights)


class _ListedItems(ItemsView[Stack, Weight]):
    _mapping: Listed

    def __iter__(self) -> Iterator[tuple[Stack, Weight]]:
        return zip(self._mapping, self._mapping.weights, strict=True)


def _no_stacks() -> Mapping[Stack, Weight]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Profile:
    """A multiset of stacks, and the iterations of the benchmark that made it."""

    stacks: Mapping[Stack, Weight] = field(default_factory=_no_stacks)
    unit: Unit = Unit.NANOSECONDS
    iterations: int = 1

    @property
    def samples(self) -> int:
        """Number of samples in all stacks."""
        return sum(weight.samples for weight in self.stacks.values())

    @property
    def value(self) -> int:
        """Weight of all stacks, in the profile's unit."""
        return sum(weight.value for weight in self.stacks.values())

    def check(self, source: str = "profile") -> "Profile":
        """Return self; raise FormatError where a rule of the model is broken."""
        if self.iterations < 1:
            raise FormatError(source, f"{self.iterations} iterations; at least 1 is needed")
        for stack, weight in self.stacks.items():
            if not stack:
                raise FormatError(source, "an empty stack")
            if weight.samples < 0 or weight.value < 0:
                raise FormatError(
                    source,
                    f"negative weight {weight.samples} samples, {weight.value} {self.unit}"
                    f" on {fold(stack)}",
                )
        return self


def merge(profiles: Iterable[Profile]) -> Profile:
    """Add profiles up: weights by stack, and their iterations; units must agree."""
    stacks: dict[Stack, Weight] = {}
    units: set[Unit] = set()
    iterations = 0
    for profile in profiles:
        units.add(profile.unit)
        iterations += profile.iterations
        for stack, weight in profile.stacks.items():
            have = stacks.get(stack)
            stacks[stack] = weight if have is None else have + weight
    if len(units) > 1:
        raise ValueError(f"profiles of different units: {', '.join(sorted(units))}")
    return Profile(stacks, units.pop() if units else Unit.NANOSECONDS, max(iterations, 1))


def _no_references() -> Mapping[str, tuple[int, ...]]:
    return MappingProxyType({})


def _no_profiles() -> "Mapping[Mode, Profile]":
    return MappingProxyType({})


UNTOLD_NS: Final = 1_000_000_000
"""Cost of an iteration of an imported file that tells none: a second of CPU time."""
HISTOGRAM_OCTAVE: Final = 4
"""Buckets of a histogram between a value and its double."""
HISTOGRAM_BUCKETS: Final = 256
"""2^64 us would be in the last one."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a latency was seen, in buckets that grow by a quarter of an octave.

    Bucket 0 holds 0 and 1 us; bucket b > 0 holds the whole microseconds v with
    `bucket(v) == b`: four to the octave, so that a percentile is exact to 19 %.
    """

    counts: Mapping[int, int]
    """Bucket -> observations; empty buckets are left out."""

    @staticmethod
    def bucket(microseconds: int) -> int:
        """Return the bucket of a latency; the BPF programs compute the same in whole numbers.

        `4 * log2(v)`, its fraction taken from the two bits below the highest.
        """
        if microseconds <= 1:
            return 0
        octave = microseconds.bit_length() - 1
        return HISTOGRAM_OCTAVE * octave + ((microseconds << 2 >> octave) & 3)

    @staticmethod
    def upper(bucket: int) -> int:
        """Return the largest whole microseconds that the bucket holds."""
        if bucket < HISTOGRAM_OCTAVE:
            return 1
        octave, quarter = divmod(bucket, HISTOGRAM_OCTAVE)
        return max((((5 + quarter) << octave) - 1) >> 2, 1)

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts.values())

    def percentile(self, share: float) -> int:
        """Return the upper end, in us, of the bucket that holds this share (0 to 1); 0: empty."""
        wanted = share * self.count
        seen = 0
        for bucket, count in sorted(self.counts.items()):
            seen += count
            if count and seen >= wanted:
                return self.upper(bucket)
        return 0

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Histogram(counts)


@dataclass(frozen=True, slots=True)
class Round:
    """One window of a benchmark: some iterations, the clocks around them, the samples in them."""

    iterations: int
    cpu_ns: int
    """CPU time of the window, all iterations (all threads and waited-for children)."""
    wall_ns: int
    run_delay_ns: int = 0
    """Time spent runnable but waiting for a CPU."""
    references: Mapping[str, tuple[int, ...]] = field(default_factory=_no_references)
    """CPU ns of each repetition of each kind of reference work run right after the window."""
    profiles: Mapping[Mode, Profile] = field(default_factory=_no_profiles)
    dropped: str = ""
    """Why the judge must leave this round out (run-queue delay, lost samples); empty: it counts."""
    steal_ns: int = 0
    """Time that the hypervisor gave this machine's CPUs to others, all CPUs together."""


def _no_counts() -> Mapping[Frame, Count]:
    return MappingProxyType({})


def _no_metrics() -> Mapping[str, float]:
    return MappingProxyType({})


def _no_histograms() -> Mapping[str, Histogram]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Process:
    """One process's rounds of one benchmark, and the collector's account of itself."""

    rounds: tuple[Round, ...]
    kept: int = 0
    """Samples in the benchmark's windows that reached the recording."""
    lost: int = 0
    """Samples the collector knows it lost in the windows."""
    expected: int = 0
    """CPU time of the windows x frequency."""
    truncated: int = 0
    """Samples whose outermost frames did not fit."""
    unrooted: int = 0
    """Samples without the benchmark's function in their stack."""
    counts: Mapping[Frame, Count] = field(default_factory=_no_counts)
    """Exact, of one untimed iteration."""
    counting: Counting | None = None
    """How they were made, or why there are none; None: nobody asked for them."""
    timing: Timing | None = None
    """Suspects timed call by call in further rounds; None: nobody asked for it."""
    metrics: Mapping[str, float] = field(default_factory=_no_metrics)
    """Figures a rule can limit (`run_queue.p99_ms`), and the collector's cost (`collector.*`)."""
    histograms: Mapping[str, Histogram] = field(default_factory=_no_histograms)
    """Latencies in us: `run_queue`, `block_io.DEVICE.read`, `block_io.DEVICE.write`."""
    warm_up_ns: int = 0
    """CPU time spent warming up before the first round."""
    settled: bool = True
    """False: the warm-up's trend had not ended when its limit was reached."""
    notes: tuple[str, ...] = ()
    """What the collector said of this recording, one sentence each: full maps, missing names."""


def _no_places() -> Mapping[Frame, Place]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Measurement:
    """One benchmark of one run: its rounds by process, and where its functions are."""

    benchmark: str
    """The id: pytest's node id, or the `--name` of a command."""
    processes: tuple[Process, ...]
    root: Frame | None = None
    """The benchmark's function; stacks are trimmed so that they begin with it."""
    places: Mapping[Frame, Place] = field(default_factory=_no_places)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes that any round was recorded in, on-CPU first."""
        found = {m for p in self.processes for r in p.rounds for m in r.profiles}
        return tuple(mode for mode in Mode if mode in found)

    def profile(self, mode: Mode = Mode.ON_CPU) -> Profile:
        """Merge the profiles of all rounds of one mode."""
        rounds = (r for process in self.processes for r in process.rounds)
        return merge(r.profiles[mode] for r in rounds if mode in r.profiles)

    def check(self, source: str = "measurement") -> "Measurement":
        """Return self; raise FormatError where a rule of the model is broken."""
        if not self.benchmark:
            raise FormatError(source, "a benchmark without an id")
        units: dict[Mode, Unit] = {}
        for process in self.processes:
            if process.timing is not None:
                process.timing.check(source)
            for each in process.rounds:
                if each.iterations < 1:
                    raise FormatError(source, f"{each.iterations} iterations in a round")
                if min(each.cpu_ns, each.wall_ns, each.run_delay_ns) < 0:
                    raise FormatError(source, f"{self.benchmark}: a negative time in a round")
                for mode, profile in each.profiles.items():
                    profile.check(source)
                    if units.setdefault(mode, profile.unit) != profile.unit:
                        raise FormatError(source, f"{self.benchmark}: rounds of different units")
        return self


BIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "py-spy": "py-spy samples by the wall clock while a thread is runnable, reads stacks in"
        " motion (about 1 in 25 is torn and left out), and sees Python functions only"
    }
)
"""Collector -> what its profiles are known to get wrong, in one line; reports say it."""
_CLOCKS: Final = frozenset({"cpu-clock", "task-clock"})
"""Events of perf that count time."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What decides whether two runs may be compared, and nothing else of the machine."""

    architecture: str
    cpu_model: str
    cores: int
    kernel: str
    python: str
    """Full version of the measured interpreter (`3.11.7`); empty for other commands."""
    collector: str
    event: str
    frequency_hz: int
    ci_flame: str
    layout: str = "random"
    """`random`, or `fixed-…`: where the interpreter's code lay (`layout.describe`)."""

    @property
    def bias(self) -> str:
        """What profiles of this collector are known to get wrong; empty: nothing to speak of."""
        if self.collector != "perf":
            return BIASES.get(self.collector, "")
        event = self.event.partition("/")[0]
        name = event.removesuffix(":u")
        told = []
        if event != name:
            told.append(
                f"perf sampled user code only ({event}): time in the kernel is in no sample, and is"
                " shared out among the functions that are"
            )
        if name not in _CLOCKS:
            told.append(
                f"samples count {name}: what is shown as time is the CPU time, shared out by them"
            )
        return "; ".join(told)

    @property
    def python_minor(self) -> str:
        """`3.11` of `3.11.7`."""
        return ".".join(self.python.split(".")[:2])

    @property
    def imported(self) -> bool:
        """True: made of another tool's files (`import:folded`), not recorded by ci_flame."""
        return self.collector.startswith("import:")


@dataclass(frozen=True, slots=True)
class Run:
    """What one recording session made, and what a baseline holds."""

    environment: Environment
    measurements: tuple[Measurement, ...]
    commit: str = ""
    """Full hash of the measured commit; empty outside git."""
    dirty: bool = False
    """True: the work tree differed from the commit."""
    time: str = ""
    """UTC, ISO 8601, seconds."""
    complete: bool = True
    """False: interrupted; refused as a baseline."""
    seed: str = ""
    """Of the random order in which both sides' processes ran; empty: one side alone."""

    def measurement(self, benchmark: str) -> Measurement | None:
        """Return the measurement of one benchmark, or None."""
        return next((m for m in self.measurements if m.benchmark == benchmark), None)

    def check(self, source: str = "run") -> "Run":
        """Return self; raise FormatError where a rule of the model is broken."""
        seen: set[str] = set()
        for measurement in self.measurements:
            if measurement.benchmark in seen:
                raise FormatError(source, f"two benchmarks with the id {measurement.benchmark}")
            seen.add(measurement.benchmark)
            measurement.check(source)
        return self
