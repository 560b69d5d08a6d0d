"""Stage 1, pure: the figures of one process that a rule can limit, by name.

    run_queue.p99_ms   block_io.vda.write.p99_ms   steal.percent   collector.percent

Collectors bring latencies and their own costs; the rounds' clocks bring the rest, so that
`run_queue.percent` and `steal.percent` need no privileges.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ci_flame.profile import Histogram, Round

RUN_QUEUE: Final = "run_queue"
BLOCK_IO: Final = "block_io"
SUMS: Final = ("block_io.read_bytes", "block_io.write_bytes", "block_io.requests")
BPF_NS: Final = "collector.bpf_ns"
PROCESS_NS: Final = "collector.window_cpu_ns"
START_NS: Final = "collector.start_cpu_ns"
"""Of that, what was spent once when a program started in the window: its interpreter and libraries
were found (40 to 60 ms were measured). Of a command of one second that is much."""


def of_process(
    collected: Mapping[str, float],
    histograms: Mapping[str, Histogram],
    rounds: Sequence[Round],
    cores: int,
) -> dict[str, float]:
    """Return all figures of a process: those collected, and those that follow from them.

    `cores`: CPUs that the process could use; percentages of the collector are of one CPU.
    """
    wall_ns = sum(each.wall_ns for each in rounds)
    made = _latencies(histograms)
    if wall_ns:
        made |= {
            "run_queue.percent": 100 * sum(each.run_delay_ns for each in rounds) / wall_ns,
            "steal.percent": 100 * sum(each.steal_ns for each in rounds) / (wall_ns * cores),
        }
        made |= _own_cost(collected, wall_ns)
    # Rounds fill seconds: sums say how long was recorded, unless they are told by iteration.
    iterations = sum(each.iterations for each in rounds)
    made |= {
        f"{name}_per_iteration": collected[name] / iterations
        for name in SUMS
        if name in collected and iterations
    }
    return {**made, **collected}


def _latencies(histograms: Mapping[str, Histogram]) -> dict[str, float]:
    """Return percentiles in ms: of the run queue, of all block I/O, of each device's operations."""
    made: dict[str, float] = {}
    devices = [each for name, each in histograms.items() if name.startswith(f"{BLOCK_IO}.")]
    whole = {BLOCK_IO: sum(devices, Histogram({}))} if devices else {}
    for name, histogram in {**histograms, **whole}.items():
        if histogram.count:
            made[f"{name}.p50_ms"] = histogram.percentile(0.50) / 1e3
            made[f"{name}.p99_ms"] = histogram.percentile(0.99) / 1e3
            made[f"{name}.max_ms"] = histogram.percentile(1.0) / 1e3
    return made


def _own_cost(collected: Mapping[str, float], wall_ns: int) -> dict[str, float]:
    """Return what the collector took of one CPU while windows were open, in percent."""
    made = {
        f"collector.{name}_percent": 100 * collected[key] / wall_ns
        for name, key in (("bpf", BPF_NS), ("process", PROCESS_NS))
        if key in collected
    }
    if made:
        made["collector.percent"] = sum(made.values())
        once = 100 * min(collected.get(PROCESS_NS, 0.0), collected.get(START_NS, 0.0)) / wall_ns
        made["collector.lasting_percent"] = made["collector.percent"] - once
    return made
