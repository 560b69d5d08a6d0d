"""How long comparing and judging many benchmarks takes, stage by stage.

    .venv/bin/python bench/judge.py [--benchmarks 500] [--frames 2000] [--profile judge]

Makes benchmarks of many functions in memory (a call tree of some dozen levels, costs that fall
off as 1 / rank, a sixth of the functions called from several places; 5 processes of 2 s a side in
rounds of 10 ms at 1,999 Hz), one after the other, and compares and judges each on one core. Half
of them are the same code, in the others one function of about 5 % grew by half. Making them is
not timed. `--stored` benchmarks of them are then written to a run folder and read back.
"""

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from synthetic import synthetic_run

from ci_flame.baseline import folder
from ci_flame.diff import diff_benchmark
from ci_flame.diff.evidence import collect
from ci_flame.judge import judge_benchmark
from ci_flame.policy import Policy
from ci_flame.profile import Frame, Measurement, Mode, Process, Profile, Round, Stack, Unit, Weight
from ci_flame.verdict import Outcome

PROCESSES = 5
ROUNDS = 200
SAMPLES = 20
"""A round: 10 ms at 1,999 Hz."""
PERIOD_NS = 500_250
DEEPEST = 60
AGAIN = 20
"""Frames of a stack that has reached the deepest and begins again."""
ITERATION_NS = 1_000_000.0


def tree(functions: int, rng: np.random.Generator) -> tuple[list[Stack], np.ndarray]:
    """Return a call tree as stacks, and each one's share of the cost."""
    modules = max(functions // 30, 1)
    frames = [
        Frame(f"Class{n % 7}.function_{n}", f"package.part_{n % modules:02}.module_{n % 11}")
        for n in range(functions)
    ]
    stacks: list[Stack] = [(frames[0],)]
    for frame in frames[1:]:
        for _ in range(1 + (rng.random() < 1 / 6) * int(rng.integers(1, 4))):
            # The later of three: deeper than a tree whose callers are chosen evenly.
            above = stacks[int(rng.integers(0, len(stacks), 3).max())]
            stacks.append((*above, frame) if len(above) < DEEPEST else (*above[:AGAIN], frame))
    cost = 1.0 / (2 + rng.permutation(len(stacks)))
    return stacks, cost / cost.sum()


def recording(
    name: str, stacks: list[Stack], cost: np.ndarray, rng: np.random.Generator
) -> Measurement:
    """Return one side of a benchmark as a recorder would have seen it."""
    whole = float(cost.sum())
    once = Weight(1, PERIOD_NS)
    processes = []
    for number in range(PROCESSES):
        speed = np.exp(rng.normal(0, 0.2))
        local = cost * np.exp(rng.normal(0, 0.01, len(cost)))
        share = local / local.sum()
        drawn = rng.choice(len(stacks), ROUNDS * SAMPLES, p=share)
        # Every function is seen at least once.
        drawn[: len(stacks) // PROCESSES] = np.arange(number, len(stacks), PROCESSES)[
            : len(stacks) // PROCESSES
        ]
        rng.shuffle(drawn)
        rounds = []
        for of_round in drawn.reshape(ROUNDS, SAMPLES).tolist():
            seen: dict[Stack, Weight] = {}
            for index in of_round:
                have = seen.get(stacks[index])
                seen[stacks[index]] = once if have is None else have + once
            drift = speed * np.exp(rng.normal(0, 0.05))
            cpu = round(10 * ITERATION_NS * whole * drift)
            references = {
                "core": tuple(round(7e5 * drift * np.exp(e)) for e in rng.normal(0, 0.02, 2))
            }
            profile = Profile(seen, Unit.NANOSECONDS, 10)
            rounds.append(Round(10, cpu, cpu, 0, references, {Mode.ON_CPU: profile}))
        total = ROUNDS * SAMPLES
        processes.append(Process(tuple(rounds), kept=total, expected=total))
    return Measurement(name, tuple(processes), root=stacks[0][0])


def pairs(benchmarks: int, functions: int) -> Iterator[tuple[Measurement, Measurement, bool]]:
    """Yield both sides of each benchmark, and whether one of its functions grew."""
    for number in range(benchmarks):
        rng = np.random.default_rng([functions, number])
        stacks, cost = tree(functions, rng)
        grown = bool(number % 2)
        after = cost.copy()
        if grown:
            one = int(np.argmin(np.abs(cost - 0.05)))
            after[one] *= 1.5
        name = f"tests/bench_many.py::test_{number:03}"
        yield recording(name, stacks, cost, rng), recording(name, stacks, after, rng), grown


@dataclass(slots=True)
class Times:
    """Seconds by stage: of CPU time, which other jobs of the machine do not add to."""

    seconds: dict[str, float] = field(default_factory=dict)
    profile: cProfile.Profile | None = None
    profiled: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add up the CPU time of a block; profile it where that was asked for."""
        inside = self.profile if name == self.profiled else None
        start = time.process_time()
        if inside is not None:
            inside.enable()
        try:
            yield
        finally:
            if inside is not None:
                inside.disable()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmarks", type=int, default=500)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--stored", type=int, default=10, help="benchmarks to write and read")
    parser.add_argument("--profile", default="", help="diff or judge: print its costly functions")
    wanted = parser.parse_args()
    times = Times(profile=cProfile.Profile(), profiled=wanted.profile)
    policy = Policy()
    frames = nodes = false = missed = 0
    kept: list[tuple[Measurement, Measurement]] = []
    for before, after, grown in pairs(wanted.benchmarks, wanted.frames):
        with times.stage("diff"):
            diff = diff_benchmark(before, after, Mode.ON_CPU)
        with times.stage("judge"):
            verdict = judge_benchmark(diff, policy, family=wanted.benchmarks)
        with times.stage("of diff: reading rounds"):
            collect((before, after), Mode.ON_CPU)
        frames += len(diff.frames)
        nodes += len(diff.paths)
        failed = verdict.outcome is Outcome.FAIL
        false += failed and not grown
        missed += grown and not failed
        if len(kept) < wanted.stored:
            kept.append((before, after))
    with tempfile.TemporaryDirectory() as place:
        for number, both in enumerate(kept):
            read = []
            for side in both:
                where = Path(place, f"{number}-{id(side)}")
                with times.stage("stored, both sides: write"):
                    folder.save(synthetic_run(side), where)
                with times.stage("stored, both sides: read"):
                    read += folder.load(where).measurements
            with times.stage("stored: diff of what was read"):
                diff_benchmark(read[0], read[1], Mode.ON_CPU)
    count = wanted.benchmarks
    print(f"{count} benchmarks, {frames // count} functions and {nodes // count} call paths each,")
    print(f"{PROCESSES} processes of {ROUNDS * SAMPLES} samples a side; {false} failed falsely,")
    print(f"{missed} of {count // 2} that grew were missed.\n")
    print("| stage | ms a benchmark | all of them |")
    print("|---|---|---|")
    whole = times.seconds["diff"] + times.seconds["judge"]
    for name, seconds in [*times.seconds.items(), ("diff and judge", whole)]:
        each = seconds / (len(kept) if name.startswith("stored") else count)
        print(f"| {name} | {each * 1e3:.1f} | {each * count:.2f} s |")
    if times.profile is not None and wanted.profile:
        pstats.Stats(times.profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
