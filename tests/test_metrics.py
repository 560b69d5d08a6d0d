"""Rules about figures that are not stacks, and the limit on the collector's own cost."""

from dataclasses import replace

import pytest
from synthetic import SHOP, synthetic_measurement

from ci_flame import config
from ci_flame.config import terms
from ci_flame.config.metric_names import NAMES
from ci_flame.config.terms import Terms
from ci_flame.diff import diff_benchmark
from ci_flame.diff.figures import figures
from ci_flame.errors import PolicyError, UsageError
from ci_flame.judge import assemble, judge_alone, judge_benchmark
from ci_flame.policy import Limit, Policy, Rule, Severity
from ci_flame.profile import Histogram, Mode
from ci_flame.report.terminal import headline
from ci_flame.verdict import Note, Outcome

P99 = "run_queue.p99_ms"


def measured(values, name=P99, seed=1, **metrics):
    """Return a benchmark whose processes have these values of one metric."""
    made = synthetic_measurement(SHOP, seed=seed, processes=len(values))
    others = {key.replace("__", "."): value for key, value in metrics.items()}
    return replace(
        made,
        processes=tuple(
            replace(process, metrics={name: value, **others} if value is not None else others)
            for process, value in zip(made.processes, values, strict=True)
        ),
    )


def policy(**rule):
    return Policy(rules=(Rule(metric=rule.pop("metric", P99), place="ci-flame.yml:3", **rule),))


def judged(before, after, given, family=1):
    return judge_benchmark(
        diff_benchmark(measured(before), measured(after, seed=2), Mode.ON_CPU),
        given,
        family=family,
    )


def texts(got, slug):
    return [note.text for note in got.notes if note.slug == slug]


# -- max ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        ([1, 1, 5.0, 9, 9], Outcome.PASS),  # the median is the limit
        ([1, 1, 5.001, 9, 9], Outcome.FAIL),
        ([90, 1, 1, 1, 1], Outcome.PASS),  # one process is not the benchmark
    ],
)
def test_max_has_two_sides_and_reads_the_median(after, outcome):
    assert judged([1] * 5, after, policy(maximum=5.0)).outcome is outcome


def test_the_sentence_has_value_unit_and_limit():
    got = judged([1] * 5, [5.0001, 5.0001, 5.0001, 9, 9], policy(maximum=5.0))
    (finding,) = got.findings

    assert str(finding) == (
        "tests/bench_shop.py::test_checkout: run_queue.p99_ms is 5.0001 ms"
        " (median of 5 processes); limit 5 ms."
    )
    assert finding.rule.place == "ci-flame.yml:3"


def test_a_warning_warns():
    got = judged([1] * 5, [6] * 5, policy(maximum=5.0, severity=Severity.WARN))

    assert got.outcome is Outcome.WARN


def test_max_needs_no_baseline():
    got = judge_alone(
        measured([6.0] * 3), Mode.ON_CPU, policy(maximum=5.0), Note("no-baseline", "none")
    )

    assert got.outcome is Outcome.FAIL
    assert "run_queue.p99_ms is 6 ms (median of 3 processes)" in str(got.findings[0])


def test_growth_without_a_baseline_is_no_finding():
    got = judge_alone(
        measured([6.0] * 3),
        Mode.ON_CPU,
        policy(max_growth=Limit(share=0.1)),
        Note("no-baseline", "none"),
    )

    assert got.outcome is Outcome.NO_BASELINE


def test_a_glob_reads_every_device():
    before = measured([1.0] * 3, "block_io.vda.write.p99_ms")
    after = measured(
        [7.0] * 3, "block_io.vda.write.p99_ms", block_io__vdb__read__p99_ms=8.0, run_queue__x=99.0
    )
    given = policy(metric="block_io.*.p99_ms", maximum=5.0)
    got = judge_benchmark(diff_benchmark(before, after, Mode.ON_CPU), given, family=1)

    assert [each.figure.name for each in got.findings] == [
        "block_io.vda.write.p99_ms",
        "block_io.vdb.read.p99_ms",
    ]


def test_a_rule_is_about_its_benchmarks():
    given = policy(maximum=5.0, benchmarks=("other*",))

    assert judged([1] * 5, [9] * 5, given).outcome is Outcome.PASS


