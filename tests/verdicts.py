"""Verdicts built by hand for the tests of the reporters: a shop with one guilty function."""

import math
from dataclasses import replace
from datetime import date

from hypothesis import strategies as st

from ci_flame.diff import BenchmarkDiff, Change, FrameChange, PathChange, RunDiff
from ci_flame.policy import Limit, Policy, Rule, Waiver
from ci_flame.profile import (
    TOTAL,
    Environment,
    Frame,
    Kind,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Run,
    Stack,
    Unit,
    Weight,
)
from ci_flame.verdict import BenchmarkVerdict, Finding, Note, Outcome, Verdict, overall

ENVIRONMENT = Environment(
    architecture="x86_64",
    cpu_model="Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz",
    cores=4,
    kernel="6.8.0",
    python="3.11.7",
    collector="ebpf",
    event="cpu-clock",
    frequency_hz=1999,
    ci_flame="0.1.0",
)
BENCHMARK = "tests/bench_shop.py::test_checkout"
SAMPLES = 19_200

# own cost in µs per iteration before and after, then callees; "~" marks measurement noise only
_TREE = """
bench_shop:test_checkout 1.2 1.2
  shop.api:checkout 4.1 4.0
    shop.api:Request.parse 6.2 6.4
      shop.parser:parse_order 9.8 9.9
        shop.parser:tokenize 41.5 54.4
          native:libc.so.6:memcpy 3.1 3.3
          re:Pattern.scanner 12.4 14.2
          native:libpython3.11.so:PyUnicode_Substring 3.1 3.3
        shop.parser:Grammar.compile 8.3 8.2
          re:compile 2.1 2.2
            re._compiler:compile 4.4 4.3
              re._parser:parse 6.3 6.5
              re._compiler:_code 5.2 5.1
        shop.parser:build_tree 14.2 14.4
          shop.parser:Node.__init__ 9.7 9.5
          shop.parser:Node.link 5.5 5.6
      json:loads 1.1 1.1
        json.decoder:JSONDecoder.decode 2.2 2.1
          json.decoder:JSONDecoder.raw_decode 11.4 11.6
            native:_json.so:scan_once_unicode 18.3 18.1
    shop.cart:Cart.total 7.7 7.5
      shop.cart:Cart.lines 5.1 5.2
        shop.cart:Line.__init__ 7.8 7.6
        shop.cart:Line.price 11.2 11.3
          decimal:Decimal.__mul__ 9.4 9.5
          decimal:Decimal.quantize 13.1 12.9
      shop.cart:Cart.discount 3.3 3.3
        shop.rules:match 8.4 8.6
          shop.rules:Rule.applies 12.2 12.0
            fnmatch:fnmatch 2.9 3.0
              re:Pattern.match 5.8 5.7
    shop.tax:vat 4.5 4.4
      shop.tax:lookup 9.3 6.9
        shop.tax:_load_table 5.9 0
          json:load 2.2 0
            native:_json.so:scan_once_unicode 4.1 0
      shop.tax:cached_lookup 0 3.6
        functools:lru_cache_wrapper 0 2.4
    shop.store:Store.save 3.9 4.0
      sqlite3:Connection.execute 6.1 6.0
        native:libsqlite3.so.0:sqlite3VdbeExec 17.5 17.8
          native:libsqlite3.so.0:balance_nonroot 5.2 5.1
        kernel:do_syscall_64 2.1 2.0
          kernel:ksys_write 1.9 1.8
            kernel:ext4_file_write_iter 6.3 6.6
              kernel:generic_perform_write 4.4 4.3
          kernel:do_fsync 1.4 1.4
            kernel:ext4_sync_file 7.7 7.9
    shop.render:receipt 4.8 4.9
      jinja2.environment:Template.render 3.2 3.1
        jinja2.environment:Template.root_render_func 8.8 9.0
          markupsafe:escape 6.9 6.8
          native:_speedups.so:escape_unicode 5.0 5.1
        jinja2.runtime:Context.resolve_or_missing 7.6 7.5
      shop.render:money 5.5 5.4
        decimal:Decimal.__format__ 8.1 8.2
  [gc] 6.4 6.2
  [unknown] 1.3 1.4
"""
_JUDGED_INTO = "native:libpython3.11.so"


