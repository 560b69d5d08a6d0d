"""perf.data read directly: the same stacks as perf script's, and every broken file refused."""

import importlib.util
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import interpreters
import numpy as np
import perf_data_builder as built
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from perf_recordings import ENVIRONMENT, agreement, mapped, ours, perfs, record

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats import perf_data
from ci_flame.formats.perf_data import compressed
from ci_flame.profile import TRUNCATED, Frame, Kind, Unit, Weight

DATA = Path(__file__).parent / "data"
ENOUGH = 0.995
BOTH = built.MARK_KERNEL, built.MARK_USER


# --- the same stacks as perf script, on real recordings --------------------------------------


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    source = DATA / "perf_data" / "shop.cpp"
    command = ["c++", "-O1", "-fno-omit-frame-pointer", "-o", str(folder / "shop"), str(source)]
    subprocess.run(command, check=True)
    subprocess.run(["javac", "-d", folder, DATA / "jit" / "Shop.java"], check=True)
    return folder


@pytest.fixture(scope="module")
def cpp(programs):
    return record(programs / "cpp.data", str(programs / "shop"), "60000")


def test_cpp_has_the_stacks_of_perf_script(cpp):
    share, different = agreement(cpp)

    assert share >= ENOUGH, different
    profile = ours(cpp)
    assert profile.samples > 1000
    names = {frame.function for stack in profile.stacks for frame in stack}
    assert "shop::Cart<double>::total" in names
    assert "shop::(anonymous namespace)::hidden" in names
    assert "apply<main::{lambda(unsigned int)#1}>" in names


def test_weights_are_the_periods_in_nanoseconds(cpp):
    mine, theirs = ours(cpp), perfs(cpp)

    assert mine.unit is theirs.unit is Unit.NANOSECONDS
    assert sum(w.value for w in mine.stacks.values()) == sum(
        w.value for w in theirs.stacks.values()
    )


def test_kernel_and_children_have_the_stacks_of_perf_script(tmp_path):
    script = (
        "dd if=/dev/zero of=/dev/null bs=4k count=600000 2>/dev/null;"
        "for i in $(seq 60); do /bin/echo $i | cat | wc -c; done >/dev/null"
    )
    file = record(tmp_path / "perf.data", "sh", "-c", script)
    share, different = agreement(file)

    assert share >= ENOUGH, different
    stacks = ours(file).stacks
    assert {stack[0].function for stack in stacks} >= {"[dd]", "[cat]", "[wc]"}
    assert any(frame.kind is Kind.KERNEL for stack in stacks for frame in stack)


PYTHON = """
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
class Shop:
    def total(self, n): return sum(self.price(i) for i in range(n))
    def price(self, i): return len(str(i)) * 3
def main():
    for _ in range(20): fib(18); Shop().total(4000)
main()
"""


@pytest.mark.skipif(interpreters.interpreter("3.15") is None, reason="run tools/pythons.py")
@pytest.mark.parametrize("way", ["perf", "perf_jit"])
def test_python_tells_its_functions(tmp_path, way):
    """Debian's 3.15 has frame pointers; its trampolines are in a perf map, or in a jitdump."""
    (tmp_path / "shop.py").write_text(PYTHON, encoding="utf-8")
    python = str(interpreters.interpreter("3.15"))
    clock = () if way == "perf" else ("-k", "CLOCK_MONOTONIC")
    command = [python, "-X", way, str(tmp_path / "shop.py")]
    file = record(tmp_path / "perf.data", *command, options=clock)

    frames = {frame for stack in ours(file).stacks for frame in stack}
    assert {Frame("fib", "shop"), Frame("Shop.price", "shop"), Frame("main", "shop")} <= frames
    if way == "perf":
        share, different = agreement(file)
        assert share >= ENOUGH, different


def test_java_has_the_stacks_of_perf_script(programs, tmp_path):
    flags = "-XX:+PreserveFramePointer -XX:+UnlockDiagnosticVMOptions -XX:+DumpPerfMapAtExit"
    command = ["java", *flags.split(), "-cp", str(programs), "Shop", "20000", "4"]
    file = record(tmp_path / "perf.data", *command)
    share, different = agreement(file)

    assert share >= ENOUGH, different
    jitted = {f.function for stack in ours(file).stacks for f in stack if f.kind is Kind.JIT}
    assert any("Shop" in name for name in jitted)
    remove_maps(file)


