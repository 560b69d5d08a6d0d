"""perf script text: every header that perf prints, and the stacks other tools see in it."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats import perf_script
from ci_flame.formats.foreign import library_name
from ci_flame.profile import UNKNOWN, Frame, Kind, Unit, fold

DATA = Path(__file__).parent / "data" / "perf_script"
SAMPLES = sorted((DATA / "flamegraph").glob("*.txt"))

STACK = "\t7f2b401a spin+0x1a (/usr/bin/noploop)\n\t7f2b4000 main (/usr/bin/noploop)\n"
EXPECTED = "native:noploop:main;native:noploop:spin"


def samples(text):
    records = perf_script.records(text.splitlines(), "x")
    return [record for record in records if isinstance(record, perf_script.Sample)]


def only(text):
    (sample,) = samples(text)
    return sample


# --- the same stacks as other tools ---------------------------------------------------------


def as_flamegraph(sample):
    """Write a sample as stackcollapse-perf.pl --all does.

    The semantics differ, on purpose, in what is undone here: it cuts names at the first
    parenthesis, we keep parameters (`simplify.clean` removes them where they end the name);
    it names an unknown function after its library, we keep the library beside the name; it
    takes [vdso] for the kernel, we for user code; it removes quotes.
    """
    names = [sample.comm.replace(" ", "_")]
    for frame in sample.stack:
        name = frame.function
        if name == "[unknown]" and frame.module:
            name = f"[{frame.module}]"
        name = re.sub(r"\((?!anonymous namespace\)).*", "", name)
        mark = {Kind.KERNEL: "_[k]", Kind.JIT: "_[j]"}.get(frame.kind, "")
        name = name.replace(";", ":").replace('"', "").replace("'", "")
        names.append(name + ("_[k]" if frame.module == "[vdso]" else mark))
    return ";".join(names)


def from_flamegraph(path):
    """Read its result, with V8, Java and libraries' names written as we write them.

    We drop V8's mark of the tier (`LazyCompile:*f` and `:~f` are one function) and the line
    (it changes with every edit above), and spell `Lpackage/Type;::method` as
    `package/Type::method`, which it spells `package/Type:.method`. A library has no version.
    """
    found = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, weight = line.rpartition(" ")
        stack = re.sub(r"((?:LazyCompile|Function|Builtin|Stub):)[*~]", r"\1", stack)
        stack = re.sub(r"(LazyCompile:[^;]*):\d+(?=_\[j\])", r"\1", stack)
        stack = re.sub(r"(?<=;)\[([^];]+\.so[^];]*)\]", lambda m: f"[{library_name(m[1])}]", stack)
        found[re.sub(r"([\w/$]):\.(?=[^;]*_\[j\])", r"\1::", stack)] += int(weight)
    return found


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_stacks_are_those_of_stackcollapse_perf(path):
    with path.open(encoding="utf-8") as lines:
        records = list(perf_script.records(lines, path.name))
    # It keeps the first event of a file only.
    first = [record for record in records if record.event == records[0].event]
    actual = Counter()
    for record in first:
        actual[as_flamegraph(record)] += record.period or 1

    assert len(SAMPLES) == 6
    assert actual == from_flamegraph(path.with_suffix(".folded"))


def test_last_sample_without_blank_line_counts():
    """stackcollapse-perf.pl drops it."""
    path = DATA / "flamegraph" / "perf-dd-stacks-01.txt"
    text = path.read_text(encoding="utf-8")

    assert len(samples(text.rstrip())) == len(samples(text)) == 11


def flamescope(node, path=()):
    """FlameScope's tree as (kind and name of each frame) -> samples."""
    if node["v"]:
        yield path, node["v"]
    for child in node["c"]:
        yield from flamescope(child, (*path, (child["l"], child["n"])))


