"""bpftrace's text and JSON: every sample is kept, both say the same, what is broken is refused."""

import gzip
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.errors import CiFlameError, FormatError, UnrecognisedError
from ci_flame.formats import bpftrace, bpftrace_json, bpftrace_text, folded
from ci_flame.formats.bpftrace import Buckets, Entry, Map, Output, Stats, Trace
from ci_flame.profile import Unit, fold

DATA = Path(__file__).parent / "data" / "bpftrace"


def text_of(name):
    raw = (DATA / name).read_bytes()
    return (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()


def counted(text, name=""):
    found = bpftrace.profile(bpftrace.read(text, "x"), "x", name)
    return {fold(stack): weight.samples for stack, weight in found.stacks.items()}


def one(text):
    (found,) = bpftrace.read(text, "x").maps
    return found


# -- recordings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "map_name"),
    [
        ("kstack-ustack-comm.json", ""),
        ("named-map-perf-mode.txt", ""),
        ("stacks.txt", "@perf"),
        ("stacks.json", "@plain"),
    ],
)
def test_recordings_give_their_golden_stacks(name, map_name):
    golden = DATA / f"{name.replace('.', '-')}.folded"
    profile = bpftrace.profile(bpftrace.read(text_of(name), name), name, map_name)

    assert folded.write(profile) == golden.read_text()
    assert profile.unit is Unit.SAMPLES


def test_every_sample_of_the_text_is_kept():
    """stackcollapse-bpftrace.pl keeps 613 of 1,452: without a kernel stack a key begins `@[, `."""
    text = text_of("kstack-ustack-comm.txt.gz")
    counts = [int(number) for number in re.findall(r"^.*\]: (\d+)$", text, re.MULTILINE)]
    output = bpftrace.read(text, "x")
    found = bpftrace.profile(output, "x")

    assert len(counts) == text.count("\n@[") == sum(len(each.entries) for each in output.maps)
    assert found.samples == sum(counts) == 1452
    assert sum(len(entry.key) == 3 for entry in output.maps[0].entries) == len(counts)


def test_every_sample_of_the_json_is_kept():
    text = text_of("kstack-ustack-comm.json")
    counts = [int(number) for number in re.findall(r'": (\d+)(?=[,}])', text)]

    assert sum(counts) - 2 == 602  # the first is the number of probes
    assert bpftrace.profile(bpftrace.read(text, "x"), "x").samples == 602


def test_the_shared_offsets_of_one_function_become_one_frame():
    found = counted(text_of("stacks.txt"), "@plain")

    assert set(found) == {
        "[busy];__libc_start_call_main;main;leaf_a",
        "[busy];__libc_start_call_main;main;leaf_b",
    }
    assert sum(found.values()) == sum(counted(text_of("stacks.txt"), "@us").values())


def test_text_and_json_of_one_program_say_the_same():
    text, quoted = (bpftrace.read(text_of(name), "x") for name in ("kinds.txt", "kinds.json"))

    assert text == quoted
    assert (text.probes, text.lost, len(text.maps)) == (1, 0, 16)


def test_values_of_each_kind():
    found = {each.name: each.entries for each in bpftrace.read(text_of("kinds.txt"), "x").maps}

    assert found["@below"] == (Entry((), -5),)
    assert found["@keyed"] == (Entry(("1", "a]: b"), 10), Entry(("2", "c", "d"), 10))
    assert found["@linear"] == (
        Entry((), Buckets(((None, 1, 1), (2, 3, 2), (4, 5, 2), (6, 7, 2), (8, None, 3)))),
    )
    assert found["@statistics_by"] == (Entry(("x",), Stats(10, 5, 55)),)
    assert found["@mean"] == (Entry(("y",), 5),)
    assert found["@text"] == (Entry((), "hello: 7"),)
    assert found["@texts"] == (Entry(("3",), "bye"),)
    assert found["@tuple"] == (Entry((), "(1, x)"),)


