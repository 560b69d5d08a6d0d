"""Stage 2, pure: a run without its profiles <-> `run.json`.

Rounds are written as columns (one array per figure), so that thousands of them stay small
and a person can still read the file. The profiles are in `profiles/*.pb.gz`, one file per
benchmark and mode; `Stored.files` says which. The format is described in
`docs/run-folder.md`. What is read may come from a stranger, so that every value is checked.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from ci_flame.errors import FormatError
from ci_flame.formats import counts_json, timing_json
from ci_flame.formats.counts_json import frame_row, read_frame
from ci_flame.formats.fields import Node, parse
from ci_flame.formats.pprof_write import shown
from ci_flame.profile import (
    HISTOGRAM_BUCKETS,
    Environment,
    Histogram,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Unit,
)

SCHEMA_VERSION: Final = 1
# History of the format:
#   1  ci-flame 0.1: environment, commit; per benchmark its files, root and places; per
#      process its counters, counts and metrics, and its rounds as columns. Optional: a
#      process's `notes`, `counting`, `timing`, and the totals of counts.

MAX_TEXT: Final = 64 << 20
MAX_BENCHMARKS: Final = 10_000
MAX_PROCESSES: Final = 1_000
MAX_ROUNDS: Final = 1_000_000
MAX_NOTES: Final = 1_000
MAX_NAME: Final = counts_json.MAX_NAME
_FORMAT: Final = "ci-flame run"
_SLUG_LENGTH: Final = 80
_KEYS: Final = (
    "format",
    "schema_version",
    "complete",
    "time",
    "commit",
    "dirty",
    "seed",
    "environment",
    "benchmarks",
)
_FILE: Final = re.compile(r"profiles/\w[\w-]{0,95}\.(?P<mode>on-cpu|off-cpu)\.pb\.gz", re.ASCII)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_COLUMNS: Final = ("iterations", "cpu_ns", "wall_ns", "run_delay_ns", "steal_ns")
_COUNTERS: Final = ("kept", "lost", "expected", "truncated", "unrooted", "warm_up_ns")


@dataclass(frozen=True, slots=True)
class Stored:
    """What `run.json` says: the run with empty profiles, and where their stacks are."""

    run: Run
    files: Mapping[str, Mapping[Mode, str]]
    """Benchmark -> mode -> file, relative to the folder."""


def file_name(benchmark: str, mode: Mode) -> str:
    """Return the file of one benchmark and mode: a readable part, and 8 hex digits of the id."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", benchmark).strip("-")[:_SLUG_LENGTH].strip("-")
    digest = hashlib.sha256(benchmark.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"profiles/{slug or 'benchmark'}-{digest}.{mode}.pb.gz"


def encode(run: Run) -> str:
    """Return `run.json` of a run; the same run gives the same text.

    Raises FormatError where two benchmarks have one id or would share a file.
    """
    run.check("the run")
    names: set[str] = set()
    for measurement in run.measurements:
        _check_metrics(measurement)
        for mode in measurement.modes:
            name = file_name(measurement.benchmark, mode)
            if name in names:
                raise FormatError("the run", f"two benchmarks would share {name}", "rename one")
            names.add(name)
    document = {
        "format": _FORMAT,
        "schema_version": SCHEMA_VERSION,
        "complete": run.complete,
        "time": run.time,
        "commit": run.commit,
        "dirty": run.dirty,
        **({"seed": run.seed} if run.seed else {}),
        "environment": {
            each.name: getattr(run.environment, each.name) for each in fields(Environment)
        },
        "benchmarks": [_benchmark(measurement) for measurement in run.measurements],
    }
    return _dump(document, "") + "\n"


def decode(text: str, source: str) -> Stored:
    """Return what `run.json` says; FormatError names the field that is wrong.

    Versions that this ci-flame does not know are refused by name.
    """
    if len(text) > MAX_TEXT:
        raise FormatError(source, f"{len(text)} characters; the limit is {MAX_TEXT}")
    root = parse(text, source)
    if root.get("format").text(MAX_NAME) != _FORMAT:
        raise root.error(f"format is not {_FORMAT!r}")
    version = root.get("schema_version").integer()
    if version != SCHEMA_VERSION:
        raise FormatError(
            source,
            f"has format {version}, this ci-flame reads {SCHEMA_VERSION}",
            "record it again with this ci-flame, or use the ci-flame that wrote it",
        )
    root.only(_KEYS)
    benchmarks = root.get("benchmarks").items(MAX_BENCHMARKS)
    measurements = []
    files: dict[str, Mapping[Mode, str]] = {}
    for node in benchmarks:
        measurement, of_mode = _read_benchmark(node)
        if measurement.benchmark in files:
            raise node.error(f"two benchmarks with the id {measurement.benchmark}")
        files[measurement.benchmark] = of_mode
        measurements.append(measurement)
    names = [name for of_mode in files.values() for name in of_mode.values()]
    if len(set(names)) < len(names):
        raise root.error("two benchmarks share a file")
    run = Run(
        environment=_read_environment(root.get("environment")),
        measurements=tuple(measurements),
        commit=root.get("commit").text(MAX_NAME),
        dirty=root.get("dirty").boolean(),
        time=root.get("time").text(MAX_NAME),
        complete=root.get("complete").boolean(),
        seed=root.get("seed").text(MAX_NAME) if _has(root, "seed") else "",
    )
    return Stored(run.check(source), files)


def _has(node: Node, key: str) -> bool:
    """Tell whether an object has an optional entry."""
    return isinstance(node.value, dict) and key in node.value


# --- writing ---------------------------------------------------------------------------


def _check_metrics(measurement: Measurement) -> None:
    for process in measurement.processes:
        for name, value in process.metrics.items():
            if not math.isfinite(value):
                raise FormatError(measurement.benchmark, f"the metric {name} is {value}")


def _benchmark(measurement: Measurement) -> dict[str, object]:
    modes = measurement.modes
    # By object first: hashing frames is slow, and rounds hold the same stacks.
    stacks = {
        id(stack): stack
        for process in measurement.processes
        for each in process.rounds
        for profile in each.profiles.values()
        for stack in profile.stacks
    }
    seen = set({id(frame): frame for stack in stacks.values() for frame in stack}.values())
    return {
        "id": measurement.benchmark,
        "root": None if measurement.root is None else frame_row(measurement.root),
        "profiles": {str(mode): file_name(measurement.benchmark, mode) for mode in modes},
        "processes": [_process(process) for process in measurement.processes],
        # Places of functions in stacks are in the pprof files.
        "places": [
            [*frame_row(frame), place.file, place.line]
            for frame, place in sorted(measurement.places.items())
            if frame not in seen or not shown(place)
        ],
    }


def _process(process: Process) -> dict[str, object]:
    kinds = sorted({kind for each in process.rounds for kind in each.references})
    modes = sorted({mode for each in process.rounds for mode in each.profiles})
    return {
        **{name: getattr(process, name) for name in _COUNTERS},
        "settled": process.settled,
        # Only where there are any: a ci-flame that does not know the key reads the others.
        **({"notes": list(process.notes)} if process.notes else {}),
        "metrics": dict(sorted(process.metrics.items())),
        "histograms": {
            name: [list(pair) for pair in sorted(histogram.counts.items())]
            for name, histogram in sorted(process.histograms.items())
        },
        **counts_json.written(process),
        **timing_json.written(process),
        "rounds": {
            **{name: [getattr(each, name) for each in process.rounds] for name in _COLUMNS},
            "references": {
                kind: [
                    None if (times := each.references.get(kind)) is None else list(times)
                    for each in process.rounds
                ]
                for kind in kinds
            },
            "dropped": {
                str(number): each.dropped
                for number, each in enumerate(process.rounds)
                if each.dropped
            },
            "modes": {str(mode): _mode(process.rounds, mode) for mode in modes},
        },
    }


def _mode(rounds: Sequence[Round], mode: Mode) -> dict[str, object]:
    having = [number for number, each in enumerate(rounds) if mode in each.profiles]
    units = {rounds[number].profiles[mode].unit for number in having}
    iterations = [rounds[number].profiles[mode].iterations for number in having]
    every = len(having) == len(rounds)
    same = iterations == [rounds[number].iterations for number in having]
    return {
        "unit": str(units.pop()),
        "rounds": None if every else having,
        "iterations": None if same else iterations,
    }


def _dump(value: object, indent: str) -> str:
    """Return JSON with objects over several lines, and lists of plain values on one."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        rows = [f"{_scalar(key)}: {_dump(each, deeper)}" for key, each in value.items()]
        return "{\n" + ",\n".join(deeper + row for row in rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        rows = [_dump(each, deeper) for each in value]
        return "[\n" + ",\n".join(deeper + row for row in rows) + f"\n{indent}]"
    if isinstance(value, list) and value and _is_row(value[0]):
        return "[\n" + ",\n".join(deeper + _scalar(row) for row in value) + f"\n{indent}]"
    return _scalar(value)


def _is_row(value: object) -> bool:
    """Say whether a list begins with a name, and so deserves a line of its own."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def _scalar(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Lone surrogates, which UTF-8 cannot carry, become their escape as plain text.
    return text if text.isascii() else _SURROGATE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return f"\\\\u{ord(match[0]):04x}"


# --- reading ---------------------------------------------------------------------------


def _read_environment(node: Node) -> Environment:
    node.only(each.name for each in fields(Environment))
    return Environment(
        architecture=node.get("architecture").text(MAX_NAME),
        cpu_model=node.get("cpu_model").text(MAX_NAME),
        cores=node.get("cores").integer(),
        kernel=node.get("kernel").text(MAX_NAME),
        python=node.get("python").text(MAX_NAME),
        collector=node.get("collector").text(MAX_NAME),
        event=node.get("event").text(MAX_NAME),
        frequency_hz=node.get("frequency_hz").integer(),
        ci_flame=node.get("ci_flame").text(MAX_NAME),
        layout=node.get("layout").text(MAX_NAME),
    )


def _read_benchmark(node: Node) -> tuple[Measurement, Mapping[Mode, str]]:
    node.only(["id", "root", "profiles", "processes", "places"])
    benchmark = node.get("id").text(MAX_NAME)
    if not benchmark:
        raise node.error("the id is empty")
    files: dict[Mode, str] = {}
    for name, file in node.get("profiles").entries(len(Mode)):
        mode = file.choice(Mode, name)
        path = file.text(MAX_NAME)
        match = _FILE.fullmatch(path)
        if match is None or match["mode"] != mode:
            raise file.error(f"{path!r} is not a file of this folder's profiles/*.{mode}.pb.gz")
        files[mode] = path
    processes = tuple(map(_read_process, node.get("processes").items(MAX_PROCESSES)))
    measurement = Measurement(
        benchmark=benchmark,
        processes=processes,
        root=None if node.get("root").absent else read_frame(node.get("root"), 3),
        places={
            read_frame(each, 5): Place(each.at(3).text(MAX_NAME), each.at(4).integer())
            for each in node.get("places").items(None)
        },
    )
    if set(measurement.modes) != set(files):
        raise node.error("the modes of its rounds are not those of its profiles")
    return measurement, files


def _read_process(node: Node) -> Process:
    keys = ("settled", "metrics", "histograms", "counts", "counting", "timing", "rounds", "notes")
    node.only([*_COUNTERS, *keys])
    return Process(
        rounds=_read_rounds(node.get("rounds")),
        counts=counts_json.read_counts(node),
        counting=counts_json.read_counting(node),
        timing=timing_json.read_timing(node),
        metrics={name: each.number() for name, each in node.get("metrics").entries(None)},
        histograms={name: _histogram(each) for name, each in node.get("histograms").entries(None)},
        settled=node.get("settled").boolean(),
        notes=tuple(each.text(MAX_NAME) for each in node.optional("notes", MAX_NOTES)),
        **{name: node.get(name).integer() for name in _COUNTERS},
    )


def _histogram(node: Node) -> Histogram:
    counts: dict[int, int] = {}
    for pair in node.items(HISTOGRAM_BUCKETS):
        bucket, count = pair.integers(2)
        if bucket >= HISTOGRAM_BUCKETS:
            raise pair.error(f"bucket {bucket}; {HISTOGRAM_BUCKETS - 1} is the last one")
        if bucket in counts:
            raise pair.error(f"bucket {bucket} is there twice")
        counts[bucket] = count
    return Histogram(counts)


def _read_rounds(node: Node) -> tuple[Round, ...]:
    node.only([*_COLUMNS, "references", "dropped", "modes"])
    number = len(node.get("iterations").items(MAX_ROUNDS))
    columns = {name: node.get(name).integers(number) for name in _COLUMNS}
    references: list[dict[str, tuple[int, ...]]] = [{} for _ in range(number)]
    for kind, column in node.get("references").entries(None):
        for times, each in zip(references, column.items(number, exactly=True), strict=True):
            if not each.absent:
                times[kind] = each.integers(None)
    dropped = [""] * number
    for name, reason in node.get("dropped").entries(None):
        dropped[reason.index(name, number)] = reason.text(MAX_NAME)
    profiles: list[dict[Mode, Profile]] = [{} for _ in range(number)]
    for name, each in node.get("modes").entries(len(Mode)):
        mode = each.choice(Mode, name)
        for position, profile in _read_mode(each, columns["iterations"]):
            profiles[position][mode] = profile
    return tuple(
        Round(
            **{name: columns[name][position] for name in _COLUMNS},
            references=references[position],
            profiles=profiles[position],
            dropped=dropped[position],
        )
        for position in range(number)
    )


def _read_mode(node: Node, of_rounds: Sequence[int]) -> list[tuple[int, Profile]]:
    """Return the rounds that were recorded in this mode, with profiles still empty."""
    node.only(["unit", "rounds", "iterations"])
    unit = node.get("unit").choice(Unit, node.get("unit").text(MAX_NAME))
    rounds = node.get("rounds")
    having = range(len(of_rounds)) if rounds.absent else rounds.integers(None)
    if any(number >= len(of_rounds) for number in having) or len(set(having)) < len(having):
        raise rounds.error(f"a round is there twice, or above {len(of_rounds) - 1}, the last one")
    column = node.get("iterations")
    iterations = (
        [of_rounds[number] for number in having] if column.absent else column.integers(len(having))
    )
    return [
        (number, Profile({}, unit, count)) for number, count in zip(having, iterations, strict=True)
    ]
