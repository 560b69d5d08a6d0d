"""Every kind of limit at both sides, then waived, and after the waiver has ended."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import cache

import pytest
from synthetic import (
    MS,
    SHOP,
    WAITS,
    Noise,
    grown,
    longer,
    synthetic_measurement,
    synthetic_waits,
)

from ci_flame.diff import diff_benchmark
from ci_flame.judge import judge_alone, judge_benchmark
from ci_flame.policy import Limit, Policy, Rule, Waiver
from ci_flame.profile import Frame, Measurement, Mode
from ci_flame.profile.counts import Count, Counting
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome

LAST_DAY = date(2026, 1, 31)
DAY_AFTER = date(2026, 2, 1)
STEADY = Noise(function=0.002, misfit=0.002, dispersion=0.2)
SYSCALLS = "bpftrace.reads.@count[openat]"


@cache
def cpu(factor: float = 1.0, *, of: str = "shop.parser:tokenize", seed: int = 1) -> Measurement:
    """Return the shop with one function's cost times `factor`."""
    return synthetic_measurement(grown(SHOP, of, factor), seed=seed, noise=STEADY)


@cache
def waits(factor: float = 1.0, seed: int = 1) -> Measurement:
    """Return the shop's waiting with mails that take `factor` times as long."""
    return synthetic_waits(longer(WAITS, "mail", factor), seed=seed)


def metric(name: str, value: float) -> Measurement:
    """Return the shop with one metric of about this value in each process."""
    made = cpu()
    values = (value * 0.999, value * 0.9995, value, value * 1.0005, value * 1.001)
    return replace(
        made,
        processes=tuple(
            replace(process, metrics={name: each})
            for process, each in zip(made.processes, values, strict=True)
        ),
    )


def counted(bytecodes: int) -> Measurement:
    """Return the shop with so many bytecodes of `tokenize` in one call."""
    found = {Frame("tokenize", "shop.parser"): Count(1, bytecodes, 1, bytecodes)}
    counting = Counting(python="3.12", hash_seed="0", iterations=2)
    made = cpu()
    return replace(
        made,
        processes=tuple(
            replace(process, counts=found, counting=counting) for process in made.processes
        ),
    )


@dataclass(frozen=True, slots=True)
class Limited:
    """A rule, what it is judged on, and the waivers that must cover what it finds."""

    rule: Rule
    before: Callable[[], Measurement]
    within: Callable[[], Measurement]
    past: Callable[[], Measurement]
    waiver: str
    says: str
    """Part of the sentence."""