@pytest.mark.node
def test_node_has_the_stacks_of_perf_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # V8 logs to its working folder
    command = ["node", "--perf-basic-prof", "--interpreted-frames-native-stack"]
    file = record(tmp_path / "perf.data", *command, str(DATA / "jit" / "shop.js"), "60000", "4")
    share, different = agreement(file, blanks=False)

    assert share >= ENOUGH, different
    jitted = {f.function for stack in ours(file).stacks for f in stack if f.kind is Kind.JIT}
    assert any("tokenize" in name for name in jitted)
    copied = tmp_path / "maps"
    copied.mkdir()
    before = ours(file)
    for path in remove_maps(file, copied):
        assert not path.exists()
    assert ours(file, maps=copied).stacks == before.stacks, "named by the copies"


def remove_maps(file, copy_to=None):
    """Remove the maps that our own recorded processes left in /tmp."""
    removed = []
    for pid in {int(pid) for pid in perf_data.read(mapped(file), "x").samples.pid}:
        path = Path(f"/tmp/perf-{pid}.map")  # noqa: S108 - where runtimes put it
        if path.is_file():
            if copy_to is not None:
                (copy_to / path.name).write_bytes(path.read_bytes())
            path.unlink()
            removed.append(path)
    return removed


def test_piped_recording_reads_like_a_file(programs, tmp_path):
    file = tmp_path / "piped.data"
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4999", "-g", "-o", "-", "--"]
    with file.open("wb") as out:
        subprocess.run(
            [*command, str(programs / "shop"), "20000"],
            stdout=out,
            stderr=subprocess.DEVNULL,
            check=True,
            env=ENVIRONMENT,
        )
    # perf script reads pipes from its standard input only.
    data = perf_data.read(file.read_bytes(), "piped")
    assert [event.name for event in data.events] == ["cpu-clock"]
    profile = ours(file)
    assert profile.samples > 300
    names = {frame.function for stack in profile.stacks for frame in stack}
    assert "shop::Impl::run" in names


@pytest.mark.skipif(
    importlib.util.find_spec("compression") is None
    and importlib.util.find_spec("backports") is None,
    reason="neither Python 3.14 nor backports.zstd",
)
def test_packed_recording_reads_like_perfs(programs, tmp_path):
    file = record(tmp_path / "perf.data", str(programs / "shop"), "20000", options=("-z",))
    share, different = agreement(file)

    assert share >= ENOUGH, different


@pytest.mark.parametrize(("mebibytes", "told"), [(64, ""), (65, "more than 1000 times their")])
def test_records_that_unpack_to_far_more_than_any_recording_are_refused(mebibytes, told):
    zstd = next(filter(None, map(_library, compressed._MODULES)), None)
    if zstd is None:
        pytest.skip("neither Python 3.14 nor backports.zstd")
    packed = zstd.compress(bytes(mebibytes << 20))
    assert len(packed) < 8192
    unpacker = compressed.Decompressor("x")

    if told:
        with pytest.raises(FormatError, match=told):
            unpacker.add(memoryview(packed), 0)
    else:
        unpacker.add(memoryview(packed), 0)
        assert len(unpacker.finish()) == mebibytes << 20


