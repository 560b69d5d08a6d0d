"""Samples joined to rounds, and what is said of a recording."""

from dataclasses import replace

import pytest

from ci_flame.collect import Recording
from ci_flame.config import RecordConfig
from ci_flame.errors import CollectError
from ci_flame.profile import (
    UNKNOWN,
    Frame,
    Histogram,
    Kind,
    Mode,
    Process,
    Profile,
    Round,
    Weight,
    fold,
)
from ci_flame.record import recorder
from ci_flame.record.rounds import Driven

MS = 1_000_000
ROOT = Frame("test_sum", "tests.bench")
PLAN = RecordConfig(frequency_hz=1000, seconds=1.0)


def stack(text):
    return tuple(Frame.parse(part) for part in text.split(";"))


def driven(rounds=2, cpu_ms=10, wall_ms=10, delay_ms=0, *, settled=True):
    each = Round(4, cpu_ms * MS, wall_ms * MS, delay_ms * MS)
    return Driven((each,) * rounds, 7, 50 * MS, settled)


def test_each_round_gets_the_samples_of_its_phase_trimmed_at_the_test():
    machinery = "_pytest.python:call;tests.bench:test_sum;ci_flame.record.rounds:drive"
    recording = Recording(
        samples={
            7: {stack(f"{machinery};shop:add"): 6, stack(machinery): 2, stack("x:thread"): 1},
            8: {stack(f"{machinery};ci_flame.pytest_plugin.item:run;shop:add;native:m:sin"): 5},
            9: {stack(f"{machinery};shop:add"): 99},  # another benchmark's
        },
        period_ns=1_000,
        places={},
        lost=3,
        truncated={7: 1, 9: 5},
    )
    recorded = recorder.join(driven(), recording, ROOT, RecordConfig(frequency_hz=1000))
    first, second = (each.profiles[Mode.ON_CPU] for each in recorded.process.rounds)

    assert {fold(each): weight for each, weight in first.stacks.items()} == {
        "tests.bench:test_sum;shop:add": Weight(6, 6_000),
        "tests.bench:test_sum": Weight(2, 2_000),
        str(UNKNOWN): Weight(1, 1_000),
    }
    assert {fold(each) for each in second.stacks} == {"tests.bench:test_sum;shop:add;native:m:sin"}
    assert (first.iterations, second.iterations) == (4, 4)
    process = recorded.process
    assert (process.kept, process.lost, process.truncated, process.unrooted) == (14, 3, 1, 1)
    assert process.expected == 20  # 20 ms at 1,000 Hz


def test_frames_of_the_same_name_that_are_not_ours_stay():
    native = Frame("drive", "ci_flame.record.rounds", Kind.NATIVE)
    other = Frame("drive", "ci_flame.rounds_of_others")
    profile = Profile({(ROOT, other, native): Weight(1, 1)})

    assert recorder.without_machinery(profile) == profile


def test_a_stack_of_nothing_but_machinery_is_kept_whole():
    profile = Profile({stack("ci_flame.record.rounds:drive"): Weight(1, 1)})

    assert recorder.without_machinery(profile).samples == 1


@pytest.mark.parametrize(("expected", "refused"), [(99, False), (100, True)])
def test_no_sample_where_many_were_expected_is_an_error(expected, refused):
    process = Process(driven().rounds, kept=0, expected=expected)
    if not refused:
        recorder.must_have_samples("t", [process])
        return

    with pytest.raises(CollectError, match=r"t: no sample in 0\.02 s of CPU time, 100 were"):
        recorder.must_have_samples("t", [process])


def test_waits_become_a_profile_of_their_own():
    machinery = "pytest:main;tests.bench:test_sum;ci_flame.record.rounds:drive"
    recording = Recording(
        samples={7: {stack(f"{machinery};shop:add"): 6}},
        period_ns=1_000,
        places={},
        off_cpu={
            7: {
                stack(f"{machinery};shop:nap;kernel:hrtimer_nanosleep;[sleep]"): Weight(2, 900),
                stack("threading:run;[lock]"): Weight(1, 50),
            },
            9: {stack(f"{machinery};[sleep]"): Weight(9, 9)},  # another benchmark's
        },
        histograms={"run_queue": Histogram({0: 98, 48: 2})},
        metrics={"collector.bpf_ns": 200_000.0, "collector.window_cpu_ns": 100_000.0},
    )
    both = RecordConfig(frequency_hz=1000, modes=(Mode.ON_CPU, Mode.OFF_CPU))
    process = recorder.join(driven(), recording, ROOT, both).process
    first, second = (each.profiles for each in process.rounds)

    assert set(first) == set(second) == {Mode.ON_CPU, Mode.OFF_CPU}
    assert {fold(each): weight for each, weight in first[Mode.OFF_CPU].stacks.items()} == {
        "tests.bench:test_sum;shop:nap;kernel:hrtimer_nanosleep;[sleep]": Weight(2, 900),
        str(UNKNOWN): Weight(1, 50),
    }
    assert second[Mode.OFF_CPU].stacks == {}
    assert (process.kept, process.unrooted) == (6, 0)  # samples; waits are not among them
    assert process.histograms == recording.histograms
    assert process.metrics["collector.percent"] == pytest.approx(1.5)  # 0.3 ms of 20 ms
    assert process.metrics["run_queue.p99_ms"] == pytest.approx(4.096, rel=0.25)


def test_waiting_alone_expects_no_sample():
    recording = Recording(samples={}, period_ns=1_000, places={})
    process = recorder.join(driven(), recording, ROOT, RecordConfig(modes=(Mode.OFF_CPU,))).process

    assert all(set(each.profiles) == {Mode.OFF_CPU} for each in process.rounds)
    assert (process.kept, process.expected) == (0, 0)


def test_modules_are_named_by_their_files():
    files = recorder.module_files()

    assert files[recorder.__file__] == "ci_flame.record.recorder"
    assert "__main__" not in files.values()


def test_module_files_survive_odd_entries(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "odd.none", None)
    monkeypatch.setitem(sys.modules, "odd.object", object())

    assert recorder.module_files()


class FakeSession:
    """A collector's session that saw one stack in every phase."""

    def __init__(self):
        self.closed = 0

    def set_phase(self, phase):
        pass

    def read(self, module_files=None):
        assert module_files
        seen = {phase: {(ROOT,): 60} for phase in range(1, 9)}
        return Recording(seen, 1_000, {})

    def close(self):
        self.closed += 1


def test_the_collector_starts_once_and_phases_count_on(tmp_path):
    session, started, prepared = FakeSession(), [], []

    class Collector:
        name, event = "fake", "cpu-clock"

        def start(self, target):
            started.append(target)
            return session

    made = recorder.Recorder(PLAN, tmp_path, prepare=lambda: prepared.append(1))
    made._collector = Collector()
    code = test_modules_are_named_by_their_files.__code__
    for first in (1, 3):
        assert made.next_phase == first
        made.begin()
        found = made.finish(replace(driven(), first_phase=first), code, "m")
        assert found.root == Frame("test_modules_are_named_by_their_files", __name__)
    made.close()
    made.close()

    assert (len(started), len(prepared), session.closed, made.next_phase) == (1, 1, 1, 5)
    assert started[0].roots[0] == str(tmp_path)
    assert started[0].python


def test_finishing_what_was_not_begun_is_a_mistake_of_the_caller(tmp_path):
    made = recorder.Recorder(PLAN, tmp_path)

    with pytest.raises(ValueError, match=r"begin\(\) must come before"):
        made.finish(driven(), test_modules_are_named_by_their_files.__code__, "m")