def test_stacks_and_kinds_are_those_of_flamescope():
    tree = json.loads((DATA / "flamescope" / "FS-flame-perf-java-stacks-01.json").read_text())
    expected = Counter(dict(flamescope(tree)))
    text = (DATA / "flamegraph" / "perf-java-stacks-01.txt").read_text(encoding="utf-8")
    kinds = {Kind.KERNEL: "kernel", Kind.JIT: "jit", Kind.NATIVE: "user", Kind.MARK: "user"}
    actual = Counter()
    for sample in samples(text):
        frames = [(kinds[frame.kind], frame.function) for frame in sample.stack]
        actual[("", sample.comm), *frames] += 1

    def plain(counter):
        """Without what differs: it keeps Java's `L…;`, and the unknown is user's."""
        java = re.compile(r"^L?([\w/$]+);(?:::|\.)")
        found = Counter()
        for stack, number in counter.items():
            names = ((kind, java.sub(r"\1::", name)) for kind, name in stack)
            found[tuple(("" if n == "[unknown]" else kind, n) for kind, n in names)] += number
        return found

    missing = plain(expected) - plain(actual)
    assert plain(actual) - plain(expected) == Counter()
    assert missing == Counter()


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "comm", "pid", "what"),
    [
        (
            "noploop 21 [001] 14.984841: 250 cpu-clock: ",
            "noploop",
            21,
            ("cpu-clock", 250, 14.984841),
        ),
        ("noploop 21/22 [001] 14.9: 250 cpu-clock:u: ", "noploop", 21, ("cpu-clock", 250, 14.9)),
        ("noploop 21 14.9: cycles:", "noploop", 21, ("cycles", None, 14.9)),
        ("V8 Worker 7/9 47.10: 7 cycles:ukHG: ", "V8 Worker", 7, ("cycles", 7, 47.1)),
        ("worker 12 345 [000] 1.5: 9 cpu-clock: ", "worker 12", 345, ("cpu-clock", 9, 1.5)),
        ("w 5 [000] 1.5: 9 cpu-clock: ", "w", 5, ("cpu-clock", 9, 1.5)),
        ("   at the right 5 [000] 1.5: 9 cpu-clock: ", "at the right", 5, ("cpu-clock", 9, 1.5)),
        (":-1 -1 [000] 1.5: 9 cpu-clock: ", ":-1", -1, ("cpu-clock", 9, 1.5)),
        ("node-v011 31912 cpu-clock: ", "node-v011", 31912, ("cpu-clock", None, None)),
        (
            "a/b:c 5/5 1.5: sched:sched_switch: prev=x",
            "a/b:c",
            5,
            ("sched:sched_switch", None, 1.5),
        ),
        ("x 5 [000] 1.5: 1 cpu/cycles,name=a/: ", "x", 5, ("cpu/cycles,name=a/", 1, 1.5)),
    ],
)
def test_header(header, comm, pid, what):
    sample = only(f"{header}\n{STACK}\n")

    assert (sample.comm, sample.pid) == (comm, pid)
    assert (sample.event, sample.period, sample.time) == what
    assert fold(sample.stack) == EXPECTED


def test_samples_without_call_chain_are_one_line_each():
    line = "  noploop 21 [001] 1410.9: 250000 cpu-clock:  7f2b401a spin+0x1a (/usr/bin/noploop)\n"

    assert [fold(each.stack) for each in samples(line * 3)] == ["native:noploop:spin"] * 3


def test_sample_without_stack_counts_for_its_program():
    text = "dd 9 1.5: 5 cpu-clock: \n\n" + "dd 9 1.6: 5 cpu-clock: \n"

    assert [each.stack for each in samples(text)] == [(), ()]
    assert list(perf_script.read(text.splitlines(), "x").stacks) == [
        (Frame("[dd]", "", Kind.MARK),)
    ]


def test_samples_without_blank_line_between_them():
    header = "dd 9 1.5: 5 cpu-clock: \n"

    assert [fold(each.stack) for each in samples((header + STACK) * 2)] == [EXPECTED] * 2