# -- keys and stacks ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "@[\n    a+1\n    b+2\n, \n    c+3\n, x]: 2\n", "[x];c;kernel:b;kernel:a",
            id="nothing tells: the first of two is the kernel's",
        ),
        pytest.param(
            "@[\n    main+1\n, \n    vfs_read+1\n    entry_SYSCALL_64_after_hwframe+118\n, x]: 2\n",
            "[x];main;kernel:entry_SYSCALL_64_after_hwframe;kernel:vfs_read",
            id="the other way round, told by names",
        ),
        pytest.param("@[\n    a+1\n    b+2\n]: 2\n", "b;a", id="only user"),
        pytest.param("@[, , bash]: 2\n", "[bash]", id="no stack at all"),
        pytest.param("@[, \n    0x7f12345678\n, x]: 2\n", "[x];[unknown]", id="address"),
        pytest.param("@[\n    [unknown]\n]: 2\n", "[unknown]", id="unknown"),
        pytest.param(
            "@[\n    std::map<int, A>::f(int, char const*) const+12\n, 4711]: 2\n",
            "std::map<int, A>::f(int, char const*) const",
            id="C++, and a pid that is no part of the stack",
        ),
        pytest.param(
            "@[\n\t7f13471ac24a f+122 (/usr/lib/x y/libc.so.6)\n]: 2\n",
            "native:libc:f", id="perf mode with a library",
        ),
        pytest.param(
            "@[\n\tffffffff816a4d8c vfs_read+60 ([ext4])\n]: 2\n", "kernel:vfs_read",
            id="perf mode, kernel module",
        ),
        pytest.param(
            "@[\n    f+21@/src/main.c:10\n    g(int) @ /src/a b.c:9 [inlined]\n]: 2\n",
            "native::g(int) @ /src/a b.c:9 [inlined];f", id="0.24, with source lines",
        ),
        pytest.param("@[\nffffffff816a4d8c\n7f13471ac24a\n]: 2\n", None, id="raw mode"),
    ],
)  # fmt: skip
def test_stacks(text, expected):
    if expected is None:
        with pytest.raises(FormatError, match="no map has a stack"):
            counted(text)
        return
    if "stack at all" in text or text.startswith("@[, , "):
        text += "@[\n    entry_SYSCALL_64_after_hwframe+1\n, , y]: 1\n"

    assert counted(text)[expected] == 2


def test_newer_json_has_no_blanks_in_keys():
    """From 0.23 on: `(1, 2)` as a key is `1,2`, and frames are not indented."""
    new = '{"type": "map", "data": {"@": {"\\nf+1\\nmain+2\\n,my prog": 3}}}\n'
    old = '{"type": "map", "data": {"@": {"\\n    f+1\\n    main+2\\n,my prog": 3}}}\n'

    assert one(new) == one(old) == Map("@", (Entry((Trace(("f+1", "main+2")), "my prog"), 3),))


def test_keys_that_are_equal_are_all_kept():
    """The same names at other addresses; a JSON reader that keeps the last would lose 3 of 7."""
    quoted = '{"type": "map", "data": {"@": {"\\n    f+1\\n,x": 3, "\\n    f+1\\n,x": 4}}}'
    text = "@[\n    f+1\n, x]: 3\n@[\n    f+1\n, x]: 4\n"

    assert counted(quoted) == counted(text) == {"[x];f": 7}
    assert len(one(quoted).entries) == 2


def test_sums_and_statistics_weigh_what_they_say():
    text = "@us[\n    f+1\n, x]: count 4, average 25, total 100\n"
    ((stack, weight),) = bpftrace.profile(bpftrace.read(text, "x"), "x").stacks.items()

    assert (fold(stack), weight.samples, weight.value) == ("[x];f", 4, 100)


def test_several_stack_maps_need_a_name():
    text = "@a[\n    f+1\n]: 3\n@b[\n    g+1\n]: 4\n@c: 4\n"
    output = bpftrace.read(text, "out")

    assert bpftrace.stack_maps(output) == ("@a", "@b")
    assert counted(text, "@b") == {"g": 4}
    with pytest.raises(FormatError, match=r"out: 2 stack maps\n  hint: --map takes.*: @a, @b"):
        bpftrace.profile(output, "out")
    with pytest.raises(FormatError, match="out: no stack map @c"):
        bpftrace.profile(output, "out", "@c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@[comm]: 5\n", r"no map has a stack in its key \(maps: @\)"),
        ("@[\n    f+1\n]: -5\n", "@: -5 for a stack"),
        ("@[\n    f+1\n]: many\n", "'many' is not a number|truncated"),
    ],
)
def test_what_is_no_profile_is_said(text, message):
    with pytest.raises(FormatError, match=message):
        counted(text)


# -- around the maps ------------------------------------------------------------------


