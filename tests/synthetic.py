"""Synthetic measurements and runs with known truth, for the tests of every stage.

    synthetic_measurement({"m:test;m:parse": 600.0, "m:test;m:render": 400.0})

is a benchmark of 1 µs per iteration in two functions, five processes of it, as a recorder
on a noisy machine would have seen them. Same arguments, same seed: same values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ci_flame.profile import (
    Environment,
    Frame,
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

REFERENCE_NS = {"core": 700_000.0, "memory": 900_000.0}
"""What one repetition of each reference costs on the nominal machine."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How the machine and the sampler misbehave; standard deviations of the logarithm."""

    machine: float = 0.20
    """Speed, between processes."""
    drift: float = 0.10
    """Speed, between the rounds of one process."""
    misfit: float = 0.01
    """What the core reference does not see of the benchmark's speed, by process and by round."""
    reference: float = 0.02
    """Each repetition of a reference."""
    memory_misfit: float = 0.12
    """As `misfit`, for the memory reference."""
    function: float = 0.01
    """A function's cost, between processes (layout, caches)."""
    dispersion: float = 1.0
    """Variance of sample counts / binomial, per process."""
    split: bool = False
    """Every other function follows the memory reference, up to `misfit`, and not the core one."""


QUIET = Noise(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2)


def stack_of(text: str) -> Stack:
    """Return the stack whose folded form is `text`."""
    return tuple(Frame.parse(part) for part in text.split(";"))


def _counts(rng: np.random.Generator, share: np.ndarray, samples: int, dispersion: float):
    """Return integer counts that add up to `samples`, with the variance asked for."""
    if dispersion >= 1.0:
        # Dirichlet-multinomial: variance is binomial x (1 + (samples - 1) / (1 + precision)).
        if dispersion > 1.0:
            precision = max((samples - 1) / (dispersion - 1.0) - 1.0, 1e-3)
            share = rng.dirichlet(np.maximum(share * precision, 1e-9))
        return rng.multinomial(samples, share / share.sum())
    # Regular sampling: most of each count is certain, the rest is drawn.
    sure = np.floor(share * samples * (1.0 - dispersion)).astype(int)
    left = samples - int(sure.sum())
    rest = np.maximum(share * samples - sure, 0.0)
    return sure + rng.multinomial(left, rest / rest.sum())


def synthetic_measurement(
    costs: Mapping[str, float],
    *,
    benchmark: str = "tests/bench_shop.py::test_checkout",
    processes: int = 5,
    rounds: int = 20,
    seconds: float = 2.0,
    frequency_hz: int = 1999,
    seed: int = 0,
    noise: Noise | None = None,
    speed: float = 1.0,
    references: Iterable[str] = ("core", "memory"),
    places: Mapping[str, tuple[str, int]] | None = None,
) -> Measurement:
    """Return one benchmark; `costs` are true ns per iteration of own cost by folded stack.

    `seconds` of windows a process in `rounds` rounds; `speed` > 1 is a slower machine, which
    the references see too. Samples are whole; their value is the sampling period.
    """
    noise = Noise() if noise is None else noise
    kinds = tuple(references)
    rng = np.random.default_rng([seed, processes, rounds])
    stacks = [stack_of(text) for text in costs]
    true = np.array(list(costs.values()), dtype=float)
    period = round(1e9 / frequency_hz)
    made = []
    for _ in range(processes):
        machine = np.log(speed) + rng.normal(0, noise.machine)
        local = true * np.exp(rng.normal(0, noise.function, len(true)))
        misfit = {
            kind: rng.normal(0, spread) + rng.normal(0, spread, rounds)
            for kind, spread in (("core", noise.misfit), ("memory", noise.memory_misfit))
        }
        if noise.split:
            process = rng.normal(0, noise.memory_misfit)
            misfit["memory"] = process + rng.normal(0, noise.misfit, rounds)
            local[1::2] *= np.exp(process)
        per_round = seconds * 1e9 / rounds
        nominal = local.sum() * np.exp(machine)
        iterations = max(1, round(per_round / nominal))
        drift = rng.normal(0, noise.drift, rounds)
        cpu = [max(1, round(iterations * nominal * np.exp(d))) for d in drift]
        samples = sum(cpu) / 1e9 * frequency_hz
        counts = _counts(rng, local / local.sum(), round(samples), noise.dispersion)
        # Dealt to the rounds in turn, so that every stack is spread over the process.
        seen: list[dict[Stack, Weight]] = [{} for _ in range(rounds)]
        for stack, count in zip(stacks, counts.tolist(), strict=True):
            each, more = divmod(count, rounds)
            for index in range(rounds):
                here = each + (index < more)
                if here:
                    seen[index][stack] = Weight(here, here * period)
        made.append(
            Process(
                rounds=tuple(
                    Round(
                        iterations=iterations,
                        cpu_ns=cpu[index],
                        wall_ns=cpu[index] + 1000,
                        references={
                            kind: tuple(
                                max(1, round(value))
                                for value in REFERENCE_NS.get(kind, 500_000.0)
                                * np.exp(
                                    machine
                                    + drift[index]
                                    + (misfit[kind][index] if kind in misfit else 0.0)
                                    + rng.normal(0, noise.reference, 2)
                                )
                            )
                            for kind in kinds
                        },
                        profiles={Mode.ON_CPU: Profile(seen[index], Unit.NANOSECONDS, iterations)},
                    )
                    for index in range(rounds)
                ),
                kept=int(counts.sum()),
                expected=round(samples),
            )
        )
    return Measurement(
        benchmark,
        tuple(made),
        root=stacks[0][0] if stacks else None,
        places={Frame.parse(name): Place(*where) for name, where in (places or {}).items()},
    ).check()


