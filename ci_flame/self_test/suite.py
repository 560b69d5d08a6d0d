"""Edge: a suite that is compared with itself, and with itself and something planted.

first look:   same | again                      the sides' processes in random order
counted:      calls of the chosen functions, the loop's cost
second look:  plain | planted 1 | planted 2 …   the same
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ci_flame.config import RecordConfig, marker_rules
from ci_flame.profile import TOTAL, Frame, Measurement, Process
from ci_flame.pytest_plugin.suite import Suite
from ci_flame.pytest_plugin.values import Before, Judged, Selected, expected_s
from ci_flame.record import exact, processes
from ci_flame.record.recorder import must_have_samples
from ci_flame.self_test import choosing, live
from ci_flame.self_test.choosing import Candidate
from ci_flame.self_test.figures import Planted, Same, Tested
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome

TOLD: Final = "self-test: the suite against itself, and with slow-downs planted into it"
COUNTING_S: Final = 0.3
"""Of windows, in the process that counts calls."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for."""

    functions: int = 3
    """Planted into, per benchmark."""
    globs: tuple[str, ...] = ()
    growth: float | None = None
    """None: twice the limit, at least 20 %."""
    repeat: int = 1
    """Comparisons of identical code, per benchmark."""
    confirm: bool = True
    """Record what failed a second time, as the gate does."""
    max_seconds: float | None = None


@dataclass(slots=True)
class Budget:
    """Wall time: what was used, what a process takes."""

    most_s: float | None
    began: float = field(default_factory=time.monotonic)
    took: list[float] = field(default_factory=list)
    """Seconds of each process so far, over what was expected of it."""

    def expected(self, plan: RecordConfig, count: int) -> float:
        """Return the seconds that so many processes will take."""
        factor = statistics.median(self.took) if self.took else 1.0
        return factor * count * expected_s(plan)

    def fits(self, seconds: float) -> bool:
        """Tell whether so much more is allowed."""
        return self.most_s is None or time.monotonic() - self.began + seconds <= self.most_s

    @property
    def used_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began


def processes_of(wishes: Wishes, plan: RecordConfig) -> int:
    """Return how many processes one benchmark takes; confirmations of what is found included."""
    same = 2 * wishes.repeat * plan.processes
    planted = (1 + wishes.functions) * plan.processes if wishes.functions else 0
    again = planted if wishes.confirm and plan.confirm else 0
    return same + planted + again + 1