def test_lost_events_and_notes():
    text = "Attaching 3 probes...\nLost 12 events\nhello\n@a: 1\n@b: 2\n@a: 3\nLost 5 events\n"
    quoted = (
        '{"type": "attached_probes", "data": {"probes": 3}}\n'
        '{"type": "lost_events", "data": {"events": 12}}\n{"type":"lost_events", "count":5}\n'
        '{"type": "map", "data": {"@a": 1}}\n{"type": "map", "data": {"@b": 2}}\n'
        '{"type": "map", "data": {"@a": 3}}\n{"type": "something new", "data": 1}\n'
    )

    assert bpftrace.read(text, "x") == bpftrace.read(quoted, "x")
    assert bpftrace.read(text, "x").lost == 17
    assert bpftrace.read(text, "x").notes == (
        "@a was printed 2 times and is added up: right only if the program clears it",
    )


def test_a_newer_version_counts_its_probes_elsewhere():
    assert bpftrace.read('{"type":"attached_probes", "count":4}\n', "x").probes == 4


def test_metrics():
    output = bpftrace.read(text_of("kinds.json"), "x")
    found, told = bpftrace.metrics(output, "bpftrace.kinds", 50)

    assert found["bpftrace.kinds.@calls"] == 10
    assert found["bpftrace.kinds.@keyed[1,a]: b]"] == 10
    assert found["bpftrace.kinds.@power.p50"] == 31
    assert found["bpftrace.kinds.@power.p99"] == 127
    assert found["bpftrace.kinds.@power_by[x].count"] == 10
    assert found["bpftrace.kinds.@statistics.avg"] == 5
    assert found["bpftrace.kinds.@statistics_by[x].total"] == 55
    assert told == 3  # @text, @texts, @tuple


def test_metrics_keep_the_largest_keys():
    output = bpftrace.read("".join(f"@[k{n}]: {n}\n" for n in range(1, 6)), "x")
    found, told = bpftrace.metrics(output, "p", 2)

    assert found == {"p.@[k5]": 5.0, "p.@[k4]": 4.0}
    assert told == 3
    assert bpftrace.metrics(output, "p", 5)[1] == 0


@pytest.mark.parametrize(
    ("rows", "share", "expected"),
    [
        (((0, 0, 1), (1, 1, 0), (2, 3, 9)), 0.1, 0),
        (((0, 0, 1), (1, 1, 0), (2, 3, 9)), 0.11, 3),
        (((None, 1, 1), (2, None, 1)), 0.5, 1),
        (((None, 1, 1), (2, None, 1)), 0.51, 2),
        ((), 0.5, 0),
    ],
)
def test_percentiles(rows, share, expected):
    assert Buckets(rows).percentile(share) == expected


# -- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Attaching 1 probe...\n@[\n    f+1\n", "x:2: truncated: '@\\[' begins a key"),
        ("@[\n    f+1\n, comm]: 1", "x:3: truncated: the last line has no end"),
        ("@[a]: 7\nb, 1]: 302\n", "x:2: 'b, 1\\]: 302' may end the key that begins on line 1"),
        ("@a: " + "9" * 21 + "\n", "x:1: a number of 21 digits; the limit is 20"),
        ("@h:\nnothing of a histogram\n", "x:1: neither a number nor rows"),
        ('{"type": "map", "data": {"@": {"a": 1', "x:1: truncated: "),
        ('{"type": "map", "data": {"@": 1}}\n{"type": "map', "x:2: truncated: "),
        ('{"type": "map"}', 'x:1: "map" without a map'),
        (
            '{"type": "map", "data": {"@": 1}}\n7',
            "x:2: not a document of bpftrace: '7'\n  hint: bpftrace -o FILE",
        ),
        ('{"type": "map", "data": {"@": 1}}\n{}', 'x:2: a document with no "type"'),
        ('{"type": "hist", "data": {"@": [{"min": 1, "count": -4}]}}', "a bucket of -4 values"),
        ('{"type": "hist", "data": {"@": [{"min": "z", "count": 4}]}}', "'z' is not a whole"),
        ('{"type": "map", "data": ' + "[" * 100_000, "nested too deeply|truncated"),
        ('{"type": "map", "data": {"@": ' + "9" * 5000 + "}}", "not JSON of bpftrace"),
        ('{"type": "map", "data": {"@": 18446744073709551616}}', "a number of more than 64 bits"),
        ('{"type": "map", "data": {"@": ' + "9" * 401 + "}}", "a number of more than 64 bits"),
    ],
)
def test_broken_input_is_refused_with_its_line(text, message):
    with pytest.raises(FormatError, match=message):
        bpftrace.read(text, "x")


@pytest.mark.parametrize(
    "text", ["", "hello\n", "main;f 12\n", "{}", "[1]", '{"a": 1}', '{"type": "x"}', "{"]
)
def test_what_is_not_bpftrace_is_not_recognised(text):
    with pytest.raises(UnrecognisedError):
        bpftrace.read(text, "x")
    assert not bpftrace.is_output(text)