TENTH = Limit(share=0.10)
OFF = "off-cpu"
PARSER = ("shop.parser:*",)
COMPARED = {
    "growth": Limited(
        Rule(max_growth=TENTH), cpu, lambda: cpu(1.06, seed=2), lambda: cpu(1.2, seed=2),
        "shop.parser:*", "shop.parser:tokenize grew by",
    ),
    "growth of the benchmark": Limited(
        Rule(frames=("[total]",), max_growth=TENTH), cpu, lambda: cpu(1.25, seed=2),
        lambda: cpu(1.8, seed=2), "[total]", "the benchmark itself grew by",
    ),
    "growth of waiting": Limited(
        Rule(mode=OFF, max_growth=TENTH), waits, lambda: waits(1.07, 2), lambda: waits(1.14, 2),
        "shop.mail:*", "shop.mail:send waits",
    ),
    "growth of the run queue": Limited(
        Rule(metric="run_queue.p99_ms", max_growth=TENTH),
        lambda: metric("run_queue.p99_ms", 4.0), lambda: metric("run_queue.p99_ms", 4.39),
        lambda: metric("run_queue.p99_ms", 4.5), "run_queue.p99_ms", "run_queue.p99_ms grew by",
    ),
    "growth of block I/O": Limited(
        Rule(metric="block_io.*.p99_ms", max_growth=TENTH),
        lambda: metric("block_io.vda.write.p99_ms", 4.0),
        lambda: metric("block_io.vda.write.p99_ms", 4.39),
        lambda: metric("block_io.vda.write.p99_ms", 4.5),
        "block_io.*", "block_io.vda.write.p99_ms grew by",
    ),
    "growth of a bpftrace metric": Limited(
        Rule(metric=SYSCALLS, max_growth=TENTH), lambda: metric(SYSCALLS, 4000.0),
        lambda: metric(SYSCALLS, 4390.0), lambda: metric(SYSCALLS, 4500.0),
        f"[{SYSCALLS}]", f"{SYSCALLS} grew by",
    ),
    "growth of bytecodes": Limited(
        Rule(metric="bytecodes", frames=PARSER, max_growth=Limit(share=0.02)),
        lambda: counted(1000), lambda: counted(1020), lambda: counted(1021),
        "shop.parser:tokenize", "shop.parser:tokenize executes",
    ),
}  # fmt: skip
ALONE = {
    "budget, share": Limited(
        Rule(frames=PARSER, budget=Limit(share=0.36)), cpu, lambda: cpu(0.9),
        lambda: cpu(1.2), "shop.parser:*", "shop.parser:parse takes",
    ),
    "budget of own cost": Limited(
        Rule(frames=PARSER, self_only=True, budget=Limit(share=0.24)), cpu, lambda: cpu(0.9),
        lambda: cpu(1.2), "shop.parser:*", "own cost of shop.parser:tokenize takes",
    ),
    "budget, time": Limited(
        Rule(frames=PARSER, budget=Limit(ns=180_000.0)), cpu, lambda: cpu(0.5),
        lambda: cpu(2.5), "shop.parser:*", "shop.parser:parse takes",
    ),
    "budget of the benchmark": Limited(
        Rule(frames=("[total]",), budget=Limit(ns=700_000.0)), cpu, cpu,
        lambda: cpu(6.0), "*", "the benchmark itself takes",
    ),
    "budget of a path": Limited(
        Rule(frames=("shop.api:*;**;json:*",), budget=Limit(share=0.10)), cpu,
        lambda: cpu(0.8, of="json:dumps"), lambda: cpu(1.3, of="json:dumps"),
        "json:dumps", "json:dumps under shop.cart:total takes",
    ),
    "budget of waiting, time": Limited(
        Rule(mode=OFF, frames=("shop.mail:*",), budget=Limit(ns=10.5 * MS)), waits, waits,
        lambda: waits(1.1), "shop.mail:*", "shop.mail:send waits",
    ),
    "budget of waiting, share": Limited(
        Rule(mode=OFF, frames=("[lock]",), budget=Limit(share=0.47)), waits, waits,
        lambda: waits(0.8), "[lock]", "[lock] takes",
    ),
    "run queue": Limited(
        Rule(metric="run_queue.p99_ms", maximum=5.0), cpu,
        lambda: metric("run_queue.p99_ms", 5.0), lambda: metric("run_queue.p99_ms", 5.001),
        "[run_queue.p99_ms]", "run_queue.p99_ms is 5.001 ms",
    ),
    "block I/O": Limited(
        Rule(metric="block_io.*.p99_ms", maximum=5.0), cpu,
        lambda: metric("block_io.vda.write.p99_ms", 5.0),
        lambda: metric("block_io.vda.write.p99_ms", 5.001),
        "*", "block_io.vda.write.p99_ms is 5.001 ms",
    ),
    "bpftrace": Limited(
        Rule(metric=SYSCALLS, maximum=400.0), cpu, lambda: metric(SYSCALLS, 400.0),
        lambda: metric(SYSCALLS, 401.0), "bpftrace.*", f"{SYSCALLS} is 401",
    ),
    "bytecodes": Limited(
        Rule(metric="bytecodes", frames=PARSER, maximum=1000), cpu, lambda: counted(1000),
        lambda: counted(1001), "shop.parser:*", "shop.parser:tokenize executes 1,001 bytecodes",
    ),
}  # fmt: skip
EVERY = [*COMPARED.items(), *ALONE.items()]
WITHOUT = list(ALONE.items())


