"""judge/exact.py and diff/counts.py: what counts say, and rules on them; both sides of limits."""

from dataclasses import replace

import pytest
from synthetic import synthetic_measurement

from ci_flame.config import parse_policy
from ci_flame.diff import diff_benchmark
from ci_flame.diff.counts import Work, counts
from ci_flame.errors import PolicyError
from ci_flame.judge import exact, judge_alone, judge_benchmark
from ci_flame.policy import Limit, Policy, Rule, Severity
from ci_flame.profile import TOTAL, Frame, Kind, Measurement, Mode, Process
from ci_flame.profile.counts import Count, Counting
from ci_flame.verdict import Note, Outcome

TOKENIZE, PRICE, MAIN = Frame("tokenize", "shop"), Frame("price", "shop"), Frame("main", "shop")
SAME = {
    TOKENIZE: Count(10, 1000, 10, 1000),
    PRICE: Count(4, 500, 4, 500),
    MAIN: Count(1, 100, 15, 1600),
}


def process(found=SAME, **about):
    made = Counting(**{"python": "3.12", "hash_seed": "0", "iterations": 2, **about})
    return Process((), counts={} if made.left_out else found, counting=made)


def measurement(*processes):
    return Measurement("t", processes or (process(), process()))


def with_work(frame, bytecodes, calls=None):
    """The same benchmark, one function of it executing so many bytecodes."""
    more = bytecodes - SAME[frame].bytecodes
    changed = dict(SAME)
    one = SAME[frame]
    changed[frame] = Count(
        one.calls if calls is None else calls, bytecodes, one.total_calls, bytecodes
    )
    main = changed[MAIN]
    if frame != MAIN:
        changed[MAIN] = Count(1, 100, 15, main.total_bytecodes + more)
    return measurement(process(changed), process(changed))


def rule(metric="bytecodes", growth=0.0, **fields):
    limit = None if growth is None else Limit(share=growth)
    return Rule(**{"metric": metric, "max_growth": limit, "frames": ("[total]",), **fields})


def judged(before, after, *rules):
    return exact.judge(counts(before, after), Policy(tuple(rules)), "t", "on-cpu")


# -- rules ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "bytecodes", "fails"),
    [
        (0.0, 1000, False),
        (0.0, 1001, True),
        (0.0, 999, False),
        (0.02, 1020, False),  # exactly 2 %
        (0.02, 1021, True),
        (0.1, 1100, False),
        (0.1, 1101, True),
    ],
)
def test_growth_of_bytecodes_is_exact_on_both_sides_of_the_limit(limit, bytecodes, fails):
    after = with_work(TOKENIZE, bytecodes)

    found = judged(measurement(), after, rule(growth=limit, frames=("shop:tokenize",)))

    assert [str(each.frame) for each in found.findings] == (["shop:tokenize"] if fails else [])
    assert found.outcome is Outcome.PASS  # nothing is in doubt


def test_two_percent_more_bytecodes_fail_a_limit_of_nothing_with_both_figures():
    found = judged(measurement(), with_work(TOKENIZE, 1020), rule(frames=("shop:tokenize",)))

    (finding,) = found.findings
    assert str(finding) == (
        "t: shop:tokenize executes 2.0 % more bytecodes, 1,000 -> 1,020 per iteration; limit 0 %."
    )
    assert (finding.outcome, finding.certainty) == (Outcome.FAIL, 1.0)


def test_the_whole_benchmark_is_limited_without_frames():
    found = judged(measurement(), with_work(TOKENIZE, 1001), rule())

    (finding,) = found.findings
    assert str(finding) == (
        "t: the benchmark itself executes 0.1 % more bytecodes, 1,600 -> 1,601 per iteration;"
        " limit 0 %."
    )


def test_one_cause_is_one_finding():
    """`main` and the whole grew because `tokenize` did."""
    found = judged(measurement(), with_work(TOKENIZE, 1200), rule(frames=("*", "[total]")))

    assert [str(each.frame) for each in found.findings] == ["shop:tokenize"]


def test_a_caller_is_reported_where_its_callee_is_not_limited():
    found = judged(measurement(), with_work(TOKENIZE, 1200), rule(frames=("shop:main",)))

    assert [str(each.frame) for each in found.findings] == ["shop:main"]


PARSE, LOADS = Frame("parse", "shop"), Frame("loads", "json")


