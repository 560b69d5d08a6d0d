"""Formats are told by what is in a file, and what fits none is not guessed at."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SHOP, synthetic_measurement

from ci_flame.formats import folded, pprof
from ci_flame.formats.sniff import FORMATS, LOOKED_AT, sniff
from ci_flame.profile import Mode

DATA = Path(__file__).parent / "data"
MEASURED = synthetic_measurement(SHOP)
PPROF = gzip.decompress(pprof.write(MEASURED, Mode.ON_CPU))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"PERFILE2" + bytes(100), "perf-data"),
        ((DATA / "perf_script" / "tree.txt").read_bytes(), "perf-script"),
        ((DATA / "bpftrace" / "stacks.txt").read_bytes(), "bpftrace"),
        ((DATA / "bpftrace" / "stacks.json").read_bytes(), "bpftrace"),
        ((DATA / "bpftrace" / "kstack-ustack-comm.json").read_bytes(), "bpftrace"),
        ((DATA / "bcc" / "profile.txt").read_bytes(), "bcc"),
        ((DATA / "bcc" / "offcputime.txt").read_bytes(), "bcc"),
        ((DATA / "bcc" / "profile.folded").read_bytes(), "folded"),
        (folded.write(MEASURED.profile()).encode(), "folded"),
        (b"std::f(int, char);g 3\r\n\r\nmain 4\r\n", "folded"),
        (gzip.decompress(pprof.write(MEASURED, Mode.ON_CPU)), "pprof"),
        (PPROF.replace(b"\0", b"\1"), "pprof"),  # a large one has no zero byte for long
        (PPROF.replace(b"\0", b"\1")[:12], ""),
        (b"\nmain;f 3\n" * 40, "folded"),
        (b"main;f 3\nnot folded\n", ""),
        (b"", ""),
        (b"hello\n", ""),
        (b"\x7fELF\0\0\0\0", ""),
        (b'{"frames": []}', ""),
        ("é".encode("latin-1") + b";f 3\n", "folded"),
    ],
)
def test_contents(data, expected):
    assert sniff(data) == expected


def test_all_samples_of_perf_script_are_recognised():
    for path in sorted((DATA / "perf_script" / "flamegraph").glob("*.txt")):
        assert sniff(path.read_bytes()) == "perf-script", path.name


def test_a_long_file_is_told_by_its_beginning():
    """The piece that is looked at ends within a line."""
    line = b"main;f 1234567\n"
    data = line * (LOOKED_AT // len(line) + 2)

    assert LOOKED_AT % len(line)
    assert sniff(data) == "folded"


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data):
    assert sniff(data) in {"", *FORMATS}
