"""The doctor: as root, as others, with some capabilities, with parts hidden, and fixing."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from unprivileged import CONTAINER, NOBODY, as_root, environment, hidden, interpreter

from ci_flame import cli
from ci_flame.collect import COLLECTORS, Obstacle, Recording, cures, doctor, machine
from ci_flame.collect.py_spy.process import find_program
from ci_flame.errors import CollectError
from ci_flame.profile import BIASES, Frame, Kind

CI_FLAME = (sys.executable, "-m", "ci_flame")
EBPF = ("--collector", "ebpf")


def call(*words, before=(), command=CI_FLAME, env=None):
    return subprocess.run(
        [*before, *command, "doctor", *words],
        capture_output=True, text=True, cwd="/", env=env, timeout=200, check=False,
    )  # fmt: skip


def told(*words, **how):
    """The document, its collectors by name, and the exit code."""
    done = call("--json", *words, **how)
    assert "Traceback" not in done.stderr, done.stderr
    document = json.loads(done.stdout)
    return document, {each["name"]: each for each in document["collectors"]}, done.returncode


# -- what is there ---------------------------------------------------------------------------


@pytest.mark.root
@as_root
def test_root_sees_every_collector_tried():
    document, rows, code = told()

    assert code == 0
    assert (document["usable"], document["quality"]) == (True, "full")
    assert set(rows) == set(COLLECTORS)
    assert [name for name in rows if name in doctor.ORDER] == [n for n in doctor.ORDER if n in rows]
    assert {"Python", "native leaf", "kernel"} <= set(rows["ebpf"]["sees"])
    for name in ("perf", "bpftrace"):
        assert {"native", "kernel"} <= set(rows[name]["sees"])
    assert "off-CPU" in rows["ebpf"]["sees"]
    assert rows["py-spy"]["sees"] == ["Python"]
    assert {"Python", "native leaf", "kernel"} <= set(rows["bcc"]["sees"])
    for name in ("ebpf", "bcc", "bpftrace", "perf", "py-spy"):
        assert rows[name]["works"]
        assert rows[name]["samples"] > 10
        assert (rows[name]["python"], rows[name]["commands"]) == {
            "ebpf": (True, True), "bcc": (True, True), "perf": (False, True),
            "bpftrace": (False, True), "py-spy": (True, False)
        }[name]  # fmt: skip
    assert rows["replay"]["works"]
    assert {"system", "libbpf", "memory layout"} <= {row["what"] for row in document["rows"]}


def test_text_and_json_say_the_same():
    done = call(*EBPF)
    document, rows, code = told(*EBPF)

    assert done.returncode == code
    for row in document["rows"]:
        assert row["found"] in done.stdout
    for what in ("reason", "cure"):
        assert rows["ebpf"][what] in done.stdout


@as_root
def test_ordinary_user_records_in_reduced_quality():
    env = environment()
    document, rows, code = told(before=NOBODY, command=(interpreter(), "-m", "ci_flame"), env=env)
    if rows["ebpf"]["works"]:
        pytest.skip("nobody may use sudo here")

    assert (code, document["quality"]) == (0, "reduced")
    assert rows["ebpf"]["reason"] == "BPF does not load: Operation not permitted"
    assert "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace" in rows["ebpf"]["cure"]
    # perf may not look into the kernel.
    assert rows["perf"]["sees"] == ["native"]
    assert rows["py-spy"]["works"]
    assert rows["py-spy"]["bias"] == BIASES["py-spy"]


@as_root
def test_root_of_a_container_is_told_the_flags():
    _, rows, code = told(*EBPF, before=CONTAINER)

    assert code == 3
    assert "--cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE" in rows["ebpf"]["cure"]


@pytest.mark.root
@as_root
@pytest.mark.parametrize(
    ("dropped", "works"), [("-sys_ptrace", False), ("-net_raw", True)], ids=["needed", "other"]
)
def test_capabilities_in_place_of_root(dropped, works):
    """An ordinary user with bpf, perfmon, sys_ptrace and syslog: all of them, and one less."""
    caps = ["bpf", "perfmon", "sys_ptrace", "syslog", "net_raw"]
    caps.remove(dropped.removeprefix("-"))
    given = ",".join(f"+{each}" for each in caps)
    before = (*NOBODY, f"--inh-caps={given}", f"--ambient-caps={given}")
    command = (interpreter(), "-m", "ci_flame")
    _, rows, code = told(*EBPF, before=before, command=command, env=environment())

    assert (rows["ebpf"]["works"], code) == (works, 0 if works else 3)
    if works:
        assert {"Python", "kernel"} <= set(rows["ebpf"]["sees"])
    else:
        assert rows["ebpf"]["reason"] == "cap_bpf, cap_perfmon and cap_sys_ptrace are needed"
        assert "cap_sys_ptrace" in rows["ebpf"]["cure"]


LIBBPF = next(
    (each for each in Path("/usr").glob("lib*/**/libbpf.so.1") if each.exists()), Path("/nowhere")
)


@pytest.mark.root
@as_root
@pytest.mark.parametrize(
    ("name", "files", "reason", "cure"),
    [
        ("ebpf", [LIBBPF], "libbpf.so.1 is missing", "install --no-install-recommends libbpf1"),
        ("perf", machine.perf_paths(), "no perf program that works is installed", "linux-perf"),
        (
            "bpftrace",
            [shutil.which("bpftrace") or "/nowhere"],
            "bpftrace is not installed",
            "sudo apt-get install",
        ),
        ("py-spy", [find_program()], "py-spy is not installed", "pip install 'ci-flame[py-spy]'"),
    ],
)
def test_what_is_missing_is_named(name, files, reason, cure):
    """For real: in a mount namespace in which the file is not there."""
    document, rows, code = told("--collector", name, before=hidden(*files))

    assert code == 3
    assert not document["usable"]
    assert not rows[name]["works"]
    assert rows[name]["reason"] == reason
    assert cure in rows[name]["cure"]


@pytest.mark.root
@as_root
def test_missing_bcc_and_headers_are_named():
    library = next(iter(Path("/usr/lib").glob("*/libbcc.so.0")), None)
    assert library is not None, "libbpfcc is not installed"
    _, without_library, code = told("--collector", "bcc", before=hidden(library))

    assert (code, without_library["bcc"]["works"]) == (3, False)
    assert "sudo apt-get install" in without_library["bcc"]["cure"]
    folders = "/usr/src/linux-headers-* /lib/modules/*"
    hide = f'for d in {folders}; do [ -d "$d" ] && mount -t tmpfs none "$d"; done; exec "$@"'
    words = ("unshare", "--mount", "sh", "-c", hide, "sh")
    _, without_headers, code = told("--collector", "bcc", before=words)

    assert (code, without_headers["bcc"]["works"]) == (3, False)
    assert "headers" in without_headers["bcc"]["reason"]
    assert "linux-headers" in without_headers["bcc"]["cure"]


# -- fixing ---------------------------------------------------------------------------------

RATE = Path("/proc/sys/kernel/perf_event_max_sample_rate")
KEY = "kernel.perf_event_max_sample_rate"


@pytest.fixture
def low_rate():
    """A limit that is too low for 20,000 Hz, and for nothing that anybody else records at."""
    before = RATE.read_text().strip()
    RATE.write_text("23000")
    yield "23000"
    RATE.write_text(before)


@pytest.mark.root
@as_root
def test_fix_sets_a_sysctl_and_says_how_it_is_put_back(low_rate):
    fast = (*EBPF, "--frequency", "20000")
    _, rows, code = told(*fast)
    assert (code, rows["ebpf"]["works"]) == (3, False)
    assert f"{KEY} is {low_rate}" in rows["ebpf"]["reason"]

    dry = call(*fast, "--fix", "--dry-run")
    assert dry.returncode == 3
    assert f"  would run: sudo sysctl -q -w {KEY}=" in dry.stdout
    assert RATE.read_text().strip() == low_rate

    done = call(*fast, "--fix")
    raised = int(RATE.read_text())
    assert done.returncode == 0, done.stdout
    assert raised >= 24_000
    assert f"ebpf: {KEY}: {low_rate} -> {raised}, until the next boot" in done.stdout
    assert f"  put back with: sudo sysctl {KEY}={low_rate}" in done.stdout
    assert done.stdout.count("collector  here") == 2  # the table before, and the one after
    assert done.stdout.endswith("Python benchmarks can be recorded here with ebpf.\n")


@pytest.mark.root
@as_root
def test_fix_without_privileges_is_refused(low_rate):
    given = "+bpf,+perfmon,+sys_ptrace,+syslog"
    before = (*NOBODY, f"--inh-caps={given}", f"--ambient-caps={given}")
    document, _, code = told(
        *EBPF, "--frequency", "20000", "--fix",
        before=before, command=(interpreter(), "-m", "ci_flame"), env=environment(),
    )  # fmt: skip

    (fix,) = document["fixes"]
    assert code == 3
    assert fix["done"] == "no"
    assert fix["error"].endswith("needs root, and `sudo -n` is refused here")
    assert RATE.read_text().strip() == low_rate


@pytest.mark.root
@as_root
def test_fix_leaves_to_people_what_it_cannot_undo():
    done = call(*EBPF, "--fix", before=CONTAINER)

    assert done.returncode == 3
    assert "ebpf: left to you: start the container with --cap-add BPF" in done.stdout
    assert "there is nothing that --fix may run" in done.stdout


@pytest.mark.root
@as_root
@pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt-get here")
def test_packages_are_installed_by_apt_and_what_is_there_is_left_alone():
    """For real, with a package that is installed already: nothing is fetched or changed."""
    fix = cures.fix_of("sudo apt-get install --no-install-recommends libbpf1 and read on")
    version = ["dpkg-query", "-W", "libbpf1"]
    before = subprocess.run(version, capture_output=True, check=True).stdout
    cures.run(fix, root=True, sudo=False)

    assert subprocess.run(version, capture_output=True, check=True).stdout == before
    assert str(fix).startswith("sudo apt-get install -y -q --no-install-recommends --no-upgrade")
    assert fix.undo == "nothing: all of it is installed already"


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg here")
def test_what_was_installed_before_is_not_what_the_undo_removes():
    fix = cures.fix_of("sudo apt-get install linux-headers-0.0.0-none dpkg libbpf1")
    both = cures.fix_of("sudo apt-get install libbpf1 linux-headers-0.0.0-none")

    assert fix.undo == "sudo apt-get remove --autoremove linux-headers-0.0.0-none"
    assert both.command[-2:] == ("libbpf1", "linux-headers-0.0.0-none")
    assert both.undo == "sudo apt-get remove --autoremove linux-headers-0.0.0-none"


@pytest.mark.parametrize(
    ("cure", "command"),
    [
        ("sudo sysctl kernel.perf_event_max_sample_rate=1", "sysctl -q -w {key}=1"),
        ("raise: sudo sysctl -w kernel.perf_event_max_sample_rate=7, then", "sysctl -q -w {key}=7"),
        # Not of the list, not a number, more than one command: left to people.
        ("sudo sysctl kernel.core_pattern=1", None),
        ("sudo sysctl kernel.perf_event_max_sample_rate=x", None),
        ("sudo sysctl kernel.yama.nothing=1", None),
        ("sudo rm -rf /", None),
        ("sudo apt-get install evil", None),
        ("sudo apt-get install; reboot", None),
        ("sudo setcap cap_bpf+ep /usr/bin/python3", None),
        ("use Linux", None),
        ("", None),
    ],
)  # fmt: skip
def test_only_what_is_listed_is_ever_run(cure, command):
    fix = cures.fix_of(cure)

    assert (fix and " ".join(fix.command)) == (command and command.format(key=KEY))


def test_setting_that_is_as_wanted_needs_no_fix():
    assert cures.fix_of(f"sudo sysctl {KEY}={RATE.read_text().strip()}") is None


@pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt-get here")
def test_every_package_of_a_cure_is_installed_and_no_word_of_its_prose():
    fix = cures.fix_of(
        "sudo apt-get install --no-install-recommends python3-bpfcc linux-headers-amd64 (Debian)"
    )

    assert fix.command[-2:] == ("python3-bpfcc", "linux-headers-amd64")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("sysctl", "-q", "-w", f"{KEY}=-5"), "ended with"),
        (("ci-flame-no-such-program",), "there is no ci-flame-no-such-program here"),
    ],
)
def test_fix_that_fails_is_an_error_of_one_line(command, words):
    with pytest.raises(CollectError, match=words) as error:
        cures.run(cures.Fix(command, "", ""), root=True, sudo=False)
    assert "\n" not in error.value.message


# -- the words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dry-run",), "--dry-run says what --fix would do"),
        (("--collector", "epbf"), "no collector is called 'epbf'"),
        (("--frequency", "9"), "9 is not in the range 10<=x<=20000"),
    ],
)
def test_words_that_do_not_fit(words, said):
    done = call(*words)

    assert done.returncode == 2
    assert said in done.stderr


class Fake:
    """A collector that does what a case says; the trial itself is real elsewhere."""

    name = "ebpf"
    event = "cpu-clock"

    def __init__(self, stacks=(), error=None):
        self.stacks, self.error = stacks, error

    def obstacle(self, _machine, **_target):
        return None

    def start(self, _target):
        if self.error:
            raise self.error
        return self

    def set_phase(self, _phase):
        pass

    def read(self):
        return Recording({1: dict.fromkeys(self.stacks, 9)}, 1, {})

    def close(self):
        pass


PYTHON, KERNEL = (Frame("f", "m"),), (Frame("k", "", Kind.KERNEL),)


@pytest.mark.parametrize(
    ("fake", "works", "reason"),
    [
        (Fake([PYTHON, KERNEL]), True, ""),
        (Fake([KERNEL]), False, "it took 9 samples of a Python program and saw no Python function"),
        (Fake(), False, "it starts, and took no sample of 0 s of work"),
        (Fake(error=CollectError("first\nsecond", "cure")), False, "first second"),
        (Fake(error=OSError("odd")), False, "odd"),
    ],
)
def test_collector_that_only_seems_to_work_is_found_out(monkeypatch, fake, works, reason):
    monkeypatch.setattr(doctor, "SECONDS", 0.01)
    monkeypatch.setattr(doctor, "COLLECTORS", {"ebpf": fake})
    (row,) = doctor.examine(machine.probe())

    assert (row.works, row.reason) == (works, reason.replace("0 s", "0.01 s"))
    assert bool(row.cure) is not works


def test_cure_of_no_collector_is_missing(monkeypatch):
    """Whatever stops a collector, the table says what to do about it."""
    none = replace(
        machine.probe(), root=False, sudo=False, capabilities=(), bpf_error="EPERM", libbpf="",
        perf=(), py_spy="",
    )  # fmt: skip
    for row in doctor.examine(none):
        if not row.works:
            assert row.reason
            assert row.cure
            assert "\n" not in row.reason + row.cure


def test_another_system(monkeypatch):
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    done = CliRunner().invoke(cli.cli, ["doctor", "--json"], standalone_mode=False)
    document = json.loads(done.output)

    assert done.return_value == 3
    assert (document["usable"], document["quality"]) == (False, "none")
    assert "this is Darwin" in document["collectors"][0]["reason"]


def test_obstacle_is_two_words():
    assert Obstacle("why", "cure").cure == "cure"


def test_nothing_stays_running():
    list(doctor.examine(machine.probe(), names=["py-spy", "ebpf"]))
    mine = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(file.read_text().rpartition(")")[2].split()[1])
            words = (file.parent / "cmdline").read_bytes()
            if parent == os.getpid() and b"ci_flame_doctor" in words:
                mine.append(words)

    assert mine == []
