"""Edge, pure: `verdict.json` of anybody -> what a comment, an annotation and a gate tell of it.

The file may come from a fork's build, so everything in it is checked: sizes, counts, kinds and
the outcome, which must be that of its benchmarks. Keys that are not read are ignored, as
docs/verdict.schema.json asks for; another version is refused.
"""

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from ci_flame.diff import Change
from ci_flame.errors import FormatError
from ci_flame.report.json_report import SCHEMA_VERSION
from ci_flame.verdict import Outcome, counted, overall, severity_of, worst
from ci_flame.verdict.absent import ABSENT

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_BENCHMARKS: Final = 20_000
"""In all modes together; as many findings, as many notes."""
MAX_FUNCTIONS: Final = 2_000
"""Of one benchmark; ten times what is written."""
MAX_PATH: Final = 10_000
MAX_TEXT: Final = 1_000_000
"""Letters of one text: a sentence holds names, and code gives names without limit."""
MAX_FILE: Final = 4_096
MAX_LINE: Final = 10_000_000
MAX_DIGITS: Final = 30
WARNINGS: Final = frozenset({"policy-changed", "rule-unused", "unseen"})
"""Notes of a build that say that its gate is not what it seems."""


@dataclass(frozen=True, slots=True)
class Where:
    """A line of a file, from the repository's root."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class ToldFinding:
    """One hot path that broke a rule, as the file tells it."""

    benchmark: str
    mode: str
    sentence: str
    outcome: Outcome
    function: str
    path: tuple[str, ...]
    """Outermost first; its last is the function."""
    costs: tuple[tuple[float, float], ...]
    """Nanoseconds before and after of each box of `path`; empty: none is drawn."""
    change: Change
    impact: float
    """Change / cost of the benchmark before; 0 where that has no meaning (metrics)."""
    where: Where | None
    """None: not known."""
    own: bool = False
    """True: `change` is of own cost."""
    under: str = ""
    """The caller, where `change` is of the calls from there only."""


@dataclass(frozen=True, slots=True)
class ToldFunction:
    """One function that is listed as changed."""

    function: str
    total: Change


@dataclass(frozen=True, slots=True)
class ToldBenchmark:
    """One benchmark in one mode."""

    benchmark: str
    mode: str
    outcome: Outcome
    where: Where | None
    """Line of its test."""
    findings: tuple[ToldFinding, ...]
    notes: tuple[str, ...]
    total: Change | None
    """None where there was nothing to compare with."""
    changed: tuple[ToldFunction, ...]
    """Those that are listed as changed, largest change first."""
    absent: str = ""
    """Slug of the note that says why there is no before side; empty: there is one."""
    recorded: str = ""
    """Commit that was recorded beside it and compared with, not what is stored; empty: none."""


@dataclass(frozen=True, slots=True)
class Told:
    """A whole build."""

    outcome: Outcome
    benchmarks: tuple[ToldBenchmark, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    """Those of the notes that say that the gate is not what it seems."""
    before_commit: str
    """Empty: not known."""
    after_commit: str
    collector: str
    """`ebpf, cpu-clock`; empty: not known."""
    recorded: str = ""
    """Commit that was recorded in the build instead of any stored run; empty: none."""

    @property
    def counts(self) -> "Mapping[Outcome, int]":
        """Return how many benchmarks have each outcome, as `Verdict.counts`."""
        return counted((each.benchmark, each.outcome) for each in self.benchmarks)

    @property
    def findings(self) -> tuple[ToldFinding, ...]:
        """Return all findings, the most important first: failures by impact, then warnings."""
        return tuple(sorted((f for each in self.benchmarks for f in each.findings), key=importance))


def importance(finding: ToldFinding) -> tuple[int, float, str, str]:
    """Return what findings are sorted by; the most important is the smallest."""
    return (
        -severity_of(finding.outcome),
        -abs(finding.impact),
        finding.function,
        finding.sentence,
    )


def decode(data: bytes, source: str) -> Told:
    """Return what the file tells; FormatError names what is wrong, and where in it."""
    if len(data) > MAX_BYTES:
        raise FormatError(source, f"{len(data):,} bytes; at most {MAX_BYTES:,}")
    try:
        document = json.loads(data.decode(), parse_constant=_no_constant, parse_int=_short_integer)
    except UnicodeDecodeError as error:
        raise FormatError(source, f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise FormatError(source, "nested too deeply for a verdict") from None
    except ValueError as error:
        raise FormatError(source, f"not JSON: {str(error)[:100]}") from None
    return _Reader(source).told(document)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


class _Reader:
    """Checks one document; `place` is the way to a value, as in `benchmarks[3].outcome`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._room = {
            "benchmark": MAX_BENCHMARKS,
            "finding": MAX_BENCHMARKS,
            "note": MAX_BENCHMARKS,
        }

    def told(self, document: object) -> Told:
        whole = self._object(document, "")
        version = whole.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise FormatError(
                self._source,
                f"has schema version {str(version)[:20]}, this ci_flame reads {SCHEMA_VERSION}",
                "use the same release of ci_flame to check and to publish",
            )
        benchmarks = tuple(
            self._benchmark(each, f"benchmarks[{n}]")
            for n, each in enumerate(self._items(whole, "benchmarks", "", "benchmark"))
        )
        outcome = self._outcome(whole, "")
        real = overall(each.outcome for each in benchmarks)
        # Earlier releases told a build of which one benchmark was new to have no baseline.
        if outcome not in (real, worst(each.outcome for each in benchmarks)):
            # A build may be in doubt where no benchmark is: no rule named anything.
            if severity_of(real) > severity_of(Outcome.INCONCLUSIVE) or (
                outcome is not Outcome.INCONCLUSIVE
            ):
                self._fail("outcome", f"is {outcome}, and the benchmarks' is {real}")
            real = outcome
        before = self._side(whole, "before")
        after = self._side(whole, "after")
        return Told(
            outcome=real,
            benchmarks=benchmarks,
            notes=self._notes(whole, ""),
            warnings=self._notes(whole, "", WARNINGS),
            before_commit=before[0],
            after_commit=after[0],
            collector=after[1] or before[1],
            recorded=self._recorded(whole, ""),
        )

    def _benchmark(self, value: object, place: str) -> ToldBenchmark:
        each = self._object(value, place)
        diff = each.get("diff")
        total = None
        if diff is not None:
            total = self._change(self._object(diff, f"{place}.diff"), "total", f"{place}.diff")
        functions = self._list(each, "functions", place, MAX_FUNCTIONS)
        name, mode = self._text(each, "benchmark", place), self._text(each, "mode", place)
        findings = tuple(
            self._finding(found, f"{place}.findings[{n}]", name, mode)
            for n, found in enumerate(self._items(each, "findings", place, "finding"))
        )
        outcome = self._outcome(each, place)
        if findings and severity_of(outcome) < max(severity_of(f.outcome) for f in findings):
            self._fail(f"{place}.outcome", f"is {outcome}, and a finding's is worse")
        return ToldBenchmark(
            benchmark=name,
            mode=mode,
            outcome=outcome,
            where=self._where(each, place),
            findings=findings,
            notes=self._notes(each, place),
            total=total,
            changed=tuple(self._functions(functions, f"{place}.functions")),
            absent=self._absent(each, place),
            recorded=self._recorded(each, place),
        )

    def _functions(self, values: Sequence[object], place: str) -> "list[ToldFunction]":
        found = []
        for n, value in enumerate(values):
            here = f"{place}[{n}]"
            each = self._object(value, here)
            if each.get("changed") is True:
                name = self._text(each, "function", here)
                found.append(ToldFunction(name, self._change(each, "total", here)))
        return found

    def _finding(self, value: object, place: str, benchmark: str, mode: str) -> ToldFinding:
        each = self._object(value, place)
        path = self._path(each, place)
        impact = self._number(each.get("impact"), f"{place}.impact")
        return ToldFinding(
            benchmark=benchmark,
            mode=mode,
            sentence=self._text(each, "sentence", place),
            outcome=self._outcome(each, place, (Outcome.FAIL, Outcome.WARN)),
            function=self._text(each, "function", place),
            path=path,
            costs=self._costs(each, place, len(path)),
            change=self._change(each, "change", place),
            impact=impact or 0.0,
            where=self._where(each, place),
            own=each.get("self_only") is True,
            under=self._text(each, "under", place, may_miss=True),
        )

    def _where(self, within: dict[str, object], place: str) -> Where | None:
        """Return a place in the repository; None where there is none, or it leads out of it."""
        if within.get("where") is None:
            return None
        here = f"{place}.where"
        spot = self._object(within["where"], here)
        file = self._text(spot, "file", here)
        line = self._number(spot.get("line"), f"{here}.line") or 0
        inside = not file.startswith("/") and ".." not in file.split("/") and file.isprintable()
        fits = 0 < len(file) <= MAX_FILE and 0 < line <= MAX_LINE
        return Where(file, int(line)) if inside and fits else None

    def _path(self, each: dict[str, object], place: str) -> tuple[str, ...]:
        frames = self._list(each, "path", place, MAX_PATH)
        if not all(isinstance(frame, str) for frame in frames):
            self._fail(f"{place}.path", "holds something else than names")
        return tuple(str(frame)[:MAX_TEXT] for frame in frames)

    def _costs(
        self, each: dict[str, object], place: str, length: int
    ) -> tuple[tuple[float, float], ...]:
        if each.get("path_costs") is None:
            return ()
        rows = self._list(each, "path_costs", place, MAX_PATH)
        if len(rows) != length:
            self._fail(f"{place}.path_costs", f"has {len(rows)} boxes, the path {length}")
        costs = []
        for row in rows:
            if not isinstance(row, list) or len(row) != 2:  # noqa: PLR2004 - before and after
                self._fail(f"{place}.path_costs", "holds something else than pairs")
            before, after = (self._number(side, f"{place}.path_costs") for side in row)
            costs.append((before or 0.0, after or 0.0))
        return tuple(costs)

    def _change(self, within: dict[str, object], key: str, place: str) -> Change:
        here = f"{place}.{key}"
        each = self._object(within.get(key), here)

        def number(name: str, otherwise: float = 0.0) -> float:
            value = self._number(each.get(name), f"{here}.{name}")
            return otherwise if value is None else value

        before_ns, after_ns = number("before_ns"), number("after_ns")
        return Change(
            before_ns=before_ns,
            after_ns=after_ns,
            before_share=number("before_share"),
            after_share=number("after_share"),
            log_ratio=number("log_ratio", math.inf if after_ns > before_ns else -math.inf),
            standard_error=number("standard_error", math.inf),
            degrees=number("degrees", math.inf),
            p_value=number("p_value", 1.0),
            low=number("low", -math.inf),
            high=number("high", math.inf),
            samples_before=int(number("samples_before")),
            samples_after=int(number("samples_after")),
        )

    def _side(self, whole: dict[str, object], key: str) -> tuple[str, str]:
        """Return the commit and what recorded it; empty where there is no such side."""
        if whole.get(key) is None:
            return "", ""
        side = self._object(whole[key], key)
        commit = self._commit(side, key)
        environment = self._object(side.get("environment"), f"{key}.environment")
        told = (
            self._text(environment, name, f"{key}.environment", may_miss=True)
            for name in ("collector", "event")
        )
        return commit, ", ".join(word for word in told if word)

    def _notes(
        self, within: dict[str, object], place: str, slugs: Container[str] = ()
    ) -> tuple[str, ...]:
        """Return the texts of all notes, or of those with one of these slugs."""
        notes = self._items(within, "notes", place, "note")
        here = f"{place}.notes" if place else "notes"
        told = [self._object(note, f"{here}[{n}]") for n, note in enumerate(notes)]
        return tuple(
            self._text(note, "text", f"{here}[{n}]")
            for n, note in enumerate(told)
            if not slugs or str(note.get("slug")) in slugs
        )

    def _commit(self, within: dict[str, object], place: str) -> str:
        commit = self._text(within, "commit", place, may_miss=True)
        if commit and not (len(commit) <= 64 and set(commit.lower()) <= set("0123456789abcdef")):  # noqa: PLR2004 - SHA-256
            self._fail(f"{place}.commit", "is not a commit")
        return commit

    def _recorded(self, within: dict[str, object], place: str) -> str:
        """Return the commit that a note says was recorded in this build."""
        notes = self._list(within, "notes", place, MAX_BENCHMARKS)
        here = f"{place}.notes".lstrip(".")
        commits = [self._commit(self._object(each, here), here) for each in notes]
        return next(filter(None, commits), "")

    def _absent(self, within: dict[str, object], place: str) -> str:
        notes = self._list(within, "notes", place, MAX_BENCHMARKS)
        slugs = (self._object(each, f"{place}.notes").get("slug") for each in notes)
        return next((str(slug) for slug in slugs if slug in ABSENT), "")

    def _outcome(
        self, within: dict[str, object], place: str, known: Sequence[Outcome] = tuple(Outcome)
    ) -> Outcome:
        word = within.get("outcome")
        if not isinstance(word, str) or word not in known:
            self._fail(f"{place}.outcome".lstrip("."), "is none of " + ", ".join(known))
        return Outcome(word)

    def _items(
        self, within: dict[str, object], key: str, place: str, kind: str
    ) -> Sequence[object]:
        """Return a list whose items are counted over the whole document."""
        items = self._list(within, key, place, MAX_BENCHMARKS)
        self._room[kind] -= len(items)
        if self._room[kind] < 0:
            self._fail(kind, f"over {MAX_BENCHMARKS:,} of them in all")
        return items

    def _list(self, within: dict[str, object], key: str, place: str, most: int) -> Sequence[object]:
        value = within.get(key)
        here = f"{place}.{key}".lstrip(".")
        if not isinstance(value, list):
            self._fail(here, "is missing, or not a list")
        if len(value) > most:
            self._fail(here, f"has {len(value):,} items; at most {most:,}")
        return value

    def _object(self, value: object, place: str) -> dict[str, object]:
        if not isinstance(value, dict):
            self._fail(place or "it", "is missing, or not an object")
        return value

    def _text(
        self, within: dict[str, object], key: str, place: str, *, may_miss: bool = False
    ) -> str:
        value = within.get(key)
        if value is None and may_miss:
            return ""
        here = f"{place}.{key}"
        if not isinstance(value, str):
            self._fail(here, "is missing, or not text")
        if len(value) > MAX_TEXT:
            self._fail(here, f"has {len(value):,} letters; at most {MAX_TEXT:,}")
        return value

    def _number(self, value: object, place: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(place, "is not a number")
        if not math.isfinite(value):
            self._fail(place, "is not finite")  # 1e999 is legal JSON
        return value

    def _fail(self, place: str, told: str) -> NoReturn:
        raise FormatError(self._source, f"not a verdict of ci_flame: {place} {told}")