def change(
    before_us: float,
    after_us: float,
    *,
    error: float | None = None,
    total_before_us: float = 400.0,
    total_after_us: float = 400.0,
) -> Change:
    """Return a Change with an interval and a p-value as large samples would give them."""
    samples_before = round(before_us / total_before_us * SAMPLES)
    samples_after = round(after_us / total_after_us * SAMPLES)
    if error is None:
        seen = [samples for samples in (samples_before, samples_after) if samples]
        error = math.sqrt(sum(1 / samples for samples in seen) or 1.0) * 0.8
    if before_us and after_us:
        ratio = math.log(after_us / before_us)
        low, high = math.exp(ratio - 1.7 * error) - 1, math.exp(ratio + 1.7 * error) - 1
    elif before_us:
        ratio, low, high = -math.inf, -1.0, -1.0 + 4 / max(samples_before, 4)
    elif after_us:
        ratio, low, high = math.inf, math.inf, math.inf
    else:
        ratio, low, high = 0.0, 0.0, 0.0
    size = abs(ratio) if math.isfinite(ratio) else 2.0
    return Change(
        before_ns=before_us * 1e3,
        after_ns=after_us * 1e3,
        before_share=before_us / total_before_us,
        after_share=after_us / total_after_us,
        log_ratio=ratio,
        standard_error=error,
        degrees=16.0,
        p_value=math.erfc(size / error / math.sqrt(2)) if error else 1.0,
        low=low,
        high=high,
        samples_before=samples_before,
        samples_after=samples_after,
    )


def tree(text: str = _TREE) -> dict[Stack, tuple[float, float]]:
    """Return own costs (µs before, µs after) by path from an indented listing."""
    own: dict[Stack, tuple[float, float]] = {}
    stack: list[Frame] = []
    for line in text.strip("\n").splitlines():
        name, before, after = line.strip().rsplit(" ", 2)
        depth = (len(line) - len(line.lstrip())) // 2
        stack[depth:] = [Frame.parse(name)]
        own[tuple(stack)] = (float(before), float(after))
    return own


def benchmark_diff(
    own: dict[Stack, tuple[float, float]] | None = None, benchmark: str = BENCHMARK
) -> BenchmarkDiff:
    """Return the diff of a benchmark whose own costs are given by path."""
    own = tree() if own is None else own
    total = {
        path: tuple(
            sum(cost[side] for other, cost in own.items() if other[: len(path)] == path)
            for side in (0, 1)
        )
        for path in own
    }
    before, after = (sum(cost[side] for cost in own.values()) or 1.0 for side in (0, 1))

    def told(costs: tuple[float, ...]) -> Change:
        return change(costs[0], costs[1], total_before_us=before, total_after_us=after)

    paths = tuple(
        PathChange(
            path, told(own[path]), told(total[path]), not str(path[-1]).startswith(_JUDGED_INTO)
        )
        for path in sorted(own, key=lambda path: [str(frame) for frame in path])
    )
    frames = []
    for frame in sorted({path[-1] for path in own}):
        ends = [path for path in own if path[-1] == frame]
        outer = [path for path in ends if frame not in path[:-1]]
        frames.append(
            FrameChange(
                frame,
                told(tuple(sum(own[path][side] for path in ends) for side in (0, 1))),
                told(tuple(sum(total[path][side] for path in outer) for side in (0, 1))),
                _place(frame),
                max(ends, key=lambda path: sum(total[path])),
            )
        )
    frames.sort(key=lambda f: (-abs(f.total.after_ns - f.total.before_ns), str(f.frame)))
    return BenchmarkDiff(
        benchmark=benchmark,
        mode="on-cpu",
        total=change(before, after, error=0.009, total_before_us=before, total_after_us=after),
        frames=tuple(frames),
        paths=paths,
        anchor="references+functions",
        anchor_error=0.008,
        processes_before=5,
        processes_after=5,
        smallest_visible=0.062,
    )