class SelfTestSuite(Suite):
    """All benchmarks of one pytest process, each compared with itself."""

    def __init__(
        self,
        instead_of: Suite,
        wishes: Wishes,
        start: Path,
        tell: Callable[[str], None],
        keep: Callable[[Tested], None],
    ) -> None:
        invocation = instead_of._invocation  # noqa: SLF001 - a suite, too
        super().__init__(
            instead_of.config, Before(told=TOLD), invocation, instead_of.recorder, start=start
        )
        self.wishes = wishes
        self.budget = Budget(wishes.max_seconds)
        self._tell = tell
        self._keep = keep
        self._number = 0

    def expected_s(self, plans: Sequence[RecordConfig]) -> float:
        """Return how long it will take at most: the time that was allowed, where that is less."""
        all_s = sum(processes_of(self.wishes, plan) * expected_s(plan) for plan in plans)
        return min(all_s, self.wishes.max_seconds or all_s)

    def conclude(self, selected: Selected) -> tuple[BenchmarkVerdict, ...]:
        """Test the gate on one benchmark; the test item itself passes.

        Raises ChildError and CollectError as a recording does.
        """
        began = time.monotonic()
        plan = selected.plan(self.config.record)
        tested = Tested(selected.benchmark, plan.seconds * plan.processes, plan.processes)
        first = self.budget.expected(plan, 2 * self.wishes.repeat * plan.processes)
        if not self.budget.fits(first):
            tested = replace(tested, skipped=_no_time(first, self.budget))
        else:
            tested = self._test(selected, plan, tested)
        self._keep(replace(tested, took_s=time.monotonic() - began))
        return ()

    def _test(self, selected: Selected, plan: RecordConfig, tested: Tested) -> Tested:
        same, recorded = self._same(selected, plan)
        tested = replace(tested, same=same)
        if all(each.why for each in same):
            return replace(tested, skipped=same[0].why)
        policy = marker_rules(self.config.policy, selected.keywords, selected.benchmark)
        limits = [
            limit
            for frame in (TOTAL, *(c.frame for c in choosing.candidates(recorded)))
            if (limit := choosing.limit_of(policy, selected.benchmark, frame)[0]) is not None
        ]
        tested = replace(tested, limit=min(limits, default=None))
        if not self.wishes.functions:
            return tested
        return self._plant(selected, plan, tested, recorded)

    # -- identical code -----------------------------------------------------------------

    def _same(
        self, selected: Selected, plan: RecordConfig
    ) -> tuple[tuple[Same, ...], list[Measurement]]:
        found: list[Same] = []
        everything: list[Measurement] = []
        for number in range(self.wishes.repeat):
            self._tell(
                f"{selected.benchmark}: identical code, {number + 1} of {self.wishes.repeat}"
            )
            sides = self._sides(selected, plan, {"before": {}, "after": {}})
            everything += sides.values()
            judged = self.judge(selected, sides["after"], sides["before"])
            again = judged.outcome is Outcome.FAIL and plan.confirm
            if again:
                sides = self._sides(selected, plan, {"before": {}, "after": {}})
                judged = self.judge(selected, sides["after"], sides["before"])
            found.append(_same(judged, confirmed=again))
        return tuple(found), everything

    def _sides(
        self, selected: Selected, plan: RecordConfig, sides: Mapping[str, Mapping[str, int | None]]
    ) -> dict[str, Measurement]:
        """Record several sides at once, their processes in random order, each with its turns."""
        self._number += 1
        draw = random.Random(f"{self.seed} {selected.benchmark} {self._number}")  # noqa: S311
        parts: dict[str, list[tuple[Process, Measurement]]] = {name: [] for name in sides}
        for index in range(plan.processes):
            names = list(sides)
            draw.shuffle(names)
            for name in names:
                counted = replace(plan, counts=plan.counts and index < exact.COUNTED)
                measurement, _ = self._process(selected, counted, sides[name])
                parts[name] += [(process, measurement) for process in measurement.processes]
        recorded = {}
        for name, some in parts.items():
            must_have_samples(selected.benchmark, [process for process, _ in some])
            places = {
                frame: place for _, each in reversed(some) for frame, place in each.places.items()
            }
            recorded[name] = Measurement(
                selected.benchmark, tuple(process for process, _ in some), some[-1][1].root, places
            )
        return recorded

    def _process(
        self, selected: Selected, plan: RecordConfig, turns: Mapping[str, int | None]
    ) -> tuple[Measurement, live.Answer | None]:
        """Record one process, with these turns planted; return what it answers of them."""
        began = time.monotonic()
        with _ordered(turns) as answer:
            run = processes.run(
                self._invocation,
                selected.benchmark,
                selected.file,
                plan,
                gc_on=selected.gc_on,
                timeout_s=60 + 20 * plan.seconds,
            )
            told = live.read_answer(answer) if answer else None
        self._environment = self._environment_before = run.environment
        self.budget.took.append((time.monotonic() - began) / expected_s(plan))
        return run.measurements[0], told

    # -- planted ------------------------------------------------------------------------

    def _plant(
        self,
        selected: Selected,
        plan: RecordConfig,
        tested: Tested,
        recorded: Sequence[Measurement],
    ) -> Tested:
        chosen = choosing.choose(
            choosing.candidates(recorded), self.wishes.functions, self.wishes.globs
        )
        if not chosen:
            named = ", ".join(self.wishes.globs)
            why = (
                f"--function {named} names no Python function that was seen in it"
                if named
                else f"no Python function has {choosing.LEAST_SHARE * 100:.0f} % of own cost"
            )
            return replace(tested, skipped=f"nothing to plant into: {why}")
        while len(chosen) > 1 and not self._fits(plan, len(chosen)):
            chosen = chosen[: len(chosen) - 1]
        needed = self.budget.expected(plan, (1 + len(chosen)) * plan.processes)
        if not self.budget.fits(needed):
            return replace(tested, skipped=_no_time(needed, self.budget))
        orders, refused = self._orders(selected, plan, chosen)
        tested = replace(tested, refused=tuple(sorted(refused.items())))
        if not orders:
            return replace(tested, skipped="nothing could be planted")
        return replace(tested, planted=self._look(selected, plan, orders))

    def _fits(self, plan: RecordConfig, functions: int) -> bool:
        return self.budget.fits(self.budget.expected(plan, (1 + functions) * plan.processes + 1))

    def _orders(
        self, selected: Selected, plan: RecordConfig, chosen: Sequence[Candidate]
    ) -> tuple[list["_Order"], Mapping[str, str]]:
        """Count calls in one process; return what is planted, and what cannot be."""
        self._tell(f"{selected.benchmark}: counts calls")
        count = replace(plan, seconds=COUNTING_S, counts=False)
        _, answer = self._process(selected, count, {str(each.frame): None for each in chosen})
        if answer is None:
            return [], {str(each.frame): "the process did not answer" for each in chosen}
        refused = dict(answer.refused)
        policy = marker_rules(self.config.policy, selected.keywords, selected.benchmark)
        orders = []
        for each in chosen:
            name = str(each.frame)
            calls = answer.calls.get(name, 0.0)
            if name in refused:
                continue
            if not calls:
                refused[name] = "it is not called inside the benchmark's window"
                continue
            limit, _rule = choosing.limit_of(policy, selected.benchmark, each.frame)
            growth = self.wishes.growth or choosing.growth_to_plant(limit)
            turns = choosing.turns_for(each.cost, calls, growth, answer.turn, answer.entry)
            planted = choosing.planted_growth(turns, each.cost, calls, answer.turn, answer.entry)
            orders.append(_Order(each, calls, turns, planted, limit))
        return orders, refused

    def _look(
        self, selected: Selected, plan: RecordConfig, orders: Sequence["_Order"]
    ) -> tuple[Planted, ...]:
        """Record what is planted beside what is not; what failed a second time, as the gate."""
        found = self._planted(selected, plan, orders, 1)
        again = [
            order for order, each in zip(orders, found.values(), strict=True)
            if each.outcome == Outcome.FAIL
        ]  # fmt: skip
        needed = self.budget.expected(plan, (1 + len(again)) * plan.processes)
        if again and self.wishes.confirm and plan.confirm and self.budget.fits(needed):
            found |= self._planted(selected, plan, again, 2)
        return tuple(found.values())

    def _planted(
        self, selected: Selected, plan: RecordConfig, orders: Sequence["_Order"], look: int
    ) -> dict[str, Planted]:
        names = [str(order.candidate.frame) for order in orders]
        told = "planted into" if look == 1 else "confirms what was found in"
        self._tell(f"{selected.benchmark}: {told} {', '.join(names)}")
        sides: dict[str, Mapping[str, int | None]] = {"": {}}
        sides |= {name: {name: order.turns} for name, order in zip(names, orders, strict=True)}
        recorded = self._sides(selected, plan, sides)
        return {
            name: _planted(order, self.judge(selected, recorded[name], recorded[""]), look)
            for name, order in zip(names, orders, strict=True)
        }