def _library(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def test_packed_recording_without_a_library_is_refused(programs, tmp_path, monkeypatch):
    file = record(tmp_path / "perf.data", str(programs / "shop"), "3000", options=("-z",))
    monkeypatch.setattr(compressed, "_MODULES", ("no_such_module",))

    with pytest.raises(FormatError, match="packed with zstd") as refused:
        perf_data.read(file.read_bytes(), "x")
    assert "backports.zstd" in refused.value.hint


def test_recording_of_a_killed_perf_is_refused(programs, tmp_path):
    file = tmp_path / "perf.data"
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4999", "-o", str(file), "--"]
    with subprocess.Popen([*command, str(programs / "shop"), "200000"], env=ENVIRONMENT) as perf:
        deadline = time.monotonic() + 20
        while not (file.exists() and file.stat().st_size > 4096) and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{perf.pid}/task/{perf.pid}/children").read_text().split()
        perf.kill()
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    with pytest.raises(FormatError, match="half-written: its size of data"):
        perf_data.read(file.read_bytes(), "killed.data")


def test_two_events_are_chosen_by_name(programs, tmp_path):
    file = record(
        tmp_path / "perf.data", str(programs / "shop"), "3000", options=("-e", "page-faults")
    )
    data = perf_data.read(file.read_bytes(), "two.data")

    assert {event.name for event in data.events} == {"cpu-clock", "page-faults"}
    faults = ours(file, "page-faults")
    assert faults.unit is Unit.SAMPLES
    assert faults.samples >= 1
    with pytest.raises(FormatError, match="several events: cpu-clock, page-faults"):
        ours(file)
    with pytest.raises(FormatError, match="no sample of cycles"):
        ours(file, "cycles")


# --- fields, orders and processes, by files made of bytes ------------------------------------


class Numbers:
    """Names an address by itself and the file that it is in."""

    def kernel(self, addresses):
        return [Frame(f"{address:x}", "", Kind.KERNEL) for address in addresses.tolist()]

    def user(self, mapping, addresses):
        file = "nowhere" if mapping is None else mapping.path
        start = 0 if mapping is None else mapping.start - mapping.offset
        return [Frame(f"{a - start:x}", file, Kind.NATIVE) for a in addresses.tolist()]


def folded(content, **options):
    return perf_data.fold(perf_data.read(content, "made"), Numbers(), **options)


def lines(content, **options):
    """`comm;frame;frame weight`, sorted."""
    return sorted(
        f"{';'.join((comm, *map(str, stack)))} {weight.samples} {weight.value}"
        for (_, _, comm), group in folded(content, **options).groups.items()
        for stack, weight in group.items()
    )


MAPPED = (built.comm(7, "shop"), built.mmap(7, 0x1000, 0x1000, "/shop"))


def test_kernel_user_and_nowhere():
    high = 0xFFFFFFFF81000000
    content = built.file(
        *MAPPED,
        built.sample(built.MARK_KERNEL, high, built.MARK_USER, 0x1800, 0x1100),
        built.sample(built.MARK_USER, 0x9000, 0x1100, time=2),
        built.sample(0x1234, time=3),
        built.sample(high + 5, time=3, mode=built.KERNEL),
        built.sample(time=4),
    )

    assert lines(content) == [
        "shop 1 500",
        "shop;kernel:ffffffff81000005 1 500",
        "shop;native:/shop:100;native:/shop:800;kernel:ffffffff81000000 1 500",
        "shop;native:/shop:100;native:nowhere:9000 1 500",
        "shop;native:/shop:234 1 500",
    ]


def test_equal_stacks_add_up_and_others_stay_apart():
    content = built.file(
        *MAPPED,
        *(built.sample(built.MARK_USER, 0x1800, time=t, period=t) for t in (1, 2, 3)),
        built.sample(built.MARK_USER, 0x1801, time=9, period=2**40),
    )

    assert lines(content) == [
        "shop;native:/shop:800 3 6",
        f"shop;native:/shop:801 1 {2**40}",
    ]


def test_records_are_taken_by_time_not_by_place():
    content = built.file(
        built.sample(built.MARK_USER, 0x1800, time=30),
        built.sample(built.MARK_USER, 0x1800, time=10),
        built.comm(7, "early"),
        built.comm(7, "late", time=20),
        built.mmap(7, 0x1000, 0x1000, "/b", time=20),
        built.mmap(7, 0x1000, 0x1000, "/a", time=5),
    )

    assert lines(content) == ["early;native:/a:800 1 500", "late;native:/b:800 1 500"]


def test_children_have_what_their_parent_had_when_they_were_forked():
    content = built.file(
        *MAPPED,
        built.fork(8, 7, time=10),
        built.mmap(7, 0x1000, 0x1000, "/other", time=20),
        built.mmap(8, 0x1800, 0x100, "/part", time=30),
        built.comm(8, "child", time=30, exec_=True),
        built.sample(built.MARK_USER, 0x1850, pid=8, time=25),
        *(built.sample(built.MARK_USER, 0x1050 + n, pid=8, time=35 + n) for n in (0, 0x800, 0x8C0)),
        built.sample(built.MARK_USER, 0x1850, pid=7, time=15),
        built.sample(built.MARK_USER, 0x1850, pid=7, time=40),
    )

    assert lines(content) == [
        "child;native:/part:50 1 500",
        "child;native:/shop:50 1 500",
        "child;native:/shop:910 1 500",
        "shop;native:/other:850 1 500",
        "shop;native:/shop:850 2 500".replace(" 2 500", " 1 500"),
        "shop;native:/shop:850 1 500",
    ]


def test_threads_have_their_own_names():
    content = built.file(
        *MAPPED,
        built.fork(7, 7, time=1, tid=70),
        built.comm(7, "worker", time=5, tid=70),
        built.sample(built.MARK_USER, 0x1800, tid=70, time=2),
        built.sample(built.MARK_USER, 0x1800, tid=70, time=6),
        built.sample(built.MARK_USER, 0x1800, tid=99, pid=99, time=6),
        built.sample(built.MARK_KERNEL, 2**63, tid=0, pid=0, time=6),
    )

    assert lines(content) == [
        ":99;native:nowhere:1800 1 500",
        "shop;native:/shop:800 1 500",
        "swapper;kernel:8000000000000000 1 500",
        "worker;native:/shop:800 1 500",
    ]


def test_parts_split_and_leave_out():
    content = built.file(*MAPPED, *(built.sample(0x1800, time=t) for t in range(1, 7)))
    result = folded(content, part=np.array([1, 1, -1, 2, 2, 2]))
    stack = (Frame("800", "/shop", Kind.NATIVE),)

    assert result.groups == {
        (1, 7, "shop"): {stack: Weight(2, 1000)},
        (2, 7, "shop"): {stack: Weight(3, 1500)},
    }


@pytest.mark.parametrize(("depth", "cut"), [(4, False), (5, True), (6, True)])
def test_chains_at_the_limit_are_truncated(depth, cut):
    chain = [built.MARK_USER, *range(0x1800, 0x1800 + depth)]
    result = folded(built.file(*MAPPED, built.sample(*chain)), max_stack=5)
    (stack,) = result.groups[0, 7, "shop"]

    assert (stack[0] == TRUNCATED) is cut
    assert result.truncated == ({0: 1} if cut else {})


def test_lost_samples_are_counted():
    content = built.file(
        *MAPPED,
        built.lost(12),
        built.lost(30),
        built.record(13, struct.pack("<Q", 5) + built.trailer(), 0),
        built.sample(0x1800),
    )

    # The 5 are among the 42, as the kernel and perf count one loss twice.
    assert perf_data.read(content, "x").lost == 42


def test_samples_that_only_the_event_counted_as_lost_are_counted():
    some = built.record(13, struct.pack("<Q", 5) + built.trailer(), 0)
    content = built.file(*MAPPED, built.lost(3), some, some, built.sample(0x1800))

    assert perf_data.read(content, "x").lost == 10


def test_every_field_of_a_sample_is_passed():
    kind = ((1 << 24) - 1) & ~(0b11 << 20)
    registers, interrupt = 0b1011, 0b11
    words = [
        *(99, 0x1800, 7 | 70 << 32, 5, 0xADD, 1, 0x57, 3, 777),
        *(2, 10, 20, 4, 1, 5, 2),  # read: group of two values with ids, after both times
        *(2, built.MARK_USER, 0x1800),
        0x0000000C | 0xAAAA << 32, 0xBB,  # raw: 12 bytes after their size
        *(1, 50, 51, 52),
        *(2, 0xAA, 0xBB, 0xCC),
        *(16, 0x1111, 0x2222, 8),
        *(1, 2, 3),
        *(2, 0x11, 0x22),
        0x9999,
        *(8, 9),
    ]  # fmt: skip
    one = built.attr(
        kind,
        read_format=0b1111,
        registers=registers,
        interrupt=interrupt,
        flags=1 << 10,
        size=112,
    )
    content = built.file(built.record(9, struct.pack(f"<{len(words)}Q", *words)), attrs=[one])
    data = perf_data.read(content, "x")
    samples = data.samples

    assert (samples.pid[0], samples.tid[0], samples.cpu[0]) == (7, 70, 3)
    assert (int(samples.time[0]), int(samples.period[0])) == (5, 777)
    assert samples.chain(0).tolist() == [built.MARK_USER, 0x1800]
    assert samples.registers(0, registers) == {0: 0xAA, 1: 0xBB, 3: 0xCC}
    assert bytes(samples.stack(0)) == struct.pack("<Q", 0x1111)


def test_copied_stacks_are_walked():
    kind = built.USUAL | built.REGISTERS | built.STACK
    one = built.attr(kind, registers=1 << 7 | 1 << 8)
    chain = struct.pack("<QiiQQQ2Q", 0, 7, 7, 5, 500, 2, built.MARK_KERNEL, 2**63)
    rest = struct.pack("<QQQQ16sQ", 2, 0x7000, 0x1800, 16, b"stackstackstack!", 16)
    content = built.file(*MAPPED, built.record(9, chain + rest), attrs=[one])
    seen = []

    def unwind(space, registers, stack):
        seen.append((space.find(0x1800).path, registers, bytes(stack)))
        return [0x1800, 0x1104], False

    result = folded(content, unwind=unwind)
    (stack,) = result.groups[0, 7, "shop"]

    assert seen == [("/shop", {7: 0x7000, 8: 0x1800}, b"stackstackstack!")]
    assert [str(frame) for frame in stack] == [
        "[truncated]",
        "native:/shop:104",
        "native:/shop:800",
        "kernel:8000000000000000",
    ]


def test_samples_of_two_events_are_told_apart_by_their_ids():
    kind = built.IDENTIFIER | built.IP | built.TID | built.TIME
    attrs = [built.attr(kind), built.attr(kind | built.ADDR, event=(1, 2))]

    def one(event, ip, *more):
        return built.record(9, struct.pack(f"<QQiiQ{len(more)}Q", event, ip, 7, 7, 1, *more))

    content = built.file(one(11, 0x1), one(22, 0x2, 0xADD), one(12, 0x3), attrs=attrs,
                         ids=[(11, 12), (22,)])  # fmt: skip
    data = perf_data.read(content, "x")

    assert [event.name for event in data.events] == ["cpu-clock", "page-faults"]
    assert data.samples.ip[data.samples.event == 0].tolist() == [1, 3]
    assert data.samples.ip[data.samples.event == 1].tolist() == [2]
    with pytest.raises(FormatError, match=r"event id 13, which is no event's"):
        perf_data.read(built.file(one(13, 1), attrs=attrs, ids=[(11, 12), (22,)]), "x")


def test_piped_records_carry_their_events():
    content = built.piped(*MAPPED, built.sample(built.MARK_USER, 0x1800))

    assert lines(content) == ["shop;native:/shop:800 1 500"]


# --- what is refused ---------------------------------------------------------------------------


def test_what_is_no_perf_data_is_not_recognised():
    with pytest.raises(UnrecognisedError, match=r"x: not a perf\.data file"):
        perf_data.read(b"PK\3\4", "x")


SAMPLE = built.sample(built.MARK_USER, 0x1800)
TOO_MANY = SAMPLE[:40] + struct.pack("<Q", 2**63) + SAMPLE[48:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"2ELIFREP" + bytes(200), "big-endian machine is not read"),
        (b"PERFFILE" + bytes(200), "older than Linux 3.2 is not read"),
        (built.file(SAMPLE, data_size=0), "half-written"),
        (built.file(SAMPLE)[:60], "cut off: header at offset 0 should have 104 bytes, 60"),
        (built.file(SAMPLE)[:-8], "cut off: records at offset"),
        (built.file(SAMPLE[:-8] + bytes(8)), None),
        (built.file(TOO_MANY), "too short for its call chain"),
        (built.file(struct.pack("<IHH", 9, 0, 0)), "a record of 0 bytes at offset"),
        (built.file(struct.pack("<IHH", 9, 0, 12) + bytes(8)), "a record of 12 bytes at offset"),
        (built.file(struct.pack("<IHH", 9, 0, 800) + bytes(8)), "cut off: the record at offset"),
        (built.file(built.record(9, b"")), "too short for its ip"),
        (built.file(built.record(10, bytes(16))), "type 10 with only 24 bytes at offset"),
        (built.file(SAMPLE, attrs=[built.attr(1 << 40)]), "fields of a newer kernel"),
        (
            built.file(SAMPLE, attrs=[built.attr()[:4] + b"\xff\xff\0\0" + bytes(104)]),
            "an attr of 65535 bytes at offset",
        ),
        (built.piped(attrs=[]), "a recording without events"),
        (built.file(SAMPLE, attrs=[built.attr(), built.attr(built.IP)]), "do not say which|ends"),
    ],
)
def test_what_is_broken_is_refused_with_its_place(content, message):
    if message is None:
        perf_data.read(content, "broken.data")
        return
    with pytest.raises(FormatError, match=message) as refused:
        perf_data.read(content, "broken.data")
    assert str(refused.value).startswith("broken.data: ")