def _place(frame: Frame) -> Place | None:
    if frame.kind is not Kind.PYTHON:
        return None
    line = 1 + sum(map(ord, str(frame))) % 211
    return Place(
        f"src/{frame.module.replace('.', '/')}.py", 88 if frame.function == "tokenize" else line
    )


def finding(
    diff: BenchmarkDiff, name: str = "shop.parser:tokenize", outcome: Outcome = Outcome.FAIL
) -> Finding:
    """Return the finding on one function of the diff, or on the benchmark itself."""
    rule = Rule(max_growth=Limit(share=0.10), place="ci-flame.yml:7")
    found = next((each for each in diff.frames if str(each.frame) == name), None)
    return Finding(
        benchmark=diff.benchmark,
        mode=diff.mode,
        frame=found.frame if found else TOTAL,
        path=found.path if found else (TOTAL,),
        change=found.total if found else diff.total,
        outcome=outcome,
        rule=rule,
        limit="10 %",
        self_only=False,
        certainty=0.991,
        place=found.place if found else None,
        work="Same calls, dearer: 0 % more bytecodes.",
        changed="Changed in this diff: src/shop/parser.py:88.",
    )


def failing(benchmark: str = BENCHMARK, outcome: Outcome = Outcome.FAIL) -> BenchmarkVerdict:
    diff = benchmark_diff(benchmark=benchmark)
    return BenchmarkVerdict(
        benchmark,
        "on-cpu",
        outcome,
        (finding(diff, outcome=outcome),),
        (
            Note("moved", "12.2 µs per iteration moved out of shop.tax:_load_table", benchmark),
            Note(
                "not-certain",
                "re:Pattern.scanner: +14.5 %, 71 % sure; 6 s a side would settle it",
                benchmark,
            ),
        ),
        diff,
        diff.smallest_visible,
        visible={each.frame: 0.03 + 0.01 * n for n, each in enumerate(diff.frames[:5])},
    )


def passing(benchmark: str = "tests/bench_shop.py::test_search[long query]") -> BenchmarkVerdict:
    own = {path: (before, before) for path, (before, _) in tree().items() if before}
    diff = benchmark_diff(own, benchmark)
    return BenchmarkVerdict(benchmark, "on-cpu", Outcome.PASS, (), (), diff, 0.041)


def inconclusive(benchmark: str = "tests/bench_shop.py::test_login") -> BenchmarkVerdict:
    note = Note(
        "other-machine", "architecture: x86_64, aarch64: times may not be compared", benchmark
    )
    return BenchmarkVerdict(benchmark, "on-cpu", Outcome.INCONCLUSIVE, (), (note,), None)


def no_baseline(benchmark: str = "tests/bench_shop.py::test_new") -> BenchmarkVerdict:
    note = Note("new-benchmark", f"{benchmark} is new: nothing to compare with", benchmark)
    return BenchmarkVerdict(benchmark, "on-cpu", Outcome.NO_BASELINE, (), (note,), None)


def verdict(*benchmarks: BenchmarkVerdict, notes: tuple[Note, ...] = ()) -> Verdict:
    diffs = tuple(each.diff for each in benchmarks if each.diff is not None)
    run = RunDiff(
        before=ENVIRONMENT,
        after=ENVIRONMENT,
        before_commit="3f2a9c41d07be8855c1f6ac2b9d31e7740aa91f2",
        after_commit="b81e0d5f6a7c92413de08847f5c20b9a63cd1e54",
        differences=(),
        benchmarks=diffs,
        added=tuple(b.benchmark for b in benchmarks if b.outcome is Outcome.NO_BASELINE),
        removed=(),
    )
    outcome = overall(each.outcome for each in benchmarks)
    return Verdict(outcome, benchmarks, notes, run, Policy())