def test_comments_source_lines_and_losses():
    text = (
        "# ========\n# captured on: Sun Oct 25\n#\n"
        "tree 7/7 [000] 3126.10: PERF_RECORD_COMM exec: my tree:7/7\n"
        "tree 7/7 [000] 3126.10: PERF_RECORD_FORK(8:8):(7:7)\n"
        "tree 7/7 [000] 3126.11: PERF_RECORD_LOST lost 23\n"
        "tree 7/7 [000] 3126.12: PERF_RECORD_LOST_SAMPLES lost 4\n"
        "tree 7/7 [000] 3126.13: 5 cpu-clock: \n"
        "\t117d spin+0x4 (/usr/bin/noploop)\n  spin.c:12\n"
        "\t1213 main (/usr/bin/noploop)\n  main.c:3\n"
    )
    first, second, third, sample = perf_script.records(text.splitlines(), "x")

    assert first == perf_script.Exec(7, "my tree")
    assert [second, third] == [perf_script.Lost(23), perf_script.Lost(4)]
    assert fold(sample.stack) == EXPECTED


# --- frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7f spin+0x1a (/usr/bin/noploop)", "native:noploop:spin"),
        ("d70 _start+0xffff018fd5dce000 (/usr/lib/ld-2.24.so)", "native:ld-2.24:_start"),
        ("7f [unknown] (/usr/lib/libx.so.1)", "native:libx:[unknown]"),
        ("40 [unknown] ([unknown])", "[unknown]"),
        ("7f [unknown] (//anon)", "[unknown]"),
        ("7f gettime ([vdso])", "native:[vdso]:gettime"),
        ("7f work (/usr/bin/shop (deleted))", "native:shop:work"),
        ("7f work (/opt/My App (x86)/shop)", "native:shop:work"),
        ("ffffffff81 do_syscall_64+0x5 ([kernel.kallsyms])", "kernel:do_syscall_64"),
        ("ffffffffc0123456 ext4_read ([ext4])", "kernel:ext4_read"),
        ("ffffffffc0 nf_hook (/lib/modules/6.1/nf.ko.xz)", "kernel:nf_hook"),
        ("ffffffff81000000 [unknown] ([unknown])", "kernel:[unknown]"),
        ("ffffffff81 x (/usr/lib/debug/boot/vmlinux-6.1)", "kernel:x"),
        ("7f a::b(int, char) const (/usr/bin/shop)", "native:shop:a::b(int, char) const"),
        ("7f operator()(int) (/usr/bin/shop)", "native:shop:operator()(int)"),
        ("7f (anonymous namespace)::f (/usr/bin/shop)", "native:shop:(anonymous namespace)::f"),
        ("7f int Hot.leafA(int) (/tmp/perf-12.map)", "jit:int Hot.leafA(int)"),
        ("7f LazyCompile:*add /app/x.js:12 (/tmp/perf-12.map)", "jit:LazyCompile:add /app/x.js"),
        ("7f JS:~add /app/x.js:12:7 (/tmp/perf-12.map)", "jit:JS:add /app/x.js"),
        ("7f JS:^add /app/x.js:12:7 (/tmp/perf-12.map)", "jit:JS:add /app/x.js"),
        ("7f Lio/netty/Loop;::run (/tmp/perf-12.map)", "jit:io/netty/Loop::run"),
        ("7f py::G.f:/v/site-packages/shop/parser.py (/tmp/perf-12.map)", "shop.parser:G.f"),
        ("7f f (/tmp/.debug/jit/x/jitted-12-3.so)", "jit:f"),
    ],
)
def test_frame(line, expected):
    assert fold(only(f"dd 9 1.5: 5 cpu-clock: \n\t{line}\n").stack) == expected


def test_inlined_frame_is_in_its_callers_library():
    text = (
        "dd 9 1.5: 5 cpu-clock: \n\t7f inner (inlined)\n\t7f outer (/usr/bin/a)\n"
        "\t7e main (/usr/bin/b)\n"
    )

    assert fold(only(text).stack) == "native:b:main;native:a:outer;native:a:inner"