def parsing(price=500, loads=0, below=0):
    """`main` calls `price`, and `parse`, which calls `json.loads` and what is `below` it."""
    more = loads + below + price - 500
    return measurement(
        *[
            process(
                {
                    TOKENIZE: SAME[TOKENIZE],
                    PRICE: Count(4, price, 4, price),
                    PARSE: Count(1, 300, 2, 1000 + loads + below),
                    LOADS: Count(1, 700 + loads + below, 1, 700 + loads + below),
                    MAIN: Count(1, 100, 17, 2600 + more),
                }
            )
        ]
        * 2
    )


@pytest.mark.parametrize(
    ("after", "limit", "named"),
    [
        # json is not named by the rule: its growth is that of who calls it
        (parsing(price=501, loads=1000), 0.0, ["shop:parse", "shop:price"]),
        (parsing(price=501), 0.0, ["shop:price"]),
        (parsing(loads=1), 0.0, ["shop:parse"]),
        (parsing(price=600, loads=1000), 0.1, ["shop:parse", "shop:price"]),
        # what is left of the callers' growth keeps the limit
        (parsing(price=800, loads=50), 0.1, ["shop:price"]),
    ],
)
def test_growth_below_one_function_does_not_hide_growth_below_another(after, limit, named):
    found = judged(parsing(), after, rule(growth=limit, frames=("shop:*",)))

    assert sorted(str(each.frame) for each in found.findings) == named


@pytest.mark.parametrize("calls", [True, False])
def test_a_function_explains_the_growth_of_those_that_it_may_run_below(calls):
    both = counts(parsing(), parsing(price=1000, loads=400))
    policy = Policy((rule(frames=("shop:*",)),))

    found = exact.judge(
        both, policy, "t", "on-cpu",
        below=lambda caller, _callee: calls or caller == MAIN,
    )  # fmt: skip

    # The 500 of `price` are more than what `parse` grew by, if that calls it.
    told = sorted(str(each.frame) for each in found.findings)
    assert told == ["shop:main" if calls else "shop:parse", "shop:price"]


def test_samples_tell_which_function_runs_below_which():
    costs = {
        "shop:main;shop:price": 50_000.0,
        "shop:main;shop:parse;json:loads": 100_000.0,
        "shop:main;shop:tokenize": 100_000.0,
    }
    sides = [
        replace(
            made,
            processes=tuple(
                replace(one, counts=found.processes[0].counts, counting=found.processes[0].counting)
                for one in made.processes
            ),
        )
        for made, found in (
            (synthetic_measurement(costs, seed=1), parsing()),
            (synthetic_measurement(costs, seed=2), parsing(price=1000, loads=400)),
        )
    ]

    got = judge_benchmark(
        diff_benchmark(*sides, Mode.ON_CPU), Policy((rule(frames=("shop:*",)),)), family=1
    )

    assert sorted(str(f.frame) for f in got.findings) == ["shop:parse", "shop:price"]


def test_own_bytecodes_leave_the_callees_out():
    found = judged(
        measurement(), with_work(TOKENIZE, 1200), rule(frames=("shop:main",), self_only=True)
    )

    assert found.findings == ()


def test_masked_growth_fails():
    changed = dict(SAME)
    changed[TOKENIZE] = Count(10, 1100, 10, 1100)
    changed[PRICE] = Count(4, 400, 4, 400)
    after = measurement(process(changed), process(changed))

    found = judged(measurement(), after, rule(frames=("*", "[total]")))

    assert [str(each.frame) for each in found.findings] == ["shop:tokenize"]


def test_calls_are_the_function_s_own():
    after = with_work(PRICE, 500, calls=5)

    (finding,) = judged(measurement(), after, rule("calls", frames=("shop:*",))).findings

    assert (
        str(finding) == "t: shop:price is called 25 % more often, 4 -> 5 per iteration; limit 0 %."
    )
    assert judged(measurement(), after, rule("calls", 0.25, frames=("shop:*",))).findings == ()


@pytest.mark.parametrize(("maximum", "fails"), [(999, True), (1000, False)])
def test_a_maximum_needs_no_baseline(maximum, fails):
    limit = rule(growth=None, maximum=float(maximum), frames=("shop:tokenize",))

    found = judged(None, measurement(), limit)

    told = [str(each) for each in found.findings]
    assert told == (
        ["t: shop:tokenize executes 1,000 bytecodes per iteration; limit 999."] if fails else []
    )


@pytest.mark.parametrize(("bytecodes", "fails"), [(8, False), (9, True)])
def test_what_is_new_may_make_half_a_percent(bytecodes, fails):
    new = Frame("extra", "shop")
    changed = {**SAME, new: Count(1, bytecodes, 1, bytecodes)}
    after = measurement(process(changed), process(changed))

    found = judged(measurement(), after, rule(frames=("shop:extra",)))

    assert bool(found.findings) is fails
    if fails:
        assert str(found.findings[0]) == (
            "t: shop:extra is new: 9 bytecodes per iteration, 0.6 % of the benchmark's;"
            " what is new may make 0.5 %."
        )