# -- growth ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        ([1.5, 1.5, 1.5, 1.5, 1.5], Outcome.PASS),  # exactly the limit
        ([2.1, 2.0, 2.2, 2.05, 2.1], Outcome.FAIL),
        ([0.2] * 5, Outcome.PASS),
    ],
)
def test_growth_has_two_sides(after, outcome):
    before = [1.0, 1.02, 0.98, 1.0, 1.01]
    got = judged(before, after, policy(max_growth=Limit(share=0.5)))

    assert got.outcome is outcome
    if outcome is Outcome.FAIL:
        assert "run_queue.p99_ms grew by 110 %, 1 ms -> 2.1 ms (medians of 5 + 5 processes)" in str(
            got.findings[0]
        )


def test_growth_within_the_spread_is_only_said():
    got = judged([1, 9, 2, 5, 3], [4, 2, 12, 7, 5], policy(max_growth=Limit(share=0.1)))

    assert got.outcome is Outcome.PASS
    (text,) = texts(got, "not-certain")
    assert text.startswith("run_queue.p99_ms went from 3 ms to 5 ms")


@pytest.mark.parametrize(("processes", "outcome"), [(2, Outcome.INCONCLUSIVE), (3, Outcome.FAIL)])
def test_few_processes_are_inconclusive(processes, outcome):
    got = judged([1.0] * processes, [9.0] * processes, policy(max_growth=Limit(share=0.5)))

    assert got.outcome is outcome


def test_from_nothing_has_no_percentage():
    got = judged([0.0] * 5, [3.0] * 5, policy(max_growth=Limit(share=0.5)))

    assert "went from 0 ms to 3 ms (medians of 5 + 5 processes)" in str(got.findings[0])


# -- what was not recorded --------------------------------------------------------------


@pytest.mark.parametrize(
    ("severity", "outcome"),
    [(Severity.FAIL, Outcome.INCONCLUSIVE), (Severity.WARN, Outcome.WARN)],
)
def test_a_metric_that_was_not_recorded_is_said(severity, outcome):
    given = policy(metric="block_io.p99_ms", maximum=5.0, severity=severity)
    got = judged([1] * 5, [1] * 5, given)

    assert got.outcome is outcome
    (text,) = texts(got, "metric-missing")
    assert text.startswith("block_io.p99_ms was not recorded, so that the rule ci-flame.yml:3")


def test_a_metric_that_the_baseline_lacks_cannot_have_grown():
    got = judged([None] * 5, [1] * 5, policy(max_growth=Limit(share=0.5)))

    assert got.outcome is Outcome.INCONCLUSIVE
    assert "the baseline did not record it" in texts(got, "metric-missing")[0]


@pytest.mark.parametrize(
    ("given", "missing", "outcome"),
    [
        ({"maximum": 5.0}, "", Outcome.PASS),
        # It may be one of the keys that were not kept.
        ({"maximum": 5.0}, "keys_left_out", Outcome.INCONCLUSIVE),
        ({"maximum": 5.0}, "full_maps", Outcome.INCONCLUSIVE),
        ({"max_growth": Limit(share=0.5)}, "", Outcome.INCONCLUSIVE),
        ({"maximum": 5.0, "metric": "bpftrace.other.@[sh]"}, "", Outcome.INCONCLUSIVE),
    ],
)
def test_a_key_that_did_not_occur_is_0_where_its_script_ran(given, missing, outcome):
    more = {f"bpftrace__switches__{missing}": 1.0} if missing else {}
    sides = [
        measured([None] * 5, seed=seed, bpftrace__switches__seconds=2.0, **more) for seed in (1, 2)
    ]
    rule = {"metric": "bpftrace.switches.@[sh]", **given}
    got = judge_benchmark(diff_benchmark(*sides, Mode.ON_CPU), policy(**rule), family=1)

    assert got.outcome is outcome
    assert bool(texts(got, "metric-zero")) == (outcome is Outcome.PASS)


# -- the collector's own cost -----------------------------------------------------------


@pytest.mark.parametrize(("cost", "outcome"), [(6.0, Outcome.PASS), (6.01, Outcome.INCONCLUSIVE)])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_dear_collector_is_not_believed(cost, outcome, side):
    costs = {"before": 1.0, "after": 1.0} | {side: cost}
    before = measured([costs["before"]] * 5, "collector.percent")
    after = measured([costs["after"]] * 5, "collector.percent", seed=2)
    got = judge_benchmark(diff_benchmark(before, after, Mode.ON_CPU), Policy(), family=1)

    assert got.outcome is outcome
    if outcome is Outcome.INCONCLUSIVE:
        (text,) = texts(got, "overhead")
        assert text.startswith(
            "the collector took 6.01 % of a CPU while the benchmark ran, limit 6 %"
        )