def test_recording_without_samples_is_refused_when_it_is_folded():
    with pytest.raises(FormatError, match="no sample of cpu-clock"):
        folded(built.file(*MAPPED))


def test_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(perf_data, "MAX_BYTES", 100)

    with pytest.raises(FormatError, match="bytes; the limit is"):
        perf_data.read(built.file(SAMPLE), "x")


WHOLE = built.file(
    *MAPPED,
    built.fork(8, 7, time=2),
    built.comm(8, "child", time=3, exec_=True),
    built.sample(built.MARK_KERNEL, 2**63, built.MARK_USER, 0x1800, 0x1900, time=4),
    built.sample(built.MARK_USER, 0x1800, pid=8, time=5),
    built.lost(3),
    built.record(
        17, struct.pack("<QIHH", 2**63, 64, 1, 0) + built.text("bpf_prog") + built.trailer()
    ),
)
PIPED = built.piped(*MAPPED, SAMPLE, SAMPLE)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_flipped_and_cut_files_are_read_or_refused_by_name(data):
    content = bytearray(data.draw(st.sampled_from([WHOLE, PIPED])))
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(0, len(content) - 8))
        size = data.draw(st.sampled_from([1, 2, 4, 8]))
        value = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1)))
        content[at : at + size] = value.to_bytes(8, "little")[:size]
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    try:
        result = folded(bytes(content), max_stack=4)
    except (FormatError, UnrecognisedError):
        return
    assert all(weight.samples > 0 for group in result.groups.values() for weight in group.values())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_real_recordings_with_flipped_bytes_are_read_or_refused(cpp, data):
    content = bytearray(cpp.read_bytes()[: 1 << 17])
    start = struct.unpack_from("<Q", content, 40)[0]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    # The size of the data is made to fit, so that most of it is read.
    content[40:56] = struct.pack("<QQ", start, (len(content) - start) // 8 * 8)
    content[72:104] = bytes(32)
    try:
        folded(bytes(content))
    except (FormatError, UnrecognisedError):
        return


def test_mapped_file_reads_like_its_bytes(cpp):
    one, other = perf_data.read(mapped(cpp), "x"), perf_data.read(cpp.read_bytes(), "x")

    assert one.events == other.events
    assert one.tasks == other.tasks
    assert one.samples.time.tolist() == other.samples.time.tolist()


def test_reading_needs_no_perf(cpp):
    """In an empty PATH, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from ci_flame.formats import perf_data;"
        "from ci_flame.symbols.resolve import Resolver; file = Path(sys.argv[1]);"
        "data = perf_data.read(file.read_bytes(), 'x');"
        "print(perf_data.profile(data, Resolver(data)).samples)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(cpp)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parent.parent)},
    )

    assert int(done.stdout) == ours(cpp).samples


def test_import_makes_a_run_of_it(cpp, tmp_path):
    command = [sys.executable, "-m", "ci_flame", "import", str(cpp), "-o", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert f"1 file of perf-data, {ours(cpp).samples} samples" in done.stderr + done.stdout
    cut = tmp_path / "cut.data"
    cut.write_bytes(cpp.read_bytes()[:3000])
    command[4] = str(cut)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cut off: records at offset" in done.stderr
    assert "Traceback" not in done.stderr