def test_a_key_may_have_line_breaks():
    """One reading is left: the value follows the last line, and a blank line ends the entry."""
    assert one("@n[a\nb, 1]: 302\n\nhello\n").entries == (Entry(("a\nb", "1"), 302),)


@pytest.mark.parametrize(
    ("module", "name", "text", "message"),
    [
        (bpftrace, "MAX_TEXT", "@: 1\n", "5 characters; the limit is 4"),
        (bpftrace_text, "MAX_LINE", "@: 1\n", "x:1: 4 characters; the limit is 3"),
        (bpftrace_text, "MAX_ENTRIES", "@: 1\n@a: 1\n@b: 1\n", "more than 2 entries"),
        (bpftrace_text, "MAX_ENTRY_LINES", "@[\n  f\n  g\n]: 1\n", "more than 3 lines"),
        (bpftrace_json, "MAX_ENTRIES", '{"type":"map","data":{"@":{"a":1,"b":1}}}', "than 1 entr"),
        (bpftrace_json, "MAX_RECORDS", '{"type":"time","data":"1"}' * 3, "than 2 documents"),
        (bpftrace, "MAX_DEPTH", "@[\n    f\n    g\n]: 1\n", "2 frames; the limit is 1"),
    ],
)
def test_limits(monkeypatch, module, name, text, message):
    limit = {"MAX_TEXT": 4, "MAX_LINE": 3, "MAX_ENTRY_LINES": 3, "MAX_DEPTH": 1, "MAX_RECORDS": 2}
    limit = limit.get(name, 2 if module is bpftrace_text else 1)
    monkeypatch.setattr(module, name, limit)

    def read():
        output = bpftrace.read(text, "x")
        return bpftrace.profile(output, "x") if name == "MAX_DEPTH" else output

    with pytest.raises(FormatError, match=message):
        read()
    monkeypatch.setattr(module, name, limit + (2 if name == "MAX_ENTRY_LINES" else 1))

    assert read()


# -- properties -----------------------------------------------------------------------

WORD = st.from_regex(r"[a-zA-Z_~é][a-zA-Z_<>:~() é]{0,6}[a-zA-Z_>é]", fullmatch=True)
FRAME = st.builds("{}+{}".format, WORD, st.integers(0, 999))
STACK = st.lists(FRAME, max_size=4)
ENTRIES = st.lists(st.tuples(STACK, STACK, WORD, st.integers(1, 10**6)), min_size=1, max_size=8)


def printed_text(entries):
    def stack(frames):
        return "\n" + "".join(f"    {each}\n" for each in frames) if frames else ""

    return "Attaching 1 probe...\n\n\n" + "".join(
        f"@[{stack(kernel)}, {stack(user)}, {comm}]: {count}\n"
        for kernel, user, comm, count in entries
    )


def printed_json(entries):
    def stack(frames):
        return "\n" + "".join(f"    {each}\n" for each in frames) if frames else ""

    pairs = ", ".join(
        f"{json.dumps(f'{stack(kernel)},{stack(user)},{comm}')}: {count}"
        for kernel, user, comm, count in entries
    )
    return f'{{"type": "map", "data": {{"@": {{{pairs}}}}}}}\n'


@given(ENTRIES)
def test_nothing_is_lost(entries):
    output = bpftrace.read(printed_text(entries), "x")

    assert output.maps == bpftrace.read(printed_json(entries), "x").maps
    assert output.maps[0].entries == tuple(
        Entry((Trace(tuple(kernel)), Trace(tuple(user)), comm), count)
        for kernel, user, comm, count in entries
    )
    assert bpftrace.profile(output, "x").samples == sum(each[-1] for each in entries)


@given(st.data())
def test_mutilated_output_is_read_or_refused(data):
    name = data.draw(st.sampled_from(["kinds.txt", "kinds.json", "stacks.txt", "stacks.json"]))
    text = text_of(name)
    cut = data.draw(st.integers(0, len(text)))
    at = data.draw(st.integers(0, len(text)))
    broken = text[:at] + data.draw(st.text(max_size=4)) + text[at:cut]
    with suppress(CiFlameError):
        output = bpftrace.read(broken, "x")
        bpftrace.metrics(output, "p", 5)
        bpftrace.profile(output, "x", "@plain")


@given(st.text(st.sampled_from('@[]: \n\t,{}"type1map.(K|)')), st.sampled_from(["", "@["]))
def test_hostile_text(text, begin):
    with suppress(CiFlameError):
        assert isinstance(bpftrace.read(begin + text, "x"), Output)
