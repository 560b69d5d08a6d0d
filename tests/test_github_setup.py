"""`ci-flame github setup`: the collector in use is named, and why it is not a better one."""

import os
import subprocess
import sys

import pytest
from unprivileged import NOBODY, as_root, environment, interpreter

from ci_flame.errors import CollectError
from ci_flame.github import setup

BIAS = "it draws C that holds no lock twice"


def row(name, *, works=True, python=True, commands=True, reason="", cure="", bias=""):
    sees = ["Python"] if python else ["native"]
    return {
        "name": name,
        "works": works,
        "python": works and python,
        "commands": works and commands,
        "sees": sees if works else [],
        "samples": 100,
        "reason": reason,
        "cure": cure,
        "bias": bias,
    }


def document(*rows, fixes=()):
    stored = row("replay", python=True, commands=False)
    return {"usable": True, "quality": "full", "collectors": [*rows, stored], "fixes": list(fixes)}


EBPF = row("ebpf")
NO_EBPF = row("ebpf", works=False, reason="no BPF here", cure="sudo -n")
NO_BCC = row("bcc", works=False, reason="no headers")
PERF = row("perf", python=False)
NO_PERF = row("perf", python=False, works=False, reason="no perf", cure="sudo apt-get install perf")
PY_SPY = row("py-spy", commands=False, bias=BIAS)
NO_PY_SPY = row("py-spy", works=False, reason="no py-spy", bias=BIAS)
FIX = {"command": "sudo sysctl a.b=1", "undo": "sudo sysctl a.b=4", "done": "yes"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # as on a hosted runner: no perf, and none is missed
        ([EBPF, NO_BCC, NO_PERF, PY_SPY], ("ebpf", "ebpf")),
        ([EBPF, NO_BCC, PERF], ("ebpf", "perf")),
        ([NO_EBPF, row("bcc"), PERF, PY_SPY], ("bcc", "perf")),
        ([NO_EBPF, NO_BCC, NO_PERF, PY_SPY], ("py-spy", "")),
        ([NO_EBPF, NO_BCC, PERF, NO_PY_SPY], ("", "perf")),
        # bpftrace is only taken when asked for
        ([NO_EBPF, NO_BCC, row("bpftrace", python=False), NO_PERF, NO_PY_SPY], ("", "")),
    ],
)
def test_collectors_are_those_that_auto_takes(rows, expected):
    found = setup.read(document(*rows))

    assert (found.python, found.commands) == expected


def test_first_choice_is_one_short_notice():
    found = setup.read(document(EBPF, NO_BCC, NO_PERF, PY_SPY))

    ((level, text),) = setup.told(found, "auto")

    assert level == "notice"
    assert text == (
        "Python benchmarks are recorded by ebpf, the first choice."
        " Commands that are not Python: ebpf."
    )


def test_lesser_choice_says_why_none_before_it_and_the_cure():
    found = setup.read(document(NO_EBPF, NO_BCC, NO_PERF, PY_SPY))
    ((level, text),) = setup.told(found, "auto")

    assert level == "notice"
    assert f"recorded by py-spy, in reduced quality: {BIAS}." in text
    assert "ebpf: no BPF here (cure: sudo -n); bcc: no headers." in text
    assert "Commands that are not Python: none can." in text


def test_no_collector_is_a_warning_and_the_check_goes_on_to_say_it():
    found = setup.read(document(NO_EBPF, NO_BCC, NO_PERF, NO_PY_SPY))
    ((level, text),) = setup.told(found, "auto")

    assert level == "warning"
    assert text.startswith("no collector can record Python benchmarks here: ebpf: no BPF here")
    assert "py-spy: no py-spy" in text


@pytest.mark.parametrize(("perf", "warned"), [(PERF, False), (NO_PERF, True)])
def test_perf_that_was_asked_for_and_does_not_work_is_warned_of(perf, warned):
    told = setup.told(setup.read(document(EBPF, perf)), "perf")

    assert any("perf does not work" in text for _level, text in told) is warned


def test_what_was_changed_is_said_with_what_puts_it_back():
    failed = {"command": "sudo b", "undo": "c", "done": "no"}
    found = setup.read(document(EBPF, fixes=[FIX, failed]))
    level, text = setup.told(found, "auto")[-1]

    assert level == "notice"
    assert "sudo sysctl a.b=1 (put back with: sudo sysctl a.b=4)" in text
    assert "sudo b" not in text


@pytest.mark.parametrize(
    "broken", [{}, {"collectors": [], "fixes": None}, {"collectors": [{}], "fixes": []}]
)
def test_another_document_is_refused(broken):
    with pytest.raises(CollectError, match="something else than expected"):
        setup.read(broken)


def run(*front, program=sys.executable, env=None, **more):
    """Run the step without a runner: outputs are printed."""
    given = {**(env or os.environ), **more}
    given.pop("GITHUB_OUTPUT", None)
    return subprocess.run(
        [*front, program, "-P", "-m", "ci_flame", "github", "setup"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        env=given,
        timeout=300,
    )


@pytest.mark.root
@as_root
def test_this_machine_records_with_ebpf():
    done = run()

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\ncollector=ebpf\n")
    assert "ebpf: yes: Python, native leaf, kernel" in done.stdout
    assert "::notice title=ci_flame::Python benchmarks are recorded by ebpf" in done.stdout


@pytest.mark.root
@as_root
def test_a_user_without_privileges_records_with_py_spy_and_is_told():
    done = run(*NOBODY, program=interpreter(), env=environment())
    if "collector=ebpf" in done.stdout:
        pytest.skip("nobody may use sudo here")

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\ncollector=py-spy\n")
    assert "recorded by py-spy, in reduced quality" in done.stdout
    assert "ebpf: BPF does not load" in done.stdout


def test_an_input_of_another_kind_is_refused():
    done = run(CI_FLAME_SETUP="everything")

    assert done.returncode == 2
    assert "collector=" not in done.stdout
    assert "input setup is 'everything'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
