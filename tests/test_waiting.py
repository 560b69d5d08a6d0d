"""Waiting (off-CPU) compared and judged like cost: what got longer, and what did not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import (
    MS,
    SHOP,
    WAITS,
    longer,
    stack_of,
    synthetic_measurement,
    synthetic_run,
    synthetic_waits,
)

from ci_flame import noise
from ci_flame.cli import pieces
from ci_flame.diff import diff, diff_benchmark
from ci_flame.judge import judge, judge_benchmark
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import TOTAL, Frame, Mode, Process, Profile, Round, Unit, Weight
from ci_flame.verdict import Outcome

OFF = Mode.OFF_CPU


def compared(before, after, mode=OFF):
    return diff_benchmark(before, after, mode)


def verdict(before, after, policy=None, family=1, **options):
    return judge_benchmark(
        compared(
            synthetic_waits(before, seed=1, **options), synthetic_waits(after, seed=2, **options)
        ),
        policy or Policy(),
        family=family,
    )


def slugs(got):
    return [note.slug for note in got.notes]


# -- what is compared -----------------------------------------------------------------


def test_times_are_per_iteration_and_not_corrected_by_the_machine():
    got = compared(synthetic_waits(WAITS, seed=1), synthetic_waits(WAITS, seed=2))

    assert got.anchor == "clock"
    assert got.total.before_ns == pytest.approx(22 * MS, rel=0.02)
    assert got.total.after_ns == pytest.approx(22 * MS, rel=0.02)
    assert abs(got.total.log_ratio) < 0.02
    assert got.total.samples_before == got.total.samples_after > 500  # waits


def test_parts_add_up_to_the_whole():
    got = compared(synthetic_waits(WAITS, seed=1), synthetic_waits(WAITS, seed=2))
    own = sum(each.own.before_ns for each in got.frames)

    assert own == pytest.approx(got.total.before_ns, rel=1e-9)


def test_swapping_the_sides_turns_every_change_round():
    one, other = synthetic_waits(WAITS, seed=1), synthetic_waits(longer(WAITS, "mail", 1.4), seed=2)
    there = {each.frame: each.total for each in compared(one, other).frames}
    back = {each.frame: each.total for each in compared(other, one).frames}

    for frame, change in there.items():
        assert back[frame].log_ratio == pytest.approx(-change.log_ratio, abs=1e-12)
        assert back[frame].p_value == pytest.approx(change.p_value, abs=1e-12)


def test_waiting_for_a_cpu_is_the_machine_s_and_told():
    quiet = synthetic_waits(WAITS, seed=1)
    taken = synthetic_waits(WAITS, seed=2, run_queue_ns=30 * MS)
    got = judge_benchmark(compared(quiet, taken), Policy(), family=1)

    assert got.outcome is Outcome.PASS
    assert all("[run queue]" not in str(each.frame) for each in got.diff.frames)
    (note,) = [note.text for note in got.notes if "waited for a CPU" in note.text]
    assert note.startswith("waited for a CPU for 0 per iteration before and ")


def test_threads_outside_the_benchmark_are_told_and_not_judged():
    def with_idle(measurement, ns):
        unknown = (Frame.parse("[unknown]"),)
        return replace(
            measurement,
            processes=tuple(
                replace(
                    process,
                    rounds=tuple(
                        replace(
                            each,
                            profiles={
                                OFF: replace(
                                    each.profiles[OFF],
                                    stacks={**each.profiles[OFF].stacks, unknown: Weight(1, ns)},
                                )
                            },
                        )
                        for each in process.rounds
                    ),
                )
                for process in measurement.processes
            ),
        )

    before = with_idle(synthetic_waits(WAITS, seed=1), 10_000_000)
    after = with_idle(synthetic_waits(WAITS, seed=2), 90_000_000)
    got = judge_benchmark(compared(before, after), Policy(), family=1)

    assert got.outcome is Outcome.PASS
    assert any(note.text.startswith("other threads waited for ") for note in got.notes)


def test_a_process_that_never_waited_is_evidence_too():
    never = {text: (0.0, ns) for text, (_, ns) in WAITS.items()}
    got = compared(synthetic_waits(never, seed=1), synthetic_waits(WAITS, seed=2))

    assert (got.processes_before, got.processes_after) == (5, 5)
    assert got.total.before_ns == 0
    assert got.total.growth == float("inf")
    assert got.total.p_value < 1e-6


# -- what is judged -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_run_against_itself_passes(seed):
    same = synthetic_waits(WAITS, seed=seed, jitter=1.0, spread=0.2)
    got = judge_benchmark(compared(same, same), Policy(), family=1)

    assert got.outcome is Outcome.PASS
    assert got.findings == ()


@given(
    factor=st.floats(0.2, 5),
    seed=st.integers(0, 1 << 20),
    jitter=st.floats(0.01, 2),
    processes=st.integers(1, 6),
)
@settings(max_examples=40, deadline=None)
def test_whatever_is_recorded_a_run_against_itself_passes(factor, seed, jitter, processes):
    same = synthetic_waits(
        longer(WAITS, "db", factor), seed=seed, jitter=jitter, processes=processes, seconds=0.3
    )
    got = judge_benchmark(compared(same, same), Policy(), family=1)

    assert got.findings == ()
    assert all(each.total.log_ratio == 0 for each in got.diff.frames)


def test_the_function_that_sleeps_longer_fails_by_name():
    got = verdict(WAITS, longer(WAITS, "mail", 1.2))
    (finding,) = got.findings

    assert got.outcome is Outcome.FAIL
    assert str(finding.frame) == "shop.mail:send"
    said = str(finding)
    assert "shop.mail:send waits 20 % longer (" in said or "waits 21 % longer (" in said
    assert "10.0 -> 12.0 ms per iteration" in said
    assert "of the waiting; limit 10 %." in said
    assert "Most of the growth (100 %) is in [sleep]." in said


def test_a_lock_that_is_held_longer_names_the_waiting_path():
    got = verdict(WAITS, longer(WAITS, "db", 1.5))
    (finding,) = got.findings

    assert [str(each) for each in finding.path] == ["b:test", "shop.api:checkout", "shop.db:query"]
    assert "%) is in [lock]." in str(finding)


@pytest.mark.parametrize(("factor", "outcome"), [(1.08, Outcome.PASS), (1.13, Outcome.FAIL)])
def test_the_limit_has_two_sides(factor, outcome):
    assert verdict(WAITS, longer(WAITS, "mail", factor)).outcome is outcome


def test_less_waiting_never_fails():
    assert verdict(WAITS, longer(WAITS, "mail", 0.5)).outcome is Outcome.PASS


def test_a_new_wait_fails_and_one_that_is_gone_does_not():
    without = {text: each for text, each in WAITS.items() if "mail" not in text}
    new = verdict(without, WAITS)
    (finding,) = new.findings

    assert new.outcome is Outcome.FAIL
    assert "shop.mail:send did not wait before, and now waits 10.1 ms per iteration, 4" in str(
        finding
    )
    assert verdict(WAITS, without).outcome is Outcome.PASS


def test_a_sporadic_wait_is_no_growth():
    """One process of five met a slow disk once: that is not what the code does."""
    one = synthetic_waits(WAITS, seed=1)
    other = synthetic_waits(WAITS, seed=2)
    stack = stack_of("b:test;shop.api:checkout;shop.log:write;kernel:io_schedule;[disk]")
    first, *rest = other.processes
    hit = first.rounds[0]
    slow = {**hit.profiles[OFF].stacks, stack: Weight(1, 800_000_000)}
    rounds = (replace(hit, profiles={OFF: replace(hit.profiles[OFF], stacks=slow)}),)
    other = replace(other, processes=(replace(first, rounds=rounds + first.rounds[1:]), *rest))
    got = judge_benchmark(compared(one, other), Policy(), family=1)

    assert got.outcome is Outcome.PASS


@pytest.mark.parametrize(("share", "outcome"), [(0.008, "no-waits"), (0.03, "")])
def test_little_waiting_is_nobody_s_problem(share, outcome):
    """Twice the waiting, of under and over a hundredth of the time."""

    def made(ns, seed):
        measurement = synthetic_waits({"b:test;b:f;[lock]": (10.0, ns)}, seed=seed)
        wall = round(10 * 0.1 * MS / share)
        return replace(
            measurement,
            processes=tuple(
                replace(
                    process,
                    rounds=tuple(
                        replace(each, wall_ns=wall * each.iterations) for each in process.rounds
                    ),
                )
                for process in measurement.processes
            ),
        )

    got = judge_benchmark(compared(made(0.05 * MS, 1), made(0.1 * MS, 2)), Policy(), family=1)

    assert got.outcome is (Outcome.PASS if outcome else Outcome.FAIL)
    assert ("no-waits" in slugs(got)) is bool(outcome)


@pytest.mark.parametrize(("rounds", "outcome"), [(9, Outcome.INCONCLUSIVE), (10, Outcome.PASS)])
def test_too_few_waits_are_inconclusive(rounds, outcome):
    each = Round(
        1,
        1,
        100_000_000,
        profiles={OFF: Profile({stack_of("b:t;[sleep]"): Weight(1, 90_000_000)})},
    )
    whole = replace(synthetic_waits(WAITS), processes=(Process(rounds=(each,) * rounds),))
    got = judge_benchmark(compared(whole, whole), Policy(), family=1)

    assert got.outcome is outcome
    if outcome is Outcome.INCONCLUSIVE:
        assert got.notes[0].text.startswith("too few waits to judge: 9 before and 9 after")


def test_a_rule_without_a_mode_is_about_the_cpu():
    rules = (Rule(max_growth=Limit(share=0.1)),)
    got = verdict(WAITS, longer(WAITS, "mail", 2), Policy(rules=rules))

    assert got.outcome is Outcome.PASS
    assert any("no rule limits growth here" in note.text for note in got.notes)


@pytest.mark.parametrize(("budget", "broken"), [(9.5, True), (10.9, False)])
def test_a_budget_of_waiting_is_in_time(budget, broken):
    rule = Rule(frames=("shop.mail:*",), mode="off-cpu", budget=Limit(ns=budget * MS))
    got = verdict(WAITS, WAITS, Policy(rules=(rule,)))

    assert bool(got.findings) is broken
    if broken:
        assert "shop.mail:send waits 10.1 ms (" in str(got.findings[0])


def test_a_reason_can_have_a_budget():
    rule = Rule(frames=("[lock]",), mode="off-cpu", budget=Limit(share=0.3))
    got = verdict(WAITS, WAITS, Policy(rules=(rule,)))
    (finding,) = got.findings

    assert "[lock] takes 45 %" in str(finding)
    assert "of the waiting" in str(finding)


# -- a benchmark that hardly uses the CPU -----------------------------------------------


def both_modes(waits, cpu_share, seed, sampled=5):
    """Return a benchmark whose CPU was sampled too, in the first `sampled` rounds only."""
    measurement = synthetic_waits(waits, seed=seed, cpu_share=cpu_share)
    few = Profile({stack_of("b:test;b:work"): Weight(1, 500_000)}, Unit.NANOSECONDS)
    return replace(
        measurement,
        processes=tuple(
            replace(
                process,
                rounds=tuple(
                    replace(
                        each,
                        profiles={**each.profiles, Mode.ON_CPU: few}
                        if n < sampled
                        else {**each.profiles, Mode.ON_CPU: Profile({})},
                    )
                    for n, each in enumerate(process.rounds)
                ),
            )
            for process in measurement.processes
        ),
    )


@pytest.mark.parametrize(
    ("cpu_share", "outcome"), [(0.02, Outcome.PASS), (0.2, Outcome.INCONCLUSIVE)]
)
def test_what_hardly_uses_the_cpu_is_judged_by_its_waiting(cpu_share, outcome):
    before, after = (both_modes(WAITS, cpu_share, seed) for seed in (1, 2))
    got = judge_benchmark(compared(before, after, Mode.ON_CPU), Policy(), family=1)

    assert got.outcome is outcome
    if outcome is Outcome.PASS:
        assert "only its waiting is judged" in got.notes[0].text


@pytest.mark.parametrize(
    ("cpu_share", "outcome"), [(0.02, Outcome.PASS), (0.2, Outcome.INCONCLUSIVE)]
)
@pytest.mark.parametrize(
    ("sampled", "which"), [((0, 5), "before"), ((5, 0), "after"), ((0, 0), "before and after")]
)
def test_no_sample_at_all_is_no_doubt_where_waiting_is_judged(cpu_share, outcome, sampled, which):
    before, after = (
        both_modes(WAITS, cpu_share, seed, count)
        for seed, count in zip((1, 2), sampled, strict=True)
    )
    got = judge_benchmark(compared(before, after, Mode.ON_CPU), Policy(), family=1)

    assert got.outcome is outcome
    told = f"hardly uses the CPU (not one sample {which}): only its waiting is judged"
    assert (got.notes[0].text == told) == (outcome is Outcome.PASS)


def test_each_mode_has_its_own_verdict_and_the_worst_counts():
    before = synthetic_run(both_modes(WAITS, 0.02, 1))
    after = synthetic_run(both_modes(longer(WAITS, "mail", 1.3), 0.02, 2))
    got = judge(diff(before, after), Policy(), after=after)

    assert [(each.mode, each.outcome) for each in got.benchmarks] == [
        ("on-cpu", Outcome.PASS),
        ("off-cpu", Outcome.FAIL),
    ]
    assert got.outcome is Outcome.FAIL


@pytest.mark.parametrize(("place", "said"), [("ci-flame.yml:4", True), ("default", False)])
def test_a_rule_about_a_mode_that_was_not_recorded_is_said(place, said):
    run = synthetic_run(synthetic_measurement(SHOP))
    rule = Rule(mode="off-cpu", max_growth=Limit(share=0.1), place=place)
    got = judge(diff(run, run), Policy(rules=(rule,)), after=run)

    assert [note.slug for note in got.notes] == (["mode-missing"] if said else [])
    if said:
        assert "the rule ci-flame.yml:4 is about off-cpu" in got.notes[0].text


def test_what_is_said_of_a_recording_is_said_again_by_whoever_judges_it_again():
    """`explain` has nothing but the runs."""
    shop = synthetic_measurement(SHOP)
    waits = replace(
        shop,
        processes=tuple(
            replace(
                process,
                rounds=tuple(replace(e, wall_ns=e.cpu_ns * 11) for e in process.rounds),
            )
            for process in shop.processes
        ),
    )
    run = synthetic_run(waits)
    got = judge(diff(run, run), Policy(), after=run)

    (note,) = [note for note in got.benchmarks[0].notes if note.slug == "waits"]
    assert note.text.endswith("its waiting is not judged; add --flame-mode off-cpu")


def busy(measurement, every):
    """Return the benchmark with every so-manieth round left out."""
    return replace(
        measurement,
        processes=tuple(
            replace(
                process,
                rounds=tuple(
                    replace(each, dropped="the machine was busy for 34 % of it")
                    if n % every == 0
                    else each
                    for n, each in enumerate(process.rounds)
                ),
            )
            for process in measurement.processes
        ),
    )


def test_rounds_that_were_left_out_are_summed_up_in_words():
    before, after = synthetic_measurement(SHOP, seed=1), synthetic_measurement(SHOP, seed=2)
    got = judge_benchmark(compared(before, busy(after, 10), Mode.ON_CPU), Policy(), family=1)

    assert got.outcome is Outcome.PASS
    assert (
        "10 of 100 rounds after left out"
        " (the first: the machine was busy for 34 % of round 1 of process 1)"
    ) in [note.text for note in got.notes]


def test_a_machine_that_is_never_quiet_is_inconclusive_in_words():
    before, after = synthetic_measurement(SHOP, seed=1), synthetic_measurement(SHOP, seed=2)
    got = judge_benchmark(compared(before, busy(after, 1), Mode.ON_CPU), Policy(), family=1)

    assert got.outcome is Outcome.INCONCLUSIVE
    assert got.notes[0].slug == "busy"
    assert got.notes[0].text == (
        "nothing to judge after: the machine was busy in 100 of 100 rounds after,"
        " which are left out; a quieter machine helps, `until_decided: true` (records on), or"
        " `record: {busy: 100%}` (keeps such rounds); `inconclusive: fail` ends the build with 5"
        " instead of 0"
    )


def test_too_little_that_a_busy_machine_left_says_what_is_missing_and_what_helps():
    before, after = synthetic_measurement(SHOP, seed=1), synthetic_measurement(SHOP, seed=2)
    one = replace(after.processes[0], rounds=busy(after, 1).processes[0].rounds[:-1])
    kept = after.processes[0].rounds[-1:]
    left = replace(after, processes=(replace(one, rounds=(*one.rounds, *kept)),))
    got = judge_benchmark(compared(before, left, Mode.ON_CPU), Policy(), family=1)

    assert got.outcome is Outcome.INCONCLUSIVE
    (told,) = [note.text for note in got.notes if note.slug == "busy"]
    assert "what is left is too short to judge" in told
    assert told.endswith("`inconclusive: fail` ends the build with 5 instead of 0")


def test_too_little_on_a_quiet_machine_does_not_speak_of_a_busy_one():
    before, after = synthetic_measurement(SHOP, seed=1), synthetic_measurement(SHOP, seed=2)
    process = after.processes[0]
    left = replace(after, processes=(replace(process, rounds=process.rounds[-1:]),))
    got = judge_benchmark(compared(before, left, Mode.ON_CPU), Policy(), family=1)

    assert [note.slug for note in got.notes if "too short" in note.text] == ["too-short"]
    assert not any("quieter" in note.text for note in got.notes)


def test_a_mode_that_the_baseline_lacks_is_new():
    shop = synthetic_measurement(SHOP)
    after = synthetic_run(
        replace(
            shop,
            processes=tuple(
                replace(
                    process,
                    rounds=tuple(
                        replace(each, profiles={**each.profiles, OFF: Profile({})})
                        for each in process.rounds
                    ),
                )
                for process in shop.processes
            ),
        )
    )
    got = judge(diff(synthetic_run(shop), after), Policy(), after=after)

    assert [(each.mode, each.outcome) for each in got.benchmarks] == [
        ("on-cpu", Outcome.PASS),
        ("off-cpu", Outcome.NO_BASELINE),
    ]
    assert got.benchmarks[1].notes[0].text == "off-cpu is new: the baseline did not record it"


# -- the arithmetic -------------------------------------------------------------------


def estimates(before, after):
    return noise.compare_waits(np.array(before), np.array(after), 100.0, 100.0)


def test_one_process_a_side_assumes_its_spread():
    got = estimates([[10.0]], [[12.0]])

    assert got.standard_error[0] == pytest.approx(noise.UNSEEN_WAIT_SPREAD * np.sqrt(2))


def test_what_was_never_waited_on_both_sides_is_no_change():
    got = estimates([[5.0, 5.0], [0.0, 0.0]], [[5.0, 5.0], [0.0, 0.0]])

    assert (got.log_ratio[1], got.t[1]) == (0.0, 0.0)
    assert np.isfinite(got.standard_error).all()


def test_an_unsteady_side_does_not_hide_behind_a_steady_one():
    steady = [[10.0, 10.0, 10.0, 10.0, 10.0]]
    unsteady = [[2.0, 40.0, 3.0, 2.0, 8.0]]
    got = estimates(steady, unsteady)

    assert abs(got.t[0]) < 1
    assert got.degrees[0] < 6


@pytest.mark.parametrize(
    ("name", "jitter", "spread", "processes"),
    [
        ("timers", 0.01, 0.001, 5),
        ("exponential waits", 1.0, 0.02, 5),
        ("heavy tails", 3.0, 0.05, 5),
        ("unlike processes", 0.3, 0.3, 5),
        ("three processes", 1.0, 0.1, 3),
    ],
)
def test_false_failures_stay_rare(name, jitter, spread, processes):
    """400 builds of the same code: at 0.5 % a build two are expected, eight are not chance."""
    rng = np.random.default_rng(5)
    waits = np.array([60, 200, 20])
    failed = 0
    for _ in range(400):
        sides = []
        for _ in range(2):
            slow = np.exp(rng.normal(0, spread, (3, processes)))
            sums = rng.gamma(waits[:, None] / jitter**2, jitter**2, (3, processes))
            rows = sums * slow
            sides.append(np.vstack([rows.sum(axis=0), rows]))
        got = noise.compare_waits(sides[0], sides[1], 280.0, 280.0)
        p = noise.lower_tail(got.degrees, -got.t)
        sure = noise.probability_above(
            got.log_ratio, got.standard_error, got.degrees, float(np.log(1.1))
        )
        real = noise.holm(p) <= 0.005
        failed += bool((real & (sure >= 0.8) & (got.log_ratio > np.log(1.1))).any())

    assert failed <= 8, f"{name}: {failed} of 400"


def test_total_is_named_where_everything_waits_longer():
    got = verdict(WAITS, longer(WAITS, "b:test", 1.5))

    assert {each.frame for each in got.findings} <= {
        TOTAL, *(Frame.parse(n) for n in ("shop.mail:send", "shop.db:query", "shop.log:write"))
    }  # fmt: skip
    assert got.outcome is Outcome.FAIL


@pytest.mark.parametrize("told", [pieces.account, pieces.live_account])
def test_the_line_on_a_recording_tells_its_waits(told):
    waits = synthetic_waits(WAITS, processes=1)
    number = waits.profile(Mode.OFF_CPU).samples

    assert f" lost, {number} waits of " in told(waits)
    assert "waits of" not in told(synthetic_measurement(SHOP, processes=1))