def renamed(each: BenchmarkVerdict, name: str) -> BenchmarkVerdict:
    """Return the failing benchmark with its guilty function and itself called `name`."""
    assert each.diff is not None

    def other(frame: Frame) -> Frame:
        return Frame(name, name, frame.kind) if frame.function == "tokenize" else frame

    def moved(path: Stack) -> Stack:
        return tuple(map(other, path))

    diff = replace(
        each.diff,
        benchmark=name,
        frames=tuple(
            replace(f, frame=other(f.frame), path=moved(f.path)) for f in each.diff.frames
        ),
        paths=tuple(replace(p, path=moved(p.path)) for p in each.diff.paths),
    )
    findings = tuple(
        replace(f, benchmark=name, frame=other(f.frame), path=moved(f.path)) for f in each.findings
    )
    notes = (Note("moved", name, name),)
    return replace(each, benchmark=name, diff=diff, findings=findings, notes=notes)


def hostile(name: str, outcome: Outcome = Outcome.FAIL) -> Verdict:
    """Return a verdict in which benchmark, function, file, notes, rule and waiver are `name`."""
    each = renamed(failing(outcome=outcome), name)
    assert each.diff is not None
    place = Place(name, 7)
    frames = tuple(replace(f, place=place) for f in each.diff.frames)
    waiver = Waiver((name,), date(2026, 1, 1), name, place=name)
    (found,) = each.findings
    found = replace(found, place=place, under=name, rule=replace(found.rule, place=name))
    waived = replace(found, waiver=waiver)
    each = replace(
        each, findings=(found,), waived=(waived,), diff=replace(each.diff, frames=frames)
    )
    alone = replace(no_baseline(), benchmark=f"{name}::{name}", notes=(Note("a", name, name),))
    policy = Policy(waivers=(waiver,), today=date(2026, 11, 1))
    return replace(verdict(each, alone, notes=(Note("b", name),)), policy=policy)


NAMES = st.one_of(
    st.text(st.characters(), min_size=1, max_size=20),
    st.text(
        st.sampled_from(" |'\"[]{}<>&#%\\\n\r\t\0\x1b\x85\u2028\udce9:;/.,=`$!"),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["##teamcity[buildStop]", "]]>", "# EOF", "n" * 100_000, "'" * 100_000]),
)
"""Anybody's names: what formats give a meaning to, lone surrogates, 100 kB."""


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "cdata": "a]]>b",
    "entity": "a&b&amp;c",
    "newline": "first\nsecond\r\n\x1b[31mred\x00",
    "long": "n" * 10_000,
    "rtl": "\u05e9\u05dc\u05d5\u05dd\u202eevil",
    "emoji": "\U0001f525f\N{COMBINING ACUTE ACCENT}",
    "markdown": "|`*_@octocat [x](https://example.org) ![i](https://example.org/i.png) #1",
    "jinja": "{{ 7 * 7 }}{% raw %}",
    "quotes": "\"'</title><!--",
    "surrogate": "a\udce9b",
}

ALL = {
    "empty": verdict(),
    "pass": verdict(passing()),
    "fail": verdict(
        failing(),
        passing(),
        no_baseline(),
        notes=(Note("slow-machine", "The machine was 18 % slower than the baseline's"),),
    ),
    "warn": verdict(failing(outcome=Outcome.WARN)),
    "inconclusive": verdict(inconclusive()),
    "no-baseline": verdict(no_baseline()),
    "alone": replace(verdict(no_baseline()), diff=None),
} | {f"hostile-{key}": verdict(renamed(failing(), name)) for key, name in HOSTILE.items()}


def run(unit=Unit.NANOSECONDS, *, complete=True):
    stacks = {}
    for path, (before, _) in tree().items():
        if before:
            stacks[path] = Weight(round(before * 40), round(before * 40) * 500_250)
    profile = Profile(stacks, unit, iterations=2_000)
    each = Round(2_000, profile.value, profile.value, profiles={Mode.ON_CPU: profile})
    place = {Frame("tokenize", "shop.parser"): Place("src/shop/parser.py", 88)}
    measurement = Measurement(
        "tests/bench_shop.py::test_checkout", (Process((each,)),), places=place
    )
    return Run(ENVIRONMENT, (measurement,), commit="b81e0d5f6a7c", complete=complete)
