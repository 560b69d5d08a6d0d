"""Rounds against a clock that only moves when the benchmark runs."""

import asyncio
import gc
import math
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import pytest

from ci_flame.config import RecordConfig
from ci_flame.errors import UsageError
from ci_flame.profile import Mode
from ci_flame.record import clocks, reference, rounds

MS = 1_000_000


@dataclass
class FakeClock:
    """CPU and wall time that calls to `spend` move on; a session that keeps the phases."""

    cpu: int = 0
    wall: int = 0
    delay: int = 0
    stolen: int = 0
    children: int = 0
    phase: int = 0
    phases: list = field(default_factory=list)
    seen: dict = field(default_factory=dict)
    references_run: list = field(default_factory=list)

    def set_phase(self, phase):
        self.phase = phase
        self.phases.append(phase)

    def spend(self, cpu, wall=None, delay=0):
        self.cpu += cpu
        self.wall += cpu if wall is None else wall
        self.delay += delay
        self.seen[self.phase] = self.seen.get(self.phase, 0) + 1

    def references(self):
        self.references_run.append(self.phase)
        self.cpu += 2 * MS
        self.wall += 2 * MS
        return dict.fromkeys(reference.KINDS, (MS // 4,) * 3)

    @property
    def clocks(self):
        return clocks.Clocks(
            cpu_ns=lambda: self.cpu,
            children_ns=lambda: self.children,
            wall_ns=lambda: self.wall,
            run_delay_ns=lambda: self.delay,
            steal_ns=lambda: self.stolen,
            references=self.references,
        )


def drive(clock, iterate, seconds=0.5, first_phase=1, modes=(Mode.ON_CPU,), **options):
    window = rounds.Window(clock, clock.clocks)
    plan = RecordConfig(seconds=seconds, modes=modes)
    return rounds.drive(iterate, window, plan, first_phase, clocks=clock.clocks, **options)


@pytest.mark.parametrize(
    ("iteration_ns", "iterations"),
    [
        (100, 100_000),
        (10_000, 1_000),
        (3 * MS, 3),
        (10 * MS, 1),
        (14 * MS, 1),  # rounds to one
        (400 * MS, 1),  # an iteration longer than a round is a round
    ],
)
def test_a_round_is_about_ten_milliseconds(iteration_ns, iterations):
    clock = FakeClock()

    def iterate(count, window):  # as repeat() does, but without a call for each iteration
        with window:
            clock.spend(iteration_ns * count)

    driven = drive(clock, iterate)

    assert {each.iterations for each in driven.rounds} == {iterations}
    assert {each.cpu_ns for each in driven.rounds} == {iteration_ns * iterations}


def test_rounds_fill_the_seconds_and_no_more():
    clock = FakeClock()

    driven = drive(clock, rounds.repeat(lambda: clock.spend(MS)), seconds=0.5)

    assert len(driven.rounds) == 50
    assert driven.cpu_ns == 500 * MS
    assert driven.settled


@pytest.mark.parametrize(("iteration_ms", "expected"), [(200, 3), (400, 3), (1_999, 2), (2_001, 1)])
def test_long_iterations_make_three_rounds_until_they_are_ten_times_too_long(
    iteration_ms, expected
):
    clock = FakeClock()

    driven = drive(clock, rounds.repeat(lambda: clock.spend(iteration_ms * MS)), seconds=0.2)

    # 2,000 ms is ten times what was asked for: after 1,999 ms another round runs.
    assert len(driven.rounds) == expected


def test_a_sleeping_benchmark_ends_by_wall_time():
    clock = FakeClock()

    driven = drive(clock, rounds.repeat(lambda: clock.spend(1_000, wall=20 * MS)), seconds=0.5)

    assert driven.wall_ns == 1_500 * MS  # three times the seconds
    assert driven.cpu_ns == len(driven.rounds) * 1_000


def test_where_waiting_is_recorded_the_seconds_are_wall_time():
    clock = FakeClock()

    driven = drive(
        clock,
        rounds.repeat(lambda: clock.spend(1_000, wall=20 * MS)),
        seconds=0.5,
        modes=(Mode.ON_CPU, Mode.OFF_CPU),
    )

    assert driven.wall_ns == 500 * MS


def test_rounds_that_others_disturbed_are_left_out_and_made_up_for():
    clock = FakeClock()
    turns = iter(range(10_000))

    def disturbed():  # others have the CPU in two rounds of three
        busy = next(turns) % 3 > 0
        clock.spend(10 * MS, wall=20 * MS if busy else 10 * MS, delay=10 * MS if busy else 0)

    driven = drive(clock, rounds.repeat(disturbed), seconds=0.2)
    counted = [each for each in driven.rounds if not each.dropped]

    assert sum(each.cpu_ns for each in counted) == 200 * MS
    assert {each.dropped for each in driven.rounds} == {
        "", "the machine was busy for 50 % of it"
    }  # fmt: skip


def test_stolen_time_is_kept_with_its_round():
    clock = FakeClock()

    def stolen():
        clock.spend(10 * MS)
        clock.stolen += 20 * MS

    driven = drive(clock, rounds.repeat(stolen), seconds=0.05)

    assert {each.steal_ns for each in driven.rounds} == {20 * MS}


def test_a_machine_that_is_taken_by_others_gets_more_patience():
    clock = FakeClock()

    def starved():
        clock.spend(MS, wall=5 * MS, delay=4 * MS)

    driven = drive(clock, rounds.repeat(starved), seconds=0.5)

    assert driven.cpu_ns >= 500 * MS  # by wall time alone it would have ended at 300 ms


def test_patience_ends_too():
    clock = FakeClock()

    def starved():
        clock.spend(MS, wall=50 * MS, delay=49 * MS)

    driven = drive(clock, rounds.repeat(starved), seconds=0.5)

    assert driven.wall_ns == 5_000 * MS


def test_each_round_has_its_own_phase_and_the_references_run_outside():
    clock = FakeClock()

    driven = drive(clock, rounds.repeat(lambda: clock.spend(MS)), first_phase=7, seconds=0.1)
    inside = [phase for phase in clock.phases if phase]

    assert inside == list(range(7, 17))
    assert driven.next_phase == 17
    assert clock.phase == 0
    assert set(clock.references_run) == {0}
    assert all(clock.seen[phase] == 10 for phase in inside)  # the lead-in is at phase 0
    assert all(tuple(each.references) == reference.KINDS for each in driven.rounds)


def test_short_rounds_have_no_lead_in():
    clock = FakeClock()

    drive(clock, rounds.repeat(lambda: clock.spend(2 * MS)), seconds=0.1, first_phase=1)

    # 5 iterations a round: one more outside the window would cost a fifth.
    assert clock.seen[1] == 5


def test_setup_and_teardown_are_outside_the_window():
    clock = FakeClock()
    log = []

    def prepare():
        clock.spend(5 * MS)
        log.append("setup")
        return (3,), {"by": 2}

    def call(number, by):
        clock.spend(MS)
        log.append(number * by)

    def finish(number, by):
        clock.spend(5 * MS)
        log.append("teardown")

    driven = drive(clock, rounds.with_setup(prepare, call, finish), seconds=0.05)

    assert log[:6] == ["setup", 6, "teardown"] * 2
    assert {each.iterations for each in driven.rounds} == {10}
    assert {each.cpu_ns for each in driven.rounds} == {10 * MS}
    assert clock.seen[1] == 10


@pytest.mark.parametrize(("call_ns", "iterations"), [(1_000, 20), (0, 20), (10 * MS, 1)])
def test_a_long_setup_does_not_make_the_recording_endless(call_ns, iterations):
    clock = FakeClock()

    def prepare():
        clock.spend(10 * MS)
        return (), {}

    driven = drive(clock, rounds.with_setup(prepare, lambda: clock.spend(call_ns), None))

    assert {each.iterations for each in driven.rounds} == {iterations}
    # 0.5 s were asked for: ten times that for the rounds, 0.9 s for the warm-up, and a round of
    # 0.2 s for the calibration and for the overshoot of each; 2 ms of references a round.
    assert clock.wall <= 5_000 * MS + 900 * MS + 4 * 200 * MS + 2 * MS * len(clock.references_run)


def test_waiting_for_a_cpu_in_a_setup_is_not_the_window_s():
    clock = FakeClock()

    def prepare():
        clock.spend(MS, wall=3 * MS, delay=2 * MS)
        return (), {}

    driven = drive(clock, rounds.with_setup(prepare, lambda: clock.spend(MS), None))

    # Half of all time was waited for a CPU; where, the kernel does not tell.
    assert {each.run_delay_ns / each.wall_ns for each in driven.rounds} == {0.5}


def test_a_block_opens_the_window_itself():
    clock = FakeClock()
    window = rounds.Window(clock, clock.clocks)

    def body():
        clock.spend(4 * MS)
        with window:
            clock.spend(MS)

    driven = rounds.drive(
        rounds.opens_itself(body), window, RecordConfig(seconds=0.05), 1, clocks=clock.clocks
    )

    assert {each.cpu_ns for each in driven.rounds} == {10 * MS}


def test_a_block_that_is_not_reached_again_is_refused():
    clock = FakeClock()

    with pytest.raises(UsageError, match="ran again without entering `with flame:`"):
        drive(clock, rounds.opens_itself(lambda: clock.spend(MS)))


def test_a_window_in_a_window_is_refused():
    clock = FakeClock()
    window = rounds.Window(clock, clock.clocks)

    with pytest.raises(UsageError, match="entered while it was open"), window, window:
        pass


@pytest.mark.parametrize(
    ("costs", "settled"),
    [
        ([0.0] * 9, False),  # fewer than two blocks
        ([0.0] * 10, True),
        ([0.021] * 5 + [0.0] * 5, False),
        ([0.019] * 5 + [0.0] * 5, True),
        ([0.0] * 5 + [0.3] * 5, True),  # slower is not warming up
        ([1.0, 1.0, 0.0, 0.0, 0.0] + [0.0] * 5, True),  # a median does not mind the first calls
    ],
)
def test_the_warm_up_ends_with_its_trend(costs, settled):
    assert rounds.has_settled(costs) is settled


def test_warm_up_goes_on_while_the_benchmark_gets_faster():
    clock = FakeClock()
    calls = 0

    def call():
        nonlocal calls
        calls += 1
        clock.spend(int(MS * (1 + 4 * math.exp(-calls / 60))))

    driven = drive(clock, rounds.repeat(call), seconds=2)
    first, last = driven.rounds[0], driven.rounds[-1]

    assert driven.settled
    assert first.cpu_ns / first.iterations < 1.15 * last.cpu_ns / last.iterations  # from 5 times


def test_a_warm_up_that_never_ends_is_said():
    clock = FakeClock()
    cost = 40 * MS

    def call():
        nonlocal cost
        cost = int(cost * 0.97)
        clock.spend(max(cost, 1_000))

    driven = drive(clock, rounds.repeat(call), seconds=0.1)

    assert not driven.settled
    assert driven.warm_up_ns >= 300 * MS


@pytest.mark.parametrize(
    ("slow_ns", "settled"),
    [
        (MS // 2, True),  # 200 slow calls are over within the warm-up
        (8 * MS, False),  # as below, and rounds were one iteration long
        (5 * MS, False),  # equally slow ones that go on into the rounds show no trend before
        (int(1.5 * MS), False),
        (int(1.1 * MS), True),  # half a percent of the cost
    ],
)
def test_a_cache_that_fills_for_200_iterations(slow_ns, settled):
    clock = FakeClock()
    cache = set()

    def call():
        clock.spend(MS if len(cache) == 200 else slow_ns)
        cache.add(min(len(cache), 199))

    driven = drive(clock, rounds.repeat(call), seconds=2)

    assert driven.settled is settled
    assert not any(each.dropped for each in driven.rounds)  # said, and never left out for its cost
    assert driven.rounds[-1].wall_ns >= 3 * MS  # and rounds do not stay as short as they became


@pytest.mark.parametrize(
    ("costs", "late"),
    [
        ([0.051] * 5 + [0.0] * 15, True),
        ([0.049] * 5 + [0.0] * 15, False),
        ([0.051] * 5 + [0.0] * 14, False),  # too few to tell
        ([0.051] * 5 + [0.0] * 20, True),
        ([0.051] * 5 + [0.0] * 25, False),  # under one percent of the cost
        ([0.3] * 15 + [0.0] * 85, True),
        ([-0.3] * 5 + [0.0] * 15, False),  # dearer later: `drift` of the diff says it
        ([0.2] * 2 + [0.0] * 18, False),  # a median does not mind two rounds
        ([0.2] * 5 + [0.0, 0.2] * 20, False),  # no more than rounds spread anyway
    ],
)
def test_rounds_that_get_cheaper_later_were_warm_up(costs, late):
    assert rounds.fell_later(costs) is late


def test_what_the_benchmark_raises_passes_through_and_sampling_stops():
    clock = FakeClock()

    def call():
        clock.spend(MS)
        if clock.cpu > 100 * MS:
            raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        drive(clock, rounds.repeat(call))
    assert clock.phase == 0
    assert gc.isenabled()


@pytest.mark.parametrize("gc_on", [False, True])
def test_garbage_collection_is_off_inside_rounds_unless_asked_for(gc_on):
    clock = FakeClock()
    states = set()

    def call():
        states.add(gc.isenabled())
        clock.spend(MS)

    drive(clock, rounds.repeat(call), gc_on=gc_on, seconds=0.05)

    assert states == {gc_on}
    assert gc.isenabled()


def test_garbage_is_collected_between_rounds():
    clock = FakeClock()
    collected = []

    def watch(when, info):
        if when == "stop":
            collected.append(clock.phase)

    def call():
        for _ in range(1_000):
            [].append([])
            pair = []
            pair.append(pair)
        clock.spend(5 * MS)

    gc.callbacks.append(watch)
    try:
        drive(clock, rounds.repeat(call), seconds=0.05)
    finally:
        gc.callbacks.remove(watch)

    assert len(collected) >= 5
    assert set(collected) == {0}


def test_garbage_collection_that_was_off_stays_off():
    clock = FakeClock()
    gc.disable()
    try:
        drive(clock, rounds.repeat(lambda: clock.spend(MS)), seconds=0.05)

        assert not gc.isenabled()
    finally:
        gc.enable()


def test_tracers_are_put_aside_and_put_back():
    clock = FakeClock()
    tracers = set()

    def call():
        tracers.add(sys.gettrace())
        clock.spend(MS)

    def tracer(*_args):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        drive(clock, rounds.repeat(call), seconds=0.05)

        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert tracers == {None}


def test_run_delay_is_measured_around_each_round():
    clock = FakeClock()

    driven = drive(clock, rounds.repeat(lambda: clock.spend(MS, delay=100)), seconds=0.05)

    assert {each.run_delay_ns for each in driven.rounds} == {1_000}  # not the lead-in's


def test_asynchronous_benchmarks_run_on_the_running_loop():
    clock = FakeClock()
    loops = set()

    async def call():
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        clock.spend(MS)

    async def main():
        loop = asyncio.get_running_loop()
        window = rounds.Window(clock, clock.clocks)
        plan = RecordConfig(seconds=0.05)
        driven = await rounds.drive_async(
            rounds.repeat_async(call), window, plan, 1, clocks=clock.clocks
        )
        return loop, driven

    loop, driven = asyncio.run(main())

    assert loops == {loop}
    assert len(driven.rounds) == 5
    assert {each.iterations for each in driven.rounds} == {10}


def test_the_window_s_own_cost_is_not_the_benchmark_s():
    clock = FakeClock()

    def ticking():  # every look at the clock costs 300 ns
        clock.cpu += 300
        return clock.cpu

    clocks = replace(clock.clocks, cpu_ns=ticking)
    window = rounds.Window(clock, clocks)
    with window:
        clock.spend(5_000)

    assert window.cpu_ns == 5_000


def test_children_count_in_the_window_s_cpu_time():
    clock = FakeClock()
    window = rounds.Window(clock, clock.clocks)
    with window:
        clock.spend(MS)
        clock.children += 3 * MS

    assert window.cpu_ns == 4 * MS


def test_real_clocks_count_children():
    before = clocks.children_cpu_ns()
    script = "import time\nwhile time.process_time() < 0.15: pass"
    subprocess.run([sys.executable, "-c", script], check=True)

    assert clocks.children_cpu_ns() - before >= 140 * MS
    assert clocks.run_delay_ns() >= 0


def test_real_rounds_agree_with_the_clock():
    reference.prepare()

    class Session:
        def set_phase(self, phase):
            pass

    real = clocks.Clocks()
    start = time.process_time_ns()
    driven = rounds.drive(
        rounds.repeat(lambda: sum(range(500))),
        rounds.Window(Session(), real),
        RecordConfig(seconds=0.2, busy=1.0),  # however busy the machine of the tests is
        1,
    )
    spent = time.process_time_ns() - start

    assert 200 * MS <= driven.cpu_ns < spent
    assert len(driven.rounds) >= rounds.MIN_ROUNDS