def test_growth_beside_a_dear_collector_is_no_failure():
    dear = measured([9.0] * 5, "collector.percent", seed=2)
    slow = synthetic_measurement({name: ns * 2 for name, ns in SHOP.items()}, seed=3)
    after = replace(
        slow,
        processes=tuple(
            replace(one, metrics=other.metrics)
            for one, other in zip(slow.processes, dear.processes, strict=True)
        ),
    )
    got = judge_benchmark(
        diff_benchmark(synthetic_measurement(SHOP), after, Mode.ON_CPU), Policy(), family=1
    )

    assert got.outcome is Outcome.INCONCLUSIVE
    assert got.findings == ()


def test_a_new_benchmark_under_a_dear_collector_is_inconclusive():
    dear = measured([9.0] * 5, "collector.percent")
    got = judge_alone(dear, Mode.ON_CPU, Policy(), Note("no-baseline", "none"))

    assert got.outcome is Outcome.INCONCLUSIVE


def test_the_limit_is_the_policy_s():
    dear = measured([9.0] * 5, "collector.percent")
    diff = diff_benchmark(dear, dear, Mode.ON_CPU)

    assert judge_benchmark(diff, Policy(max_overhead=0.09), family=1).outcome is Outcome.PASS


def test_programs_are_told_like_bpftop():
    runs = {"collector__bpf__on_cpu__ns": 30e6, "collector__bpf__on_cpu__runs": 10_000.0}
    made = measured([1.0] * 2, "collector.bpf.off_cpu.ns", **runs)
    seconds = sum(each.wall_ns for process in made.processes for each in process.rounds) / 1e9
    first, second = figures(None, made).programs

    assert (first.name, second.name) == ("on_cpu", "off_cpu")
    assert first.events_per_second == pytest.approx(20_000 / seconds)
    assert first.average_ns == pytest.approx(3_000)
    assert first.percent == pytest.approx(100 * 0.06 / seconds)
    assert second.average_ns == 0  # no runs were told


def test_histograms_of_processes_add_up():
    made = measured([1.0, 2.0])
    made = replace(
        made,
        processes=tuple(
            replace(each, histograms={"run_queue": Histogram({3: 2, 9: 1})})
            for each in made.processes
        ),
    )

    before, after = figures(None, made).histograms["run_queue"]
    assert (before.count, dict(after.counts)) == (0, {3: 4, 9: 2})


# -- the policy's words -----------------------------------------------------------------


def read(text):
    return config.parse_policy(f"version: 1\n{text}".encode(), "ci-flame.yml").policy


