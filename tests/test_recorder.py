"""Samples joined to rounds, and what is said of a recording."""

from dataclasses import replace

import pytest

from ci_flame.collect import Recording
from ci_flame.config import RecordConfig
from ci_flame.errors import CollectError
from ci_flame.profile import UNKNOWN, Frame, Kind, Mode, Process, Profile, Round, Weight, fold
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
    recorded = recorder.join(driven(), recording, ROOT, 1000)
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


def slugs(made):
    return [each.slug for each in made]


@pytest.mark.parametrize(
    ("given", "kept", "expected"),
    [
        (driven(), 100, []),
        (driven(), 99, ["too-short"]),
        (driven(wall_ms=100), 100, []),  # a tenth of the time on the CPU
        (driven(wall_ms=101), 100, ["waits"]),
        (driven(wall_ms=101, delay_ms=50), 100, []),
        (driven(wall_ms=100, delay_ms=51), 100, ["starved"]),
        (driven(wall_ms=100, delay_ms=50), 100, []),
        (driven(settled=False), 100, ["warming"]),
    ],
)
def test_what_is_said_of_a_recording(given, kept, expected):
    process = Process(given.rounds, kept=kept, expected=kept, settled=given.settled)

    assert slugs(recorder.account("t", process, PLAN)) == expected


@pytest.mark.parametrize(("short", "expected"), [(2, []), (3, ["too-short"]), (5, ["too-short"])])
def test_what_most_processes_have_is_said_once(short, expected):
    processes = [Process(driven().rounds, kept=99 if n < short else 100) for n in range(5)]

    assert slugs(recorder.accounts("t", processes, PLAN)) == expected


@pytest.mark.parametrize(
    ("cpu_ms", "wall_ms", "cure"),
    [
        (10, 10, "it needs about --flame-seconds 0.1"),
        (1, 1000, "it needs about --flame-seconds 100"),
        (0, 1000, "it uses too little CPU time to be profiled"),
    ],
)
def test_a_benchmark_too_short_to_sample_gets_the_seconds_it_needs(cpu_ms, wall_ms, cure):
    given = driven(cpu_ms=cpu_ms, wall_ms=wall_ms)
    notes = recorder.account("t", Process(given.rounds, kept=3, expected=3), PLAN)
    (text,) = [each.text for each in notes if each.slug == "too-short"]

    assert text.startswith("too short to sample: 3 samples in ")
    assert text.endswith(f"100 are the least; {cure}")


@pytest.mark.parametrize(("expected", "refused"), [(99, False), (100, True)])
def test_no_sample_where_many_were_expected_is_an_error(expected, refused):
    process = Process(driven().rounds, kept=0, expected=expected)
    if not refused:
        assert "too-short" in slugs(recorder.account("t", process, PLAN))
        return

    with pytest.raises(CollectError, match=r"t: no sample in 0\.02 s of CPU time, 100 were"):
        recorder.account("t", process, PLAN)


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
