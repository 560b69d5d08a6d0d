"""Where CPython keeps its frames, by version; and the records that carry them."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.collect.ebpf import cpython
from ci_flame.collect.ebpf.names import Names
from ci_flame.collect.ebpf.records import (
    CODE,
    FLAG_GC,
    FLAG_PYTHON,
    FLAG_TRUNCATED,
    SAMPLE,
    STACK,
    STRING,
    unpack_string,
)
from ci_flame.symbols.native import AddressSpace, NativeNames

RUNTIME = 0x10_0000


def debug_offsets(version=0x030D00F0, free_threaded=0, unicode=(64, 32, 16, 40), gc=(232, 200)):
    """Return the bytes of `_Py_DebugOffsets` with every field its own number."""
    minor = version >> 16 & 0xFF
    raw = b"xdebugpy" + struct.pack("<QQ", version, free_threaded)
    number = 1000
    for _, fields in cpython._GROUPS.get(minor, cpython._GROUPS[13]):
        raw += struct.pack(f"<{len(fields)}Q", *range(number, number + len(fields)))
        number += 100
    # The groups that differ between versions; list_object ends like unicode_object begins.
    raw += struct.pack("<9Q", *range(5000, 5006), 32, 16, 40)
    raw += struct.pack("<4Q", *unicode) + (struct.pack("<Q", 56) if minor == 15 else b"")
    return (raw + struct.pack("<2Q", *gc)).ljust(2048, b"\0")


@pytest.mark.parametrize(
    ("version", "gc_state", "thread_native_id", "frame"),
    [
        (0x030D00F0, 1104, 1206, 1300),
        (0x030E08F0, 1105, 1206, 1300),
        (0x030F02F0, 1105, 1209, 1400),
        (0x030F00C1, 1105, 1209, 1400),  # a release candidate is the release's
    ],
)
def test_debug_offsets_by_version(version, gc_state, thread_native_id, frame):
    layout = cpython.parse_debug_offsets(debug_offsets(version), RUNTIME)

    assert layout.interpreters == RUNTIME + 1002
    assert layout.interpreter_threads == 1103
    assert layout.interpreter_collecting == gc_state + 200
    assert layout.thread_native_id == thread_native_id
    assert (layout.frame_previous, layout.frame_code) == (frame + 1, frame + 2)
    assert layout.frame_owner == frame + 5
    assert layout.code_qualname == frame + 103
    assert layout.thread_cframe == cpython.NO_FIELD
    assert len(cpython.EMPTY) == 80


def test_the_c_structure_and_what_does_not_fit_it():
    for minor, table in cpython._TABLES.items():
        layout = cpython.Layout(**table)
        words = struct.unpack("<Q18I", layout.pack())
        assert words[13] == {11: 72, 12: 64}[minor], "where the copy of a code object begins"
        assert words[14] - words[13] + 8 <= 72
        assert words[16] == table["code_line"]
    fits = {**cpython._TABLES[12], "code_qualname": 64 + 72 - 8}
    assert len(cpython.Layout(**fits).pack()) == len(cpython.EMPTY)
    for field, value in (("code_qualname", 64 + 72 - 7), ("frame_owner", 80)):
        with pytest.raises(cpython.UnsupportedPythonError, match="in another way"):
            cpython.Layout(**{**cpython._TABLES[12], field: value}).pack()


@pytest.mark.parametrize(
    ("version", "free_threaded", "words"),
    [
        (0x031000F0, 0, "CPython 3.16.0 is not supported; 3.11 to 3.15 are"),
        (0x030E00A7, 0, "CPython 3.14.0a7 is not supported"),
        (0x030E00B4, 0, "CPython 3.14.0b4 is not supported"),
        (0x040000F0, 0, "CPython 4.0.0 is not supported"),
        (0x030D01F0, 1, "CPython 3.13.1 is a free-threaded build"),
    ],
)
def test_what_cannot_be_walked_is_refused_by_name(version, free_threaded, words):
    with pytest.raises(cpython.UnsupportedPythonError, match=words):
        cpython.parse_debug_offsets(debug_offsets(version, free_threaded), RUNTIME)


def test_without_the_group_of_the_garbage_collector_it_is_left_out():
    raw = debug_offsets(unicode=(64, 31, 16, 40))
    assert cpython.parse_debug_offsets(raw, RUNTIME).interpreter_collecting == cpython.NO_FIELD
    raw = debug_offsets(gc=(100, 200))
    assert cpython.parse_debug_offsets(raw, RUNTIME).interpreter_collecting == cpython.NO_FIELD


@pytest.mark.parametrize(
    ("version", "name"),
    [(0x030B07F0, "3.11.7"), (0x030E00C2, "3.14.0rc2"), (0x030F00A1, "3.15.0a1")],
)
def test_version_name(version, name):
    assert cpython.version_name(version) == name


def test_this_very_interpreter_is_found():
    layout = cpython.find_python(os.getpid(), NativeNames())

    assert layout.version == ".".join(map(str, sys.version_info[:3]))
    assert layout.interpreter_collecting != cpython.NO_FIELD


PYTHONS = [
    path
    for minor in (12, 13, 14, 15)
    for path in sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}"))[:1]
]


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.name)
def test_the_interpreters_of_this_machine_are_found(python):
    code = "import sys; print(sys.version.split()[0], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [python, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        version = process.stdout.readline().strip()
        layout = cpython.find_python(process.pid, NativeNames())

    assert layout.version == version
    assert layout.interpreter_collecting != cpython.NO_FIELD


OLD = next(iter(sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))), None)


@pytest.mark.skipif(OLD is None, reason="no CPython 3.10 is installed here")
def test_an_old_cpython_is_refused_by_name():
    code = "import sys; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [OLD, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(cpython.UnsupportedPythonError, match=r"older than 3\.11"):
            cpython.find_python(process.pid, NativeNames())
        process.stdin.close()


def test_a_process_without_python_has_no_layout():
    with subprocess.Popen(["sleep", "30"]) as process:
        try:
            assert cpython.find_python(process.pid, NativeNames()) is None
        finally:
            process.kill()
    assert cpython.find_python(process.pid, NativeNames()) is None


ASCII, LATIN, WIDE, WIDEST = (
    kind << 2 | 0x20 | mark for kind, mark in ((1, 0x40), (1, 0), (2, 0), (4, 0))
)


def string(key, state, length, raw):
    return struct.pack("<IIQQ", STRING, state, key, length) + raw


@pytest.mark.parametrize(
    ("state", "length", "raw", "text"),
    [
        (ASCII, 3, b"abc", "abc"),
        (LATIN, 1, b"\xe9", "é"),
        (WIDE, 2, "λx".encode("utf-16-le"), "λx"),
        (WIDEST, 1, "😀".encode("utf-32-le"), "😀"),
        (ASCII, 9000, b"a" * 8191, "a" * 8191),  # cut by the program
        (WIDE, 5000, b"\xbb\x03" * 4095 + b"\xbb", "λ" * 4095),  # cut inside a character
        (WIDE, 1, b"\x80\xdc", "\\udc80"),  # an undecodable byte of a file name
        (0, 3, b"abc", ""),
        (ASCII, 0, b"", ""),
    ],
)
def test_strings_of_every_kind(state, length, raw, text):
    assert unpack_string(string(7, state, length, raw)) == (7, text)


@given(st.text(max_size=50))
def test_every_string_comes_back(text):
    widest = max(map(ord, text), default=0)
    kind, encoding = (
        (1, "latin-1") if widest < 256 else (2, "utf-16-le") if widest < 65536 else (4, "utf-32-le")
    )
    raw = text.encode(encoding, "surrogatepass") if kind > 1 else text.encode(encoding)

    assert unpack_string(string(1, kind << 2, len(text), raw))[1] == text


class Image:
    pid = 0
    space = AddressSpace()


def place(*, flags=FLAG_PYTHON, phase=1, stack=0, address=0, kernel=()):
    head = struct.pack("<I5Q", flags, phase, 1, stack, address, len(kernel))
    return head + struct.pack(f"<{len(kernel)}Q", *kernel)


@pytest.fixture
def names():
    tables = Names(NativeNames())
    tables.add_string(string(1, ASCII, 5, b"outer"))
    tables.add_string(string(2, ASCII, 7, b"in;ner\n"))
    tables.add_string(string(3, ASCII, 7, b"/p/a.py"))
    tables.add_code(struct.pack("<IIQQQ", CODE, 4, 11, 1, 3))
    tables.add_code(struct.pack("<IIQQQ", CODE, 9, 12, 2, 3))
    # innermost first, with the empty slot of an entry frame of C
    tables.add_stack(struct.pack("<IIQ3Q", STACK, 3, 100, 12, 0, 11))
    tables.add_stack(struct.pack("<IIQ1Q", STACK, 1, 101, 999))
    return tables


def folded(reply):
    frames = [f"{module}:{name}" if module else name for _, module, name, _, _ in reply["frames"]]
    return {
        (phase, ";".join(frames[i] for i in reply["stacks"][stack])): count
        for phase, stack, count in reply["samples"]
    }


@pytest.mark.parametrize(
    ("sample", "stack"),
    [
        (place(stack=100), "outer;in,ner "),
        (place(stack=100, address=5), "outer;in,ner ;[unknown]:[unknown]"),
        (
            place(stack=100, flags=FLAG_PYTHON | FLAG_GC, address=5),
            "outer;in,ner ;[gc];[unknown]:[unknown]",
        ),
        (place(stack=100, flags=FLAG_PYTHON | FLAG_TRUNCATED), "[truncated];outer;in,ner "),
        (place(stack=101), "[unknown]"),  # its code object was lost
        (place(stack=555), "[unknown]"),  # the stack itself was lost
        (place(), "[unknown]"),  # nothing is known
        (place(address=5), "[unknown]:[unknown]"),
    ],
)
def test_stacks_are_built_outermost_first(names, sample, stack):
    reply = names.reply({sample: 3}, {}, {1: Image})

    assert folded(reply) == {(1, stack): 3}


def test_shortcomings_are_counted_by_phase(names):
    counts = {
        place(stack=100): 5,
        place(stack=100, phase=2, flags=FLAG_PYTHON | FLAG_TRUNCATED): 2,
        place(phase=2): 3,
        place(phase=3, flags=0): 4,  # not a Python process
    }
    reply = names.reply(counts, {}, {1: Image})

    assert reply["truncated"] == {2: 2}
    assert reply["no_python"] == {2: 3}
    assert sum(count for *_, count in reply["samples"]) == 14


@given(st.lists(st.binary(min_size=64, max_size=120), max_size=5))
def test_records_of_any_content_make_frames_and_no_error(blobs):
    tables = Names(NativeNames())
    for blob in blobs:
        tables.add_stack(blob)
        tables.add_code(blob)
        tables.add_string(blob)
    counts = {place(stack=int.from_bytes(blob[8:16], "little")): 1 for blob in blobs}
    reply = tables.reply(counts, {}, {})

    assert sum(count for *_, count in reply["samples"]) == len(counts)
    assert SAMPLE == 1
