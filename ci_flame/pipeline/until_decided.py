"""Edge: record a benchmark until it is clear, in at most four looks, or until the time is up.

record ─ look ─ more processes ─ look ─ … ─▶ FAIL at a spent level, or nothing can hide
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from ci_flame.policy import Policy
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome, worst

MOST_PROCESSES: Final = 100
"""A side; no benchmark is started more often."""

T = TypeVar("T")
Judge = Callable[[T, Policy], tuple[BenchmarkVerdict, ...]]


@dataclass(frozen=True, slots=True)
class Looked(Generic[T]):
    """What was recorded in all looks, and the policy that the last of them judged by."""

    recorded: T
    verdicts: tuple[BenchmarkVerdict, ...]
    policy: Policy
    """Its `false_failures_per_build` is what the last look might spend."""
    processes: int
    """A side."""
    note: Note


def record(
    more: Callable[[T | None, int], T],
    judge: Judge[T],
    policy: Policy,
    *,
    first: int,
    max_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Looked[T]:
    """Record `first` processes a side, look, and go on as long as it may help.

    `more(recorded, count)` adds `count` processes to each side, None: to nothing. How many there
    may be in all follows from the time that the first took, not from what they measured.
    """
    from ci_flame.judge.decided import decided  # noqa: PLC0415 - as above
    from ci_flame.noise import sequential  # noqa: PLC0415 - numpy and scipy, not at pytest's start

    level = policy.false_failures_per_build
    begun = clock()
    recorded = more(None, first)
    each = max((clock() - begun) / first, 1e-6)
    most = max(first, min(MOST_PROCESSES, int(max_seconds / each)))
    plan = sequential.looks(first, most)
    fractions: list[float] = []
    for number, count in enumerate(plan):
        if number:
            recorded = more(recorded, count - plan[number - 1])
        late = number + 1 < len(plan) and (
            clock() - begun + (plan[number + 1] - count) * each > max_seconds
        )
        # The last look spends all that is left, also where time ran out before it was planned.
        fractions.append(1.0 if late or count == plan[-1] else count / most)
        of_look = replace(
            policy, false_failures_per_build=sequential.level_of_look(fractions, level)
        )
        verdicts = judge(recorded, of_look)
        failed = worst(v.outcome for v in verdicts) is Outcome.FAIL
        last = fractions[-1] >= 1.0
        # What could still hide is asked at the whole level: not to fail costs nothing.
        clear = failed or decided(judge(recorded, policy), policy)
        if clear or last:
            break
    seconds = clock() - begun
    ending = "decided" if clear else f"not decided: the limit of {max_seconds:g} s was reached"
    looks = f"{len(fractions)} look{'s' * (len(fractions) != 1)}"
    words = f"{looks}, {count} processes a side, {seconds:.0f} s; {ending}"
    return Looked(recorded, verdicts, of_look, count, Note("looks", words, verdicts[0].benchmark))
