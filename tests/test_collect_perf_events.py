"""Events, each tried on this very machine; what is refused names the machine's own answer."""

import os
import subprocess
from pathlib import Path

import pytest

from ci_flame import config
from ci_flame.collect.perf import events as perf_events
from ci_flame.collect.perf.events import EVENTS, Event, allowed, parse, trouble
from ci_flame.config import sampling
from ci_flame.errors import PolicyError, UsageError

NOBODY = 65534
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


def as_nobody(function):
    """Return what a function returns in a child without privileges (as text)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            told = str(function())
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read().decode()
    os.waitpid(child, 0)
    return told


@pytest.mark.parametrize("name", ["cpu-clock", "task-clock", "page-faults", "minor-faults"])
@pytest.mark.parametrize("suffix", ["", ":u"])
def test_software_events_give_samples(name, suffix):
    if not suffix and not perf_events.sees_kernel():
        pytest.skip("this user may not look into the kernel")

    assert trouble(parse(name + suffix)) is None


@pytest.mark.root
def test_event_that_never_gives_a_sample_is_found_out():
    """Context switches happen in the kernel: of user code alone there are none."""
    assert trouble(parse("context-switches")) is None
    found = trouble(parse("context-switches:u"))

    assert found.reason == (
        "the event context-switches:u opens on this machine, but counted nothing within 0.2 s"
    )
    assert "--event cpu-clock" in found.cure


def test_hardware_event_works_or_is_refused_by_name():
    """`perf stat` says independently of us whether this machine counts cycles."""
    counted = subprocess.run(
        ["perf", "stat", "-x,", "-e", "cycles:u", "true"],
        check=False,
        capture_output=True,
        text=True,
    ).stderr
    found = trouble(parse("cycles:u"))

    if "<not supported>" in counted:
        assert found.reason.startswith("this machine has no hardware counter for cycles (")
        assert found.cure.startswith("record by --event cpu-clock")
    else:
        assert found is None


@pytest.mark.parametrize("text", ["", ":u", "cpu-clock:k", "cycle", "cycles;rm", "r1a8", "x" * 500])
def test_unknown_events_are_named(text):
    with pytest.raises(UsageError, match="unknown event") as error:
        parse(text)
    assert "cpu-clock" in error.value.hint
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("name", EVENTS)
def test_names_are_read_as_they_are_shown(name):
    assert str(parse(name)) == name
    assert parse(f"{name}:u") == Event(name, user_only=True)


@pytest.mark.root
def test_user_without_privileges_samples_user_code():
    def tried():
        perf_events.sees_kernel.cache_clear()
        return allowed(Event("cpu-clock"))

    told = as_nobody(tried)
    paranoid = int(PARANOID.read_text())

    assert told == ("cpu-clock:u" if paranoid > 1 else "cpu-clock")
    assert str(allowed(Event("cpu-clock"))) == "cpu-clock"
    assert str(allowed(Event("cpu-clock", user_only=True))) == "cpu-clock:u"


@pytest.mark.root
def test_user_without_privileges_is_told_the_setting():
    paranoid = int(PARANOID.read_text())
    if paranoid <= 1:
        pytest.skip("everybody may sample the kernel here")
    perf_events.trouble.cache_clear()
    told = as_nobody(lambda: trouble(Event("cpu-clock")))

    assert "the event cpu-clock is refused: Permission denied" in told
    assert "sudo sysctl kernel.perf_event_paranoid=1" in told


def test_configuration_knows_the_same_events():
    assert set(sampling.EVENT_NAMES) == set(EVENTS)


@pytest.mark.parametrize(
    ("text", "size"),
    [("fp", 0), ("dwarf", 8192), ("dwarf,1024", 1024), ("dwarf,65528", 65_528)],
)
def test_call_graphs(text, size):
    assert sampling.stack_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lbr", 'unknown call graph "lbr"'),
        ("dwraf", 'unknown call graph "dwraf"; did you mean "dwarf"?'),
        ("fp,8192", 'unknown call graph "fp,8192"'),
        ("dwarf,", 'unknown call graph "dwarf,"'),
        ("dwarf,8k", 'unknown call graph "dwarf,8k"'),
        ("dwarf,1016", 'call graph "dwarf,1016": 1024 to 65528 bytes of each stack'),
        ("dwarf,65536", 'call graph "dwarf,65536": 1024 to 65528 bytes of each stack'),
        ("dwarf,8191", "in words of 8"),
        ("dwarf," + "9" * 500, "1024 to 65528 bytes"),
    ],
)
def test_call_graphs_that_are_none(text, message):
    with pytest.raises(UsageError) as error:
        sampling.stack_bytes(text)
    assert message in error.value.message
    assert error.value.hint


def test_policy_names_the_line_of_a_wrong_event():
    text = "version: 1\nrecord:\n  event: cycels\n"
    with pytest.raises(PolicyError) as error:
        config.parse_policy(text.encode(), "ci-flame.yml")
    told = 'ci-flame.yml:3: unknown event "cycels"; did you mean "cycles"?'
    assert error.value.message == told
    made = config.parse_policy(b"version: 1\nrecord: {event: cycles, call_graph: dwarf}\n", "x")
    assert (made.record.event, made.record.call_graph) == ("cycles", "dwarf")