# --- a profile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "unit", "value"),
    [
        ("dd 9 1.5: 250 cpu-clock:u: ", Unit.NANOSECONDS, 500),
        ("dd 9 1.5: 250 task-clock: ", Unit.NANOSECONDS, 500),
        ("dd 9 1.5: cpu-clock: ", Unit.SAMPLES, 2),
        ("dd 9 1.5: 250 cycles: ", Unit.SAMPLES, 2),
    ],
)
def test_only_clocks_with_periods_weigh_in_time(header, unit, value):
    profile = perf_script.read(f"{header}\n{STACK}\n{header}\n{STACK}\n".splitlines(), "x")

    assert (profile.unit, profile.samples, profile.value) == (unit, 2, value)
    assert [fold(stack) for stack in profile.stacks] == [f"[dd];{EXPECTED}"]


def test_several_events_have_to_be_chosen_from():
    path = DATA / "flamegraph" / "perf-cycles-instructions-01.txt"
    lines = path.read_text(encoding="utf-8").splitlines()

    with pytest.raises(FormatError, match="samples of several events: cycles, instructions"):
        perf_script.read(lines, "x")
    cycles, instructions = (
        perf_script.read(lines, "x", event=event) for event in ("cycles", "instructions")
    )
    assert cycles.samples + instructions.samples == len(samples("\n".join(lines)))
    with pytest.raises(FormatError, match="no sample of branches\n  hint: samples are of: c"):
        perf_script.read(lines, "x", event="branches")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "a;b 12\n", "\x1f\x8bbinary", "{}"])
def test_what_is_not_perf_is_not_recognised(text):
    with pytest.raises(UnrecognisedError):
        perf_script.read(text.splitlines(), "x")


def test_a_period_that_no_counter_holds_is_no_weight():
    text = f"shop 7/7 [000] 3126.11: {'9' * 340} cpu-clock: \n\t 1800 f (x)\n\n"

    assert perf_script.read(text.split("\n"), "x").value <= 1


def test_garbage_after_a_sample_is_refused_with_its_line():
    text = f"dd 9 1.5: 5 cpu-clock: \n{STACK}this is something else\n"

    with pytest.raises(FormatError, match=r"^x:4: not a line of `perf script`: 'this is some"):
        perf_script.read(text.splitlines(), "x")


def test_frame_whose_parentheses_do_not_match_is_refused():
    with pytest.raises(FormatError, match=r"^x:2: not a frame: 'f\) b\)'"):
        samples("dd 9 1.5: 5 cpu-clock: \n\t7f f) b)\n")


def test_line_and_depth_are_limited():
    header = "dd 9 1.5: 5 cpu-clock: \n"
    frame = "\t7f f (/usr/bin/a)\n"
    assert len(only(header + frame * perf_script.MAX_DEPTH).stack) == perf_script.MAX_DEPTH

    with pytest.raises(FormatError, match=r"^x:4098: a stack of more than 4096 frames, the limit"):
        samples(header + frame * (perf_script.MAX_DEPTH + 1))
    name = "f" * (perf_script.MAX_LINE - len(frame) + 2)
    assert only(f"{header}\t7f {name} (/usr/bin/a)").stack[0].function == name
    with pytest.raises(FormatError, match=r"^x:2: 65537 characters; the limit is 65536"):
        samples(f"{header}\t7f {name}f (/usr/bin/a)")


def test_reading_is_a_stream():
    """Records come before the input ends, so that memory does not grow with it."""

    def lines():
        yield "dd 9 1.5: 5 cpu-clock: "
        yield "\t7f f (/usr/bin/a)"
        yield ""
        pytest.fail("read further than the first sample")

    first = next(perf_script.records(lines(), "x"))

    assert first.stack == (Frame("f", "a", Kind.NATIVE),)
    assert first.stack != (UNKNOWN,)
