"""What must be said of a recording, whatever it is compared with."""

import pytest

from ci_flame.judge.accounts import account, accounts
from ci_flame.profile import Frame, Measurement, Mode, Process, Profile, Round

MS = 1_000_000
ON, OFF = Mode.ON_CPU, Mode.OFF_CPU


def rounds(cpu_ms=10, wall_ms=10, delay_ms=0, number=2):
    return (Round(4, cpu_ms * MS, wall_ms * MS, delay_ms * MS),) * number


def slugs(made):
    return [each.slug for each in made]


def said(process, modes=(ON,)):
    return account("t", process, 1000, modes)


@pytest.mark.parametrize(
    ("given", "kept", "settled", "expected"),
    [
        (rounds(), 100, True, []),
        (rounds(), 99, True, ["too-short"]),
        (rounds(wall_ms=100), 100, True, []),  # a tenth of the time on the CPU
        (rounds(wall_ms=101), 100, True, ["waits"]),
        (rounds(wall_ms=101, delay_ms=50), 100, True, []),
        (rounds(wall_ms=100, delay_ms=51), 100, True, ["starved"]),
        (rounds(wall_ms=100, delay_ms=50), 100, True, []),
        (rounds(), 100, False, ["warming"]),
    ],
)
def test_what_is_said_of_a_recording(given, kept, settled, expected):
    assert slugs(said(Process(given, kept=kept, expected=kept, settled=settled))) == expected


def test_waiting_names_the_mode_that_judges_it():
    (note,) = said(Process(rounds(wall_ms=101), kept=100))

    assert note.text.endswith("its waiting is not judged; add --flame-mode off-cpu")


@pytest.mark.parametrize(
    ("wall_ms", "modes", "expected"),
    [
        (101, (ON, OFF), []),  # it waits, and that is judged
        (100, (ON, OFF), ["too-short"]),
        (100, (OFF,), []),  # no sample was asked for
    ],
)
def test_too_few_samples_matter_where_nothing_else_is_judged(wall_ms, modes, expected):
    assert slugs(said(Process(rounds(wall_ms=wall_ms), kept=3), modes)) == expected


@pytest.mark.parametrize(("short", "expected"), [(2, []), (3, ["too-short"]), (5, ["too-short"])])
def test_what_most_processes_have_is_said_once(short, expected):
    each = (Round(4, 10 * MS, 10 * MS, profiles={ON: Profile({})}),) * 2
    processes = tuple(Process(each, kept=99 if n < short else 100) for n in range(5))

    assert slugs(accounts(Measurement("t", processes, Frame("t", "m")), 1000)) == expected


@pytest.mark.parametrize(
    ("cpu_ms", "wall_ms", "cure"),
    [
        (10, 10, "it needs about --flame-seconds 0.1"),
        (1, 1000, "it needs about --flame-seconds 100"),
        (0, 1000, "it uses too little CPU time to be profiled"),
    ],
)
def test_a_benchmark_too_short_to_sample_gets_the_seconds_it_needs(cpu_ms, wall_ms, cure):
    notes = said(Process(rounds(cpu_ms, wall_ms), kept=3, expected=3))
    (text,) = [each.text for each in notes if each.slug == "too-short"]

    assert text.startswith("too short to sample: 3 samples in ")
    assert text.endswith(f"100 are the least; {cure}")