ENVIRONMENT = Environment(
    architecture="x86_64",
    cpu_model="Example CPU 1",
    cores=2,
    kernel="6.1.0",
    python="3.11.7",
    collector="ebpf",
    event="cpu-clock",
    frequency_hz=1999,
    ci_flame="0.1.0",
)


def synthetic_run(
    *measurements: Measurement, environment: Environment | None = None, **changes: object
) -> Run:
    """Return a run of these measurements; keyword arguments replace fields of the run."""
    run = Run(
        environment or ENVIRONMENT,
        measurements,
        commit="0123456789abcdef0123456789abcdef01234567",
        time="2026-01-31T12:00:00Z",
    )
    return replace(run, **changes).check()  # type: ignore[arg-type]


SHOP = {
    "bench_shop:test_checkout": 10_000.0,
    "bench_shop:test_checkout;shop.api:checkout": 40_000.0,
    "bench_shop:test_checkout;shop.api:checkout;shop.parser:parse": 60_000.0,
    "bench_shop:test_checkout;shop.api:checkout;shop.parser:parse;shop.parser:tokenize": 120_000.0,
    "bench_shop:test_checkout;shop.api:checkout;shop.cart:total": 90_000.0,
    "bench_shop:test_checkout;shop.api:checkout;shop.cart:total;json:dumps": 50_000.0,
    "bench_shop:test_checkout;shop.api:checkout;shop.render:page": 130_000.0,
}
"""Half a millisecond per iteration in seven functions; tokenize is 24 % of it."""


def grown(costs: Mapping[str, float], leaf: str, factor: float) -> dict[str, float]:
    """Return `costs` with the own cost of every stack that ends in `leaf` times `factor`."""
    return {
        text: value * factor if text.rpartition(";")[2] == leaf else value
        for text, value in costs.items()
    }


def synthetic_waits(
    waits: Mapping[str, tuple[float, float]],
    *,
    benchmark: str = "tests/bench_shop.py::test_checkout",
    processes: int = 5,
    seconds: float = 2.0,
    seed: int = 0,
    jitter: float = 0.02,
    spread: float = 0.005,
    cpu_share: float = 0.01,
    run_queue_ns: float = 0.0,
) -> Measurement:
    """Return one benchmark that waits; folded stack -> (waits an iteration, ns of one).

    `jitter` is the relative standard deviation of one wait (gamma distributed: 1 is
    exponential), `spread` that of a process. `run_queue_ns` an iteration is waited for a CPU.
    """
    rng = np.random.default_rng([seed, processes])
    stacks = [stack_of(text) for text in waits]
    per_iteration = sum(number * ns for number, ns in waits.values()) or 1e7
    wall = per_iteration / (1 - cpu_share) + run_queue_ns
    rounds = max(3, round(seconds * 1e9 / max(wall, 1e7)))
    iterations = max(1, round(seconds * 1e9 / rounds / wall))
    made = []
    for _ in range(processes):
        slow = np.exp(rng.normal(0, spread))
        of_process = []
        for _ in range(rounds):
            seen: dict[Stack, Weight] = {}
            for stack, (number, ns) in zip(stacks, waits.values(), strict=True):
                count = (
                    int(rng.poisson(number * iterations))
                    if number % 1
                    else int(number * iterations)
                )
                if count:
                    lasted = rng.gamma(1 / jitter**2, ns * slow * jitter**2, count).sum()
                    seen[stack] = Weight(count, max(1, round(lasted)))
            waited = sum(weight.value for weight in seen.values())
            if run_queue_ns:
                queued = rng.exponential(run_queue_ns * iterations)
                leaf = (*(stacks[0][:-1] if stacks else ()), Frame.parse("[run queue]"))
                seen[leaf] = Weight(iterations, max(1, round(queued)))
                waited += queued
            cpu = round(iterations * wall * cpu_share)
            of_process.append(
                Round(
                    iterations,
                    cpu,
                    cpu + round(waited),
                    profiles={Mode.OFF_CPU: Profile(seen, Unit.NANOSECONDS, iterations)},
                )
            )
        made.append(Process(rounds=tuple(of_process)))
    root = stacks[0][0] if stacks else None
    return Measurement(benchmark, tuple(made), root=root).check()


MS = 1e6
WAITS = {
    "b:test;shop.api:checkout;shop.db:query;kernel:futex_wait;[lock]": (2.0, 5 * MS),
    "b:test;shop.api:checkout;shop.mail:send;kernel:hrtimer_nanosleep;[sleep]": (1.0, 10 * MS),
    "b:test;shop.api:checkout;shop.log:write;kernel:io_schedule;[disk]": (4.0, 0.5 * MS),
}
"""22 ms of waiting an iteration: a lock, a sleep, and a disk."""


def longer(waits: Mapping[str, tuple[float, float]], part: str, factor: float):
    """Return `waits` with those whose stack holds `part` lasting `factor` times as long."""
    return {
        text: (number, ns * factor if part in text else ns) for text, (number, ns) in waits.items()
    }