def test_a_warning_only_warns():
    warn = rule(frames=("shop:tokenize",), severity=Severity.WARN)

    (finding,) = judged(measurement(), with_work(TOKENIZE, 1001), warn).findings

    assert finding.outcome is Outcome.WARN


UNSTEADY = measurement(process(), process({**SAME, PRICE: Count(5, 501, 5, 501)}))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            measurement(process(python="3.13"), process(python="3.13")),
            measurement(),
            "Python differs: 3.13, 3.12",
        ),
        (
            measurement(process(hash_seed="7"), process(hash_seed="7")),
            measurement(),
            "PYTHONHASHSEED is 7 before and 0 after; it must be the same",
        ),
        (
            measurement(process(hash_seed="random"), process(hash_seed="random")),
            measurement(process(hash_seed="random"), process(hash_seed="random")),
            "PYTHONHASHSEED is random before and random after; it must be the same",
        ),
        (
            measurement(),
            measurement(process()),
            "1 process counted on a side; 2 are needed to know that counts are always the same",
        ),
        (
            measurement(process(left_out="took long"), process(left_out="took long")),
            measurement(),
            "took long",
        ),
        (measurement(), measurement(process(left_out="took long")), "took long"),
        (Measurement("t", (Process(()),)), measurement(), "there are no counts of the side before"),
        (measurement(), Measurement("t", (Process(()),)), "nothing was counted in this run"),
        (
            measurement(),
            UNSTEADY,
            "counts of shop:price differ between processes or iterations of the same code",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_and_not_passed(before, after, reason):
    found = judged(before, after, rule(frames=("shop:price", "[total]"), place="ci-flame.yml:3"))

    assert found.findings == ()
    assert found.outcome is Outcome.INCONCLUSIVE
    (note,) = found.notes
    assert note.text == f"the rule ci-flame.yml:3 on bytecodes cannot be judged: {reason}"


def test_a_rule_that_only_warns_doubts_with_a_warning():
    found = judged(measurement(), UNSTEADY, rule(severity=Severity.WARN))

    assert found.outcome is Outcome.WARN


def test_bytecodes_of_3_11_are_said_to_be_missing_and_its_calls_are_judged():
    old = {TOKENIZE: Count(10, None, 10, None)}
    more = {TOKENIZE: Count(11, None, 11, None)}
    before = measurement(*[process(old, python="3.11")] * 2)
    after = measurement(*[process(more, python="3.11")] * 2)

    found = judged(before, after, rule(), rule("calls"))

    assert [str(each) for each in found.findings] == [
        "t: the benchmark itself makes 10 % more calls, 10 -> 11 per iteration; limit 0 %."
    ]
    assert [each.text.partition(": ")[2] for each in found.notes] == [
        "Python 3.11 counts calls only, bytecodes need 3.12"
    ]


def test_steady_functions_are_judged_beside_unsteady_ones():
    changed = {**SAME, TOKENIZE: Count(10, 1020, 10, 1020)}
    after = measurement(process(changed), process({**changed, PRICE: Count(5, 501, 5, 501)}))

    found = judged(measurement(), after, rule(frames=("shop:tokenize",)))

    assert [str(each.frame) for each in found.findings] == ["shop:tokenize"]
    assert found.notes == ()


def test_another_machine_is_no_obstacle_to_counts():
    both = counts(measurement(), with_work(TOKENIZE, 1020))
    why = Note("other-machine", "CPU model: a, b", "t")

    verdict = judge_alone(with_work(TOKENIZE, 1020), Mode.ON_CPU, Policy((rule(),)), why, both=both)

    assert verdict.outcome is Outcome.FAIL
    assert [str(each.frame) for each in verdict.findings] == [str(TOTAL)]


# -- words ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("bytecodes", [1000, None])
def test_nothing_is_said_of_the_work_of_what_is_not_counted(kind, bytecodes):
    """Zero calls of a C function would read as if nothing had called it."""
    some = {TOKENIZE: Count(10, bytecodes, 10, bytecodes)}
    both = counts(*[measurement(process(some), process(some))] * 2)

    found = both.work(Frame("roll", "_rolling", kind=kind))

    assert (found is None) is (kind is not Kind.PYTHON)
    assert bool(exact.told(found, own=False, growth=0.5)) is (found is not None)


@pytest.mark.parametrize(
    ("before", "after", "growth", "said"),
    [
        (
            (1200, 1000, 1200, 1000),
            (1560, 1300, 1560, 1300),
            0.31,
            "More work: 30 % more bytecodes, calls 1,200 -> 1,560.",
        ),
        (
            (12, 1000, 12, 1000),
            (12, 1300, 12, 1300),
            0.31,
            "More work: 30 % more bytecodes, same calls (12).",
        ),
        # Half of the growth in time, and less than half.
        (
            (1, 1000, 1, 1000),
            (1, 1150, 1, 1150),
            0.3,
            "More work: 15 % more bytecodes, same calls (1).",
        ),
        (
            (1, 1000, 1, 1000),
            (1, 1149, 1, 1149),
            0.3,
            "More work, and dearer: 15 % more bytecodes, same calls (1).",
        ),
        (
            (1, 1000, 1, 1000),
            (1, 1000, 1, 1000),
            0.3,
            "Same bytecodes and calls: dearer work, or time in C below it.",
        ),
        (
            (1, 1000, 1, 1000),
            (1, 900, 1, 900),
            0.3,
            "Dearer work, though less of it: 10 % fewer bytecodes, same calls (1).",
        ),
        (
            (1, 27009, 1, 27009),
            (1, 27010, 1, 27010),
            0.3,
            "More work, and dearer: 27,009 -> 27,010 bytecodes, same calls (1).",
        ),
        (
            (0, 0, 0, 0),
            (12, 3480, 12, 3480),
            float("inf"),
            "New work: 3,480 bytecodes in 12 calls.",
        ),
        ((1, 5, None, None), (1, 5, None, None), 0.3, ""),
        (
            (3, None, 9, None),
            (3, None, 9, None),
            0.3,
            "Same calls, of its callees too (bytecodes need Python 3.12).",
        ),
        ((3, None, 3, None), (4, None, 4, None), 0.3, "More calls: 3 -> 4."),
        (
            (3, None, 9, None),
            (3, None, 12, None),
            0.3,
            "More calls: 3 -> 3, 9 -> 12 with those of its callees.",
        ),
        ((3, None, None, None), (3, None, None, None), 0.3, ""),
    ],
)
def test_what_counts_say_of_a_finding(before, after, growth, said):
    assert exact.told(Work(Count(*before), Count(*after)), own=False, growth=growth) == said


def test_nothing_is_claimed_without_counts():
    assert exact.told(None, own=False, growth=0.3) == ""


def test_counting_that_was_left_out_is_said():
    both = counts(measurement(), measurement(process(left_out="one iteration takes 7.0 s")))

    (note,) = exact.notes(both, "t")

    assert note.text == "bytecodes and calls were not counted: one iteration takes 7.0 s"
    assert exact.notes(counts(measurement(), measurement()), "t") == []


# -- the policy -----------------------------------------------------------------------


def policy(words):
    return parse_policy(f"version: 1\nrules:\n  - {words}\n".encode(), "ci-flame.yml")


def test_a_rule_on_counts_without_frames_is_about_the_whole_benchmark():
    (found,) = policy("{metric: bytecodes, max_growth: 0%}").policy.rules

    assert (found.metric, found.frames, found.max_growth) == (
        "bytecodes", ("[total]",), Limit(share=0.0),
    )  # fmt: skip


def test_a_rule_on_counts_may_name_frames():
    words = '{metric: bytecodes, max_growth: 2%, frames: ["shop:*", "!shop:old"], self: true}'
    (found,) = policy(words).policy.rules

    assert (found.frames, found.self_only) == (("shop:*", "!shop:old"), True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "{metric: bytecodes, max_growth: 0%, certainty: 90%}",
            'certainty has no meaning with metric "bytecodes": counts have no noise',
        ),
        (
            "{metric: bytecodes, max_growth: 0%, budget: 5%}",
            'budget has no meaning with metric "bytecodes": it is about stacks',
        ),
        (
            '{metric: calls, max_growth: 0%, frames: "a:*;b:*"}',
            '"a:*;b:*" is a path: calls are counted by function',
        ),
        ("{metric: calls, max_growth: 0%, self: true}", "self has no meaning with calls"),
        ("{metric: calls, max_growth: 2ms}", "max_growth of a metric is a share"),
        (
            "{metric: bytecode, max_growth: 0%}",
            'metric: unknown metric "bytecode"; did you mean "bytecodes"?',
        ),
        ("{metric: calls}", "the rule limits nothing"),
    ],
)
def test_what_has_no_meaning_for_counts_is_refused(words, message):
    with pytest.raises(PolicyError) as caught:
        policy(words)

    assert message in str(caught.value)