def policy(given: Limited, today: date | None = None, waiver: str = "") -> Policy:
    waivers = (Waiver((waiver,), LAST_DAY, "see #214", place="ci-flame.yml:9"),) if waiver else ()
    return Policy((replace(given.rule, place="ci-flame.yml:4"),), waivers, today=today)


def compared(given: Limited, after: Measurement, of: Policy) -> BenchmarkVerdict:
    mode = Mode(given.rule.mode)
    return judge_benchmark(diff_benchmark(given.before(), after, mode), of, family=1)


def alone(given: Limited, after: Measurement, of: Policy) -> BenchmarkVerdict:
    return judge_alone(after, Mode(given.rule.mode), of, Note("no-baseline", "none"))


def ways(given: Limited) -> list[tuple[Callable[..., BenchmarkVerdict], Outcome]]:
    """Return how it is judged, and what the outcome is where nothing fails."""
    both: list[tuple[Callable[..., BenchmarkVerdict], Outcome]] = [(compared, Outcome.PASS)]
    return [*both, (alone, Outcome.NO_BASELINE)] if given in ALONE.values() else both


@pytest.mark.parametrize("given", [g for _, g in EVERY], ids=[name for name, _ in EVERY])
def test_within_its_limit_it_holds_and_past_it_fails_with_its_sentence(given: Limited) -> None:
    for judge, fine in ways(given):
        within = judge(given, given.within(), policy(given))
        past = judge(given, given.past(), policy(given))

        assert (within.outcome, within.findings) == (fine, ())
        assert past.outcome is Outcome.FAIL
        assert [given.says in str(each) for each in past.findings] == [True]
        assert past.findings[0].rule.place == "ci-flame.yml:4"


@pytest.mark.parametrize("given", [g for _, g in EVERY], ids=[name for name, _ in EVERY])
def test_a_waiver_covers_it_through_its_last_day_and_says_so(given: Limited) -> None:
    for judge, fine in ways(given):
        (sentence,) = map(str, judge(given, given.past(), policy(given)).findings)
        got = judge(given, given.past(), policy(given, LAST_DAY, given.waiver))
        (note,) = [each for each in got.notes if each.slug == "waived"]

        assert (got.outcome, got.findings) == (fine, ())
        assert note.text == f"waived until 2026-01-31 (see #214): {sentence}"


@pytest.mark.parametrize("given", [g for _, g in EVERY], ids=[name for name, _ in EVERY])
def test_after_its_last_day_it_fails_again_and_says_why(given: Limited) -> None:
    for judge, _ in ways(given):
        got = judge(given, given.past(), policy(given, DAY_AFTER, given.waiver))
        (note,) = [each for each in got.notes if each.slug == "waiver-expired"]

        assert got.outcome is Outcome.FAIL
        assert len(got.findings) == 1
        assert note.text.endswith("(ci-flame.yml:9) ended on 2026-01-31; it fails again")


@pytest.mark.parametrize("given", [g for _, g in EVERY], ids=[name for name, _ in EVERY])
def test_a_waiver_of_something_else_does_not_cover_it(given: Limited) -> None:
    for judge, _ in ways(given):
        for other in ("shop.render:*", "run_queue.p50_ms", "[disk]", "bpftrace.writes.*"):
            got = judge(given, given.past(), policy(given, LAST_DAY, other))

            assert got.outcome is Outcome.FAIL
            assert "waived" not in {note.slug for note in got.notes}


def test_a_waiver_without_frames_to_choose_covers_all_but_what_it_excludes() -> None:
    given = ALONE["run queue"]
    for frames, fails in (("!block_io.*", False), ("!run_queue.*", True)):
        got = compared(given, given.past(), policy(given, LAST_DAY, frames))

        assert (got.outcome is Outcome.FAIL) is fails
