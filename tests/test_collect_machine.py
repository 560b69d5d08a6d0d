"""What the machine can do, which collector is chosen, and the committed BPF object."""

import dataclasses
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci_flame import __version__
from ci_flame.collect import COLLECTORS, choose, machine
from ci_flame.collect.machine import Machine
from ci_flame.errors import CollectError, UsageError

ROOT = Path(__file__).parent.parent
BPF = ROOT / "ci_flame" / "collect" / "bpf"

GOOD = Machine(
    system="Linux",
    architecture="x86_64",
    cores=4,
    cpu_model="Testium",
    kernel="6.1.0",
    python="3.11.7",
    virtualisation="",
    root=True,
    capabilities=("cap_sys_ptrace", "cap_sys_admin", "cap_perfmon", "cap_bpf"),
    sudo=False,
    bpf_error="",
    perf_event_error="",
    perf_event_paranoid=2,
    libbpf="libbpf.so.1",
    btf=True,
    perf=("/usr/bin/perf",),
)
EPERM = "Operation not permitted"
USER = dataclasses.replace(GOOD, root=False, capabilities=(), bpf_error=EPERM)


@pytest.mark.parametrize(
    ("change", "reason", "cure"),
    [
        ({"system": "Darwin"}, "eBPF needs Linux, this is Darwin", "Linux"),
        ({"architecture": "aarch64"}, "no BPF program is built for aarch64", "x86_64"),
        ({"libbpf": ""}, "libbpf.so.1 is missing", "sudo apt-get install"),
        ({"btf": False}, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"),
        (
            {"root": False, "capabilities": (), "bpf_error": EPERM},
            "BPF does not load: Operation not permitted",
            "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace",
        ),
        # BPF loads, but the target's memory could not be read
        (
            {"root": False, "capabilities": ("cap_perfmon", "cap_bpf")},
            "cap_bpf, cap_perfmon and cap_sys_ptrace are needed",
            "sudo setcap",
        ),
        # root without BPF: a locked-down container
        ({"bpf_error": EPERM, "capabilities": ()}, "BPF does not load", "--cap-add PERFMON"),
    ],
)
def test_ebpf_says_what_stops_it(change, reason, cure):
    found = dataclasses.replace(GOOD, **change)
    obstacle = COLLECTORS["ebpf"].obstacle(found, python=True)

    assert reason in obstacle.reason
    assert cure in obstacle.cure
    with pytest.raises(CollectError, match="no collector can record a Python benchmark") as error:
        choose(found, python=True, wanted="ebpf")
    assert reason in error.value.message
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    "found",
    [
        GOOD,
        dataclasses.replace(USER, sudo=True),
        dataclasses.replace(
            GOOD, root=False, capabilities=("cap_sys_ptrace", "cap_perfmon", "cap_bpf")
        ),
    ],
)
def test_ebpf_runs_as_root_by_sudo_or_with_capabilities(found):
    for python in (True, False):
        assert COLLECTORS["ebpf"].obstacle(found, python=python) is None
        assert choose(found, python=python).name == "ebpf"


def test_a_python_benchmark_is_refused_where_only_perf_works():
    with pytest.raises(CollectError) as error:
        choose(USER, python=True)

    assert "ebpf: BPF does not load: Operation not permitted" in error.value.message
    assert "setcap" in error.value.hint


def test_an_unknown_collector_is_a_usage_error_with_the_known_names():
    with pytest.raises(UsageError, match="no collector is called 'epbf'") as error:
        choose(GOOD, python=True, wanted="epbf")
    assert "ebpf" in error.value.hint


def test_the_cure_of_waiting_is_not_the_collector_that_failed():
    with pytest.raises(CollectError) as failed:
        choose(USER, python=True, waits=True)
    with pytest.raises(CollectError) as asked:
        choose(GOOD, python=True, wanted="perf", waits=True)

    assert "sudo" in failed.value.hint
    assert "use collector" not in failed.value.hint
    assert asked.value.hint == "use collector ebpf"


def test_probe_tells_this_machine():
    found = machine.probe()

    assert found.system == platform.system()
    assert found.architecture == platform.machine()
    assert found.cores == os.cpu_count()
    assert found.root == (os.geteuid() == 0)
    assert found.python == platform.python_version()
    assert all(Path(path).is_file() for path in found.perf)