def test_reads_metric_rules_and_the_overhead():
    made = read(
        "overhead: {max: 4%}\n"
        "rules:\n"
        "  - {metric: run_queue.p99_ms, max: 5ms, severity: warn}\n"
        "  - {metric: 'block_io.*.p99_ms', max_growth: 50%, benchmarks: 'bench*'}\n"
        "  - {metric: steal.percent, max: 2.5 %}\n"
        "  - {metric: 'bpftrace.switches.@[python3]', max: 1000}\n"
    )

    assert made.max_overhead == 0.04
    assert [(rule.metric, rule.maximum, rule.max_growth) for rule in made.rules] == [
        ("run_queue.p99_ms", 5.0, None),
        ("block_io.*.p99_ms", None, Limit(share=0.5)),
        ("steal.percent", 2.5, None),
        ("bpftrace.switches.@[python3]", 1000.0, None),
    ]
    assert made.rules[0].severity is Severity.WARN
    assert made.rules[1].benchmarks == ("bench*",)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("max: 5", "max limits a metric, and the rule names none"),
        ("metric: run_queue.p99_ms", "the rule limits nothing"),
        ("metric: runqueue.p99_ms\n    max: 5", 'did you mean "run_queue"'),
        ("metric: run_queue\n    max: 5", '"run_queue" is no metric'),
        ("metric: run_queue.p99_ms\n    max: 5 seconds", '"5 seconds": run_queue.p99_ms is in ms'),
        ("metric: run_queue.p99_ms\n    max: 5%", '"5%": run_queue.p99_ms is in ms'),
        ("metric: steal.percent\n    max: 5ms", '"5ms": steal.percent is in %'),
        ("metric: block_io.requests\n    max: 5ms", '"5ms": block_io.requests is a plain number'),
        ("metric: run_queue.p99_ms\n    max: lots", '"lots" is not a number'),
        ("metric: run_queue.p99_ms\n    max: -5", '"-5" is not a number'),
        ("metric: run_queue.p99_ms\n    max_growth: 5ms", "max_growth of a metric is a share"),
        ("metric: run_queue.p99_ms\n    max: 5\n    frames: '*'", "frames has no meaning with"),
        ("metric: run_queue.p99_ms\n    max: 5\n    mode: off-cpu", "mode has no meaning with"),
        ("metric: run_queue.p99_ms\n    max: 5\n    budget: 5%", "budget has no meaning with"),
    ],
)
def test_wrong_words_are_refused_by_name(rule, said):
    with pytest.raises(PolicyError, match=r"ci-flame\.yml:") as refused:
        read(f"rules:\n  - {rule}\n")

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("run_queue.p98_ms", "run_queue.p99_ms"),
        ("run_queue.p99_us", "run_queue.p99_ms"),  # no unit that a recording tells
        ("run_queue.p99", "run_queue.p99_ms"),
        ("run_queue.precent", "run_queue.percent"),
        ("run_queue.vda.p99_ms", "run_queue.p99_ms"),
        ("steal.p99_ms", "steal.percent"),
        ("block_io.p99", "block_io.p99_ms"),
        ("block_io.vda.write.p98_ms", "block_io.vda.write.p99_ms"),
        ("block_io.*.write.p99", "block_io.*.write.p99_ms"),
        ("block_io.writes_per_iteration", "block_io.write_bytes_per_iteration"),
        ("collector.percnt", "collector.percent"),
    ],
)
def test_a_name_that_nothing_records_is_refused_with_the_nearest(name, meant):
    with pytest.raises(PolicyError) as refused:
        read(f"rules:\n  - metric: '{name}'\n    max: 5\n")

    told = str(refused.value)
    family = name.partition(".")[0]
    assert f'unknown metric "{name}"; did you mean "{meant}' in told
    assert f"{family} has: " in told


@pytest.mark.parametrize(
    "name",
    [
        *(f"{family}.{each}" for family, names in NAMES.items() for each in names),
        "run_queue.p*_ms", "run_queue.*", "*.p99_ms", "block_io.*.p99_ms", "block_io.a.read.p50_ms",
        "block_io.sd?.*.p50_ms", "block_io.*", "collector.bpf.sample.ns", "collector.unsent",
        "collector.anything_else", "bpftrace.x.@[a]", "bpftrace.own_script.@x.p98",
    ],
)  # fmt: skip
def test_names_and_globs_that_something_may_record_are_read(name):
    made = read(f"rules:\n  - metric: '{name}'\n    max: 5\n")

    assert made.rules[0].metric == name


@pytest.mark.parametrize(
    ("words", "maximum"),
    [("5", 5.0), ("5 ms", 5.0), ("2s", 2000.0), ("250us", 0.25), ("1ns", 1e-6)],
)
def test_times_are_told_in_any_unit(words, maximum):
    made = read(f"rules:\n  - {{metric: run_queue.p99_ms, max: {words}}}\n")

    assert made.rules[0].maximum == maximum


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("bpftrace.x.@syscalls[python]", "bpftrace.x.@syscalls[python3] was, is it meant?"),
        ("run_queue.percent", "of run_queue there are run_queue.p50_ms"),
        ("block_io.p99_ms", "`ci-flame doctor` says what the collectors can tell here"),
    ],
)
def test_a_metric_that_was_not_recorded_is_told_with_what_was(wanted, told):
    others = {"bpftrace__x__@syscalls[python3]": 3.0}
    made = measured([1.0] * 3, "run_queue.p50_ms", **others)
    got = judge_alone(
        made, Mode.ON_CPU, policy(metric=wanted, maximum=1.0), Note("no-baseline", "")
    )

    (text,) = texts(got, "metric-missing")
    assert told in text


@pytest.mark.parametrize("text", ["overhead: {}\n", "overhead: {max: 6}\n", "overhead: 6%\n"])
def test_an_overhead_without_a_share_is_refused(text):
    with pytest.raises(PolicyError):
        read(text)


