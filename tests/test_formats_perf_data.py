"""perf.data read directly: the same stacks as perf script's, and every broken file refused."""

import subprocess
from pathlib import Path

import pytest
from perf_recordings import agreement, mapped, ours, perfs, record

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats import perf_data
from ci_flame.profile import Unit

DATA = Path(__file__).parent / "data" / "perf_data"
ENOUGH = 0.995


@pytest.fixture(scope="module")
def cpp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    program = folder / "shop"
    command = ["c++", "-O1", "-fno-omit-frame-pointer", "-o", str(program), str(DATA / "shop.cpp")]
    subprocess.run(command, check=True)
    return record(folder / "perf.data", str(program), "100000")


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


def test_what_is_no_perf_data_is_not_recognised():
    with pytest.raises(UnrecognisedError, match=r"x: not a perf\.data file"):
        perf_data.read(b"PK\3\4", "x")


def test_every_cut_is_refused_with_its_place(cpp):
    whole = cpp.read_bytes()
    for cut in [8, 15, 50, 103, 104, 200, len(whole) // 2, len(whole) - 1]:
        with pytest.raises(FormatError, match=r"offset|half-written"):
            perf_data.read(whole[:cut], "cut.data")


def test_mapped_file_reads_like_its_bytes(cpp):
    one, other = perf_data.read(mapped(cpp), "x"), perf_data.read(cpp.read_bytes(), "x")

    assert one.events == other.events
    assert one.tasks == other.tasks
    assert one.samples.time.tolist() == other.samples.time.tolist()