def test_environment_keeps_what_decides_whether_runs_compare():
    found = machine.environment(COLLECTORS["ebpf"], "3.12.1", 999)

    assert (found.collector, found.event, found.frequency_hz) == ("ebpf", "cpu-clock", 999)
    assert found.python_minor == "3.12"
    assert found.architecture == platform.machine()
    assert found.cpu_model == machine.cpu_model()
    assert found.ci_flame == __version__


@pytest.mark.parametrize("found", [GOOD, USER, dataclasses.replace(USER, system="Darwin")])
def test_facts_are_rows_of_one_line(found):
    rows = machine.facts(found)

    assert [row[0] for row in rows][:2] == ["system", "processor"]
    assert all(isinstance(cell, str) and "\n" not in cell for row in rows for cell in row)


@pytest.mark.parametrize(
    ("status", "names"),
    [
        ("CapEff:\t000001ffffffffff\n", set(machine._CAP_BITS)),
        ("CapEff:\t0000008000000000\n", {"cap_bpf"}),
        ("CapEff:\t0000000000080000\n", {"cap_sys_ptrace"}),
        ("CapEff:\t0000000000000000\n", set()),
        ("Name: x\n", set()),
    ],
)
def test_capabilities_of_a_status_file(status, names):
    assert set(machine._capabilities(status)) == names


def test_a_system_call_without_a_number_says_so(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")

    assert machine._try_bpf() == "Function not implemented"
    assert machine._try_perf_event() == "Function not implemented"


def test_a_perf_that_does_not_answer_is_left_out(tmp_path, monkeypatch):
    fake = tmp_path / "perf"
    fake.write_text("#!/bin/sh\necho 'WARNING: perf not found for kernel' >&2\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert str(fake) not in machine.perf_paths()
    fake.write_text("#!/bin/sh\necho perf version 6.1\n")
    assert machine.perf_paths()[0] == str(fake)


def test_other_systems_import_and_refuse_by_name():
    code = (
        "import platform\n"
        "platform.system = lambda: 'Darwin'\n"
        "import ci_flame.collect.machine as machine\n"
        "from ci_flame.collect import choose\n"
        "from ci_flame.errors import CollectError\n"
        "try:\n"
        "    choose(machine.probe(), python=True)\n"
        "except CollectError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.stderr == ""
    assert "eBPF needs Linux, this is Darwin" in done.stdout


CLANG = shutil.which("clang-14") and shutil.which("llvm-strip-14")


@pytest.mark.skipif(
    not CLANG and "CI" not in os.environ, reason="clang-14 and llvm-strip-14 are not installed"
)
def test_the_committed_bpf_object_is_what_its_source_builds(tmp_path):
    done = subprocess.run(
        [ROOT / "tools" / "build_bpf.sh", tmp_path], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    built = (tmp_path / "collector.bpf.o").read_bytes()
    assert built == (BPF / "collector.bpf.o").read_bytes(), "run `make bpf` and commit the object"


def test_the_build_does_not_depend_on_the_folder(tmp_path):
    if not CLANG:
        pytest.skip("clang-14 and llvm-strip-14 are not installed")
    copy = tmp_path / "another folder" / "ci_flame" / "collect" / "bpf"
    shutil.copytree(BPF, copy)
    (copy / "collector.bpf.o").unlink()
    tools = tmp_path / "another folder" / "tools"
    tools.mkdir()
    shutil.copy2(ROOT / "tools" / "build_bpf.sh", tools)
    subprocess.run([tools / "build_bpf.sh"], check=True, capture_output=True)

    assert (copy / "collector.bpf.o").read_bytes() == (BPF / "collector.bpf.o").read_bytes()
    assert b"another folder" not in (copy / "collector.bpf.o").read_bytes()


def test_the_bpf_sources_carry_their_licences():
    for source in (*BPF.glob("*.c"), *BPF.glob("*.h")):
        first = source.read_text().splitlines()[0]
        assert first == "/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */"
    assert b"Dual BSD/GPL\0" in (BPF / "collector.bpf.o").read_bytes()