@dataclass(frozen=True, slots=True)
class _Order:
    """One function, and what is planted into it."""

    candidate: Candidate
    calls: float
    turns: int
    growth: float
    limit: float | None


@contextmanager
def _ordered(turns: Mapping[str, int | None]) -> Iterator[Path | None]:
    """Let the next further process plant; give the file that it answers in."""
    if not turns:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ci-flame-plant-") as name:
        file, answer = Path(name) / "order.json", Path(name) / "answer.json"
        live.write_order(live.Order(turns, answer), file)
        os.environ[live.PLANT_VARIABLE] = str(file)
        try:
            yield answer
        finally:
            os.environ.pop(live.PLANT_VARIABLE, None)


def _no_time(needed: float, budget: Budget) -> str:
    return (
        f"no time left: about {needed:.0f} s needed, {budget.used_s:.0f} s of"
        f" {budget.most_s or 0:.0f} s used (--max-seconds)"
    )


def _first(judged: Judged) -> BenchmarkVerdict:
    return judged.verdicts[0]


def _failed(judged: Judged) -> list[Finding]:
    return [f for each in judged.verdicts for f in each.findings if f.outcome is Outcome.FAIL]


def _same(judged: Judged, *, confirmed: bool) -> Same:
    verdict = _first(judged)
    why = ""
    if judged.outcome is Outcome.INCONCLUSIVE:
        why = next((note.text for note in verdict.notes), "it was not judged")
    return Same(
        str(judged.outcome),
        confirmed,
        tuple(str(each).removeprefix(f"{each.benchmark}: ") for each in _failed(judged)),
        verdict.smallest_visible,
        why,
    )


def _planted(order: _Order, judged: Judged, look: int) -> Planted:
    """Return what the gate said; the estimate is the function's own row, found or not."""
    target = order.candidate.frame
    verdict = _first(judged)
    failed = _failed(judged)
    finding = next((each for each in failed if each.frame == target), None)
    change = finding.change if finding else None
    if change is None and verdict.diff is not None:
        change = next((e.total for e in verdict.diff.frames if e.frame == target), None)
    return Planted(
        str(target),
        order.candidate.own_share,
        order.candidate.share,
        order.calls,
        order.turns,
        order.growth,
        finding is not None,
        str(judged.outcome),
        change.growth if change else None,
        change.low if change else None,
        change.high if change else None,
        order.limit,
        verdict.visible.get(target),
        _innocent(failed, target),
        look,
    )


def _innocent(failed: Sequence[Finding], target: Frame) -> tuple[str, ...]:
    """Return what was accused beside the function; its callers are no innocents."""
    callers = {
        frame for each in failed if each.frame == target for frame in each.path
    } | {TOTAL, target}  # fmt: skip
    return tuple(sorted({str(each.frame) for each in failed if each.frame not in callers}))
