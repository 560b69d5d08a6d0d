"""bcc: the same BPF programs by another loader; what it needs, and the same truth."""

import json
import os
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpreters import STAGES, stages
from scipy.stats import chi2_contingency

from ci_flame.collect import COLLECTORS, Target, choose
from ci_flame.collect.ebpf import bcc_source, kernel_types
from ci_flame.collect.machine import probe
from ci_flame.errors import CollectError
from ci_flame.profile import Kind, Mode

MACHINE = probe()
OBSTACLE = COLLECTORS["bcc"].obstacle(MACHINE, python=True)
ROOT = Path(__file__).parent.parent
real = pytest.mark.skipif(
    OBSTACLE is not None, reason=f"bcc: {OBSTACLE.reason if OBSTACLE else ''}"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide files")


# --- the source -----------------------------------------------------------------------------


def test_the_source_is_one_text_in_bcc_s_words():
    text = bcc_source.source()

    assert text.startswith("#define CI_FLAME_BCC\n")
    assert '#include "' not in text
    assert text.count("int on_sample(") == 1
    for words in ("processes.lookup(&tgid)", "waiting.delete(&number)", "ring.ringbuf_output("):
        assert words in text
    assert "processes.insert(&tgid, root)" in text, "BPF_NOEXIST"
    assert "processes.update(&record.tgid, &copy)" in text, "BPF_ANY"


@pytest.mark.parametrize(
    ("call", "translated"),
    [
        ("bpf_map_update_elem(&m, &k, &v, BPF_ANY);", "m.update(&k, &v);"),
        ("bpf_map_update_elem(&m, &k,\n\t\t&v, BPF_NOEXIST);", "m.insert(&k,\n\t\t&v);"),
        ("x = bpf_map_lookup_elem(&m, &k);", "x = m.lookup(&k);"),
        ("bpf_map_update_elem(&m, &k, &v, BPF_EXIST);", None),
        ("bpf_map_pop_elem(&m, &v);", None),
        ("bpf_ringbuf_reserve(&m, 8, 0);", None),
    ],
)
def test_what_bcc_does_not_know_is_refused(tmp_path, call, translated):
    (tmp_path / "a.h").write_text('#include "b.h"\n#include "b.h"\nlast')
    (tmp_path / "b.h").write_text(call)
    if translated is None:
        with pytest.raises(ValueError, match="bcc has no such call"):
            bcc_source.source(tmp_path, ("a.h",))
    else:
        text = bcc_source.source(tmp_path, ("a.h", "b.h"))
        assert text == f"#define CI_FLAME_BCC\n{translated}\n\nlast"


def tree(folder, *, configured=True, types=True):
    for needed, name in ((configured, "generated/autoconf.h"), (types, "linux/types.h")):
        if needed:
            (folder / "include" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "include" / name).touch()
    (folder / "arch/x86/include" / folder.name).mkdir(parents=True)
    return folder


def test_headers_are_those_of_the_running_kernel_else_the_newest_that_are_whole(tmp_path):
    modules, headers = tmp_path / "modules", tmp_path / "src"
    (modules / "6.1").mkdir(parents=True)
    assert bcc_source.header_trees("6.1", modules, headers) == []

    tree(headers / "linux-headers-6.9.0-1-amd64", types=False)  # its -common is not there
    assert bcc_source.header_trees("6.1", modules, headers) == []

    old = tree(headers / "linux-headers-6.1.0-9-generic")  # Ubuntu: one tree
    assert bcc_source.header_trees("6.1", modules, headers) == [old]

    new = tree(headers / "linux-headers-6.1.0-10-amd64", types=False)
    common = tree(headers / "linux-headers-6.1.0-10-common", configured=False)
    assert bcc_source.header_trees("6.1", modules, headers) == [common, new]
    both = bcc_source.lay_over([common, new], tmp_path / "both")
    assert (both / "include/linux/types.h").exists()
    assert (both / "include/generated/autoconf.h").exists()
    assert {entry.name for entry in (both / "arch/x86/include").iterdir()} == {
        common.name,
        new.name,
    }

    (modules / "6.1" / "build").symlink_to(old)
    assert bcc_source.header_trees("6.1", modules, headers) == [modules / "6.1/build"]
    assert bcc_source.lay_over([modules / "6.1/build"], tmp_path / "one") == old


# --- the kernel's types ---------------------------------------------------------------------


def btf(structures, *, magic=0xEB9F):
    """Return a BTF of structures: [(name, size, [(field, bits, of)])]; 0 is no structure."""
    strings, types = b"\0", b""

    def string(text):
        nonlocal strings
        if not text:
            return 0
        at = len(strings)
        strings += text.encode() + b"\0"
        return at

    for name, size, fields in structures:
        types += struct.pack("<III", string(name), 4 << 24 | len(fields), size)
        for field, bits, of in fields:
            types += struct.pack("<III", string(field), of, bits)
        types += struct.pack("<IIII", string("int"), 1 << 24, 4, 32)  # an integer between them
    header = struct.pack("<HBBIIIII", magic, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def test_fields_are_found_inside_structures_without_a_name():
    data = btf(
        [
            ("outer", 64, [("first", 0, 2), ("", 128, 3), ("second", 256, 2)]),
            ("", 16, [("inner", 64, 2)]),
        ]
    )

    assert kernel_types.read_structures(data, {"outer": ("second", "inner", "first")}) == {
        "outer": (64, {"second": 32, "inner": 24, "first": 0})
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not understood"),
        (btf([("pid", 8, [])], magic=1), "begins with 0x0001"),
        (btf([("other", 8, [])]), "has no struct task_struct"),
        (btf([("task_struct", 8, [("pid", 0, 2)])]), "struct task_struct has no tgid"),
        (btf([("task_struct", 8, [("", 0, 1)])]), "not understood"),  # it is inside itself
    ],
)
def test_types_that_cannot_be_read_are_refused_with_the_file(tmp_path, data, words):
    (tmp_path / "vmlinux").write_bytes(data)
    with pytest.raises(CollectError, match=words) as error:
        kernel_types.kernel_macros(tmp_path / "vmlinux")
    assert str(tmp_path / "vmlinux") in error.value.message


def test_a_kernel_without_types_is_refused_with_the_cure(tmp_path):
    with pytest.raises(CollectError, match="no type information") as error:
        kernel_types.kernel_macros(tmp_path / "none")
    assert "CONFIG_DEBUG_INFO_BTF=y" in error.value.hint


@given(st.data())
def test_damaged_types_are_an_error_and_nothing_else(data):
    whole = bytearray(btf([("task_struct", 64, [("pid", 0, 2), ("", 128, 3)]), ("", 16, [])]))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = kernel_types.read_structures(cut, {"task_struct": ("pid",)})
    except (ValueError, struct.error, RecursionError):
        return
    assert set(found) == {"task_struct"}


@pytest.mark.root
@pytest.mark.skipif(not kernel_types.VMLINUX.exists(), reason="the kernel has no BTF")
def test_this_kernel_s_offsets_are_those_that_bpftool_prints():
    told = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", kernel_types.VMLINUX],
        capture_output=True,
        check=True,
    )
    expected = {}
    for each in json.loads(told.stdout)["types"]:
        if each["kind"] == "STRUCT" and each["name"] in kernel_types.FIELDS:
            expected.setdefault(f"-DSIZE_{each['name']}", each["size"])
            for member in each["members"]:
                name = f"-DOFFSET_{each['name']}_{member['name']}"
                expected.setdefault(name, member["bits_offset"] // 8)
    macros = dict(macro.split("=") for macro in kernel_types.kernel_macros())

    assert len(macros) == sum(1 + len(fields) for fields in kernel_types.FIELDS.values())
    assert {name: int(value) for name, value in macros.items()} == {
        name: expected[name] for name in macros
    }


# --- what it needs --------------------------------------------------------------------------


def hidden(*folders, code):
    """Run code where these folders are empty."""
    covered = "; ".join(f"mount -t tmpfs none {folder}" for folder in folders)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{covered}; exec {sys.executable} -c '{code}'"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


ASK = """
from ci_flame.collect import COLLECTORS
from ci_flame.collect.machine import probe
found = COLLECTORS["bcc"].obstacle(probe(), python=True)
print(found.reason, found.cure, sep="|")
"""


@real
@as_root
@pytest.mark.root
@pytest.mark.parametrize(
    ("folders", "reason", "cure"),
    [
        (["/usr/lib/python3/dist-packages/bcc"], "bcc's Python package", "python3-bpfcc"),
        (["/usr/src", "/lib/modules"], "no kernel headers", "linux-headers-amd64"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(folders, reason, cure):
    done = hidden(*folders, code=ASK)

    assert done.stderr == ""
    told, _, command = done.stdout.partition("|")
    assert told.startswith(reason)
    assert command.startswith("sudo apt-get install")
    assert cure in command


START = """
import os
from ci_flame.collect import COLLECTORS, Target
from ci_flame.errors import CollectError
try:
    COLLECTORS["bcc"].start(Target(os.getpid(), python=True))
except CollectError as error:
    print(error.message, error.hint, sep="|")
"""


@real
@as_root
@pytest.mark.root
def test_headers_that_vanish_before_the_start_are_an_error_and_no_traceback():
    done = hidden("/usr/src", "/lib/modules", code=START)

    assert done.stderr == ""
    assert done.stdout.startswith("no kernel headers are installed for bcc|sudo apt-get install")


@real
@pytest.mark.root
def test_a_source_that_does_not_compile_is_told_in_clang_s_words():
    code = """
from ci_flame.collect.ebpf import bcc_object
from ci_flame.collect.ebpf import bcc_source
from ci_flame.errors import CollectError
bcc_source.source = lambda: "int on_sample( { return 0; }"
try:
    bcc_object.BccObject(["on_sample"], [])
except CollectError as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )

    assert done.stderr == ""
    assert done.stdout.startswith("bcc: Failed to compile BPF module")
    assert "error: expected" in done.stdout


def test_off_cpu_is_refused_by_name():
    target = Target(os.getpid(), python=True, modes=frozenset({Mode.ON_CPU, Mode.OFF_CPU}))
    with pytest.raises(CollectError, match="bcc records on-cpu alone, off-cpu is wanted") as error:
        COLLECTORS["bcc"].start(target)
    assert "--collector ebpf" in error.value.hint


@real
def test_it_is_chosen_by_name_and_where_the_committed_object_cannot_run():
    old = replace(MACHINE, bpf_loop=False, kernel="5.10.0-30-amd64")

    assert choose(MACHINE, python=True).name == "ebpf"
    assert choose(MACHINE, python=True, wanted="bcc").name == "bcc"
    assert choose(old, python=True).name == "bcc"
    assert choose(old, python=False).name == "bcc"
    with pytest.raises(CollectError, match="no bpf_loop, which came with Linux"):
        choose(old, python=True, wanted="ebpf")


def test_the_same_obstacle_is_told_once():
    bare = replace(MACHINE, libbpf="")
    with pytest.raises(CollectError) as error:
        choose(replace(bare, perf=(), py_spy=""), python=True)

    assert error.value.message.count("libbpf.so.1 is missing") == 1
    assert "ebpf: libbpf.so.1 is missing" in error.value.message


# --- the same truth -------------------------------------------------------------------------

WINDOW_SECONDS = 0.05
ENOUGH = 10_000
BATCHES = range(0, 1600, 160)
"""First windows of what is looked at together; the last one is the bound for a busy machine."""
FREQUENCY_HZ = 4999


def by_function(recording):
    """Return samples by the innermost Python frame: each sample counts once."""
    counts = Counter()
    for samples in recording.samples.values():
        for stack, count in samples.items():
            python = [str(frame) for frame in stack if frame.kind is Kind.PYTHON]
            counts[python[-1] if python else "none"] += count
    return counts


@real
@pytest.mark.root
def test_both_loaders_find_the_same_shares():
    """A chi-square test of two tables of counts by function, at least 10,000 samples each.

    Both collectors watch one process, in windows of 50 ms that alternate, so that whatever the
    machine does meets both alike. The test takes samples for independent: the functions take
    turns about every 20 us and the timers are jittered by 20 % around 200 us, so that where a
    sample falls says nothing of where the next one does. (In a loop whose functions last longer
    than a period, samples come in runs, and equal shares would look different far too often.)
    """
    with stages(sys.executable) as target:
        wanted = Target(
            target.pid, python=True, roots=(str(STAGES.parent),), frequency_hz=FREQUENCY_HZ
        )
        sessions = {name: COLLECTORS[name].start(wanted) for name in ("ebpf", "bcc")}
        try:
            target.begin("mixture")
            found = {name: Counter() for name in sessions}
            for batch in BATCHES:
                for number in range(batch, batch + BATCHES.step):
                    session = sessions["ebpf" if number % 4 in (0, 3) else "bcc"]
                    session.set_phase(number + 1)
                    time.sleep(WINDOW_SECONDS)
                    session.set_phase(0)
                for name, session in sessions.items():
                    found[name] += by_function(session.read())
                if min(counts.total() for counts in found.values()) >= ENOUGH:
                    break
        finally:
            for session in sessions.values():
                session.close()

    totals = {name: counts.total() for name, counts in found.items()}
    assert min(totals.values()) >= ENOUGH, totals
    above = [
        function
        for function in found["ebpf"] | found["bcc"]
        if max(found[name][function] / totals[name] for name in found) > 0.02
    ]
    assert {"stages:adding", "stages:order", "stages:counting", "stages:climb"} <= set(above)
    table = [[counts[function] for function in above] for counts in found.values()]
    for row, total in zip(table, totals.values(), strict=True):
        row.append(total - sum(row))
    p = chi2_contingency([column for column in zip(*table, strict=True) if sum(column)]).pvalue
    assert p > 0.001, (p, above, table)