def test_a_report_keeps_metric_rules_and_the_overhead():
    made = read(
        "overhead: {max: 4.5%}\n"
        "rules:\n"
        "  - {metric: run_queue.p99_ms, max: 0.0005, certainty: 90%}\n"
        "  - {metric: steal.percent, max_growth: 50%, severity: warn}\n"
        "  - {frames: '*', mode: off-cpu, max_growth: 10%}\n"
    )

    assert terms.decode(terms.encode(Terms(made)), "policy.json").policy == made


def test_a_marker_leaves_metric_rules_alone():
    made = read("rules:\n  - {metric: run_queue.p99_ms, max: 5}\n  - {max_growth: 10%}\n")
    own = config.marker_rules(made, {"max_growth": "3%", "frames": "shop:*"}, "t")

    assert [(rule.metric, rule.max_growth) for rule in own.rules] == [
        ("", Limit(share=0.03)),
        (P99, None),
    ]


def test_a_marker_s_own_cost_is_not_of_waiting():
    own = config.marker_rules(Policy(), {"self_only": True}, "t")

    assert [(rule.mode, rule.self_only) for rule in own.rules] == [
        ("on-cpu", True),
        ("off-cpu", False),
    ]


def test_markers_know_no_metrics():
    with pytest.raises(UsageError, match="unknown field"):
        config.marker_rules(Policy(), {"metric": P99}, "t")


# -- all modes of a benchmark ---------------------------------------------------------


def in_both_modes(percent, seed=1):
    made = measured([percent] * 5, "collector.percent", seed)
    both = (
        replace(
            process,
            rounds=tuple(
                replace(each, profiles=dict.fromkeys(Mode, each.profiles[Mode.ON_CPU]))
                for each in process.rounds
            ),
        )
        for process in made.processes
    )
    return replace(made, processes=tuple(both))


@pytest.mark.parametrize(("percent", "noted"), [(6.0, False), (6.1, True)])
def test_the_overhead_is_of_all_modes(percent, noted):
    before, after = in_both_modes(1.0), in_both_modes(percent, 2)
    for mode in Mode:
        compared = judge_benchmark(diff_benchmark(before, after, mode), Policy(), family=1)
        alone = judge_alone(after, mode, Policy(), Note("no-baseline", "none"))

        for got in (compared, alone):
            assert bool(texts(got, "overhead")) is noted
            assert (got.outcome is Outcome.INCONCLUSIVE) is noted


def test_modes_are_one_benchmark():
    modes = [
        judge_alone(in_both_modes(1.0), mode, Policy(), Note("no-baseline", "none"))
        for mode in Mode
    ]
    dear = judge_alone(in_both_modes(9.0), Mode.OFF_CPU, Policy(), Note("no-baseline", "none"))
    other = replace(modes[0], benchmark="tests/bench_shop.py::test_other")

    verdict = assemble([modes[0], dear, other], [], None, Policy())

    assert verdict.counts == {Outcome.INCONCLUSIVE: 1, Outcome.NO_BASELINE: 1}
    assert headline(verdict) == ("ci-flame: INCONCLUSIVE (2 benchmarks: 1 inconclusive, 1 new)")


# -- what the collector said ----------------------------------------------------------


def saying(*notes, seed=1):
    """Return a benchmark of five processes, the first of which have these notes."""
    made = synthetic_measurement(SHOP, seed=seed, processes=5)
    of = [*notes, *[()] * (5 - len(notes))]
    told = (replace(each, notes=said) for each, said in zip(made.processes, of, strict=True))
    return replace(made, processes=tuple(told))


def test_what_the_collector_said_is_told_of_its_side_once():
    before = saying(("map full: 12 stacks lost",), ("map full: 7,000 stacks lost", "no names"))
    after = saying((), ("no names",), seed=2)
    both = judge_benchmark(diff_benchmark(before, after, Mode.ON_CPU), Policy(), family=1)

    assert texts(both, "recording") == [
        "before: 2 of 5 processes: map full: 12 stacks lost",
        "before: 1 of 5 processes: no names",
        "after: 1 of 5 processes: no names",
    ]

    alone = judge_alone(before, Mode.ON_CPU, Policy(), Note("no-baseline", "none"))

    assert texts(alone, "recording") == [
        "2 of 5 processes: map full: 12 stacks lost",
        "1 of 5 processes: no names",
    ]
