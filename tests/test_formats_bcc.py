"""bcc's profile and offcputime: both forms are read, what is cut off is refused."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.errors import CiFlameError, FormatError, UnrecognisedError
from ci_flame.formats import bcc, folded
from ci_flame.profile import Mode, fold

DATA = Path(__file__).parent / "data" / "bcc"
WHO = "    -                dd (4711)\n"


@pytest.mark.parametrize("name", ["profile.txt", "offcputime.txt", "profile.folded"])
def test_samples_give_their_golden_stacks(name):
    printed = bcc.read((DATA / name).read_text(), name)
    golden = DATA / f"{name.replace('.', '-')}.expected"

    assert folded.write(printed.profile) == golden.read_text()


def test_the_header_tells_what_the_numbers_are():
    on, off, bare = (
        bcc.read((DATA / name).read_text(), name)
        for name in ("profile.txt", "offcputime.txt", "profile.folded")
    )

    assert (on.mode, on.frequency_hz) == (Mode.ON_CPU, 99)
    assert (off.mode, off.frequency_hz) == (Mode.OFF_CPU, 0)
    assert (bare.mode, bare.frequency_hz) == (Mode.ON_CPU, 0)


def test_stacks_that_could_not_be_shown_are_counted():
    text = f"    f\n{WHO}        3\n\nWARNING: 7 stack traces could not be displayed.\n"

    assert bcc.read(text, "x").missed == 7


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (["g", "main"], "main;g"),
        (["vfs_read_[k]", "do_it_[k]", "main"], "main;kernel:do_it;kernel:vfs_read"),
        (["vfs_read+0x10", "ret_from_fork+0x1f"], "kernel:ret_from_fork;kernel:vfs_read"),
        (["a", "--", "b"], "b;kernel:a"),
        (["f(int) [libshop.so]", "main [shop]"], "native:shop:main;native:libshop:f(int)"),
        (["vfs_read [kernel]", "--", "main"], "main;kernel:vfs_read"),
        (["[unknown]"], "[unknown]"),
        (["[unknown] [libc.so.6]"], "native:libc:[unknown]"),
        (["7f2b40123456     read"], "read"),
    ],
)
def test_stacks(frames, expected):
    text = "".join(f"    {each}\n" for each in frames) + WHO + "        3\n"
    ((stack, weight),) = bcc.read(text, "x").profile.stacks.items()

    assert (fold(stack), weight.samples) == (f"[dd];{expected}", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("    f\n", "x:1: truncated: a stack that no count ends"),
        (f"    f\n{WHO}", "x:1: truncated: a stack that no count ends"),
        (f"    f\n{WHO}\n", "x:3: '' stands where the count of 'dd' was expected"),
        (f"    f\n{WHO}        3\n    g\n\n", "x:5: '' stands where a stack goes on"),
        (f"    f\n{WHO}        3", "x:3: truncated: the last line has no end"),
        (f"    f\n{WHO}        {'9' * 19}\n", "x:3: a number of 19 digits; the limit is 18"),
    ],
)
def test_broken_output_is_refused_with_its_line(text, message):
    with pytest.raises(FormatError) as caught:
        bcc.read(text, "x")

    assert caught.value.message == message


@pytest.mark.parametrize("text", ["", "hello\n", "@[\n"])
def test_what_is_not_bcc_is_not_recognised(text):
    with pytest.raises(UnrecognisedError):
        bcc.read(text, "x")
    assert not bcc.is_output(text)


@pytest.mark.parametrize("deep", [3, 4])
def test_depth_is_limited(monkeypatch, deep):
    monkeypatch.setattr(bcc, "MAX_DEPTH", 3)
    text = "    f\n" * deep + WHO + "        3\n"
    lines = f"a;{'f;' * (deep - 2)}g 3\n"

    if deep == 4:
        with pytest.raises(FormatError, match="x:4: a stack of more than 3 frames"):
            bcc.read(text, "x")
        with pytest.raises(FormatError, match="x:1: 4 frames; the limit is 3"):
            bcc.read(lines, "x")
        return
    assert bcc.read(lines, "x").profile.samples == 3


def test_sizes_are_limited(monkeypatch):
    monkeypatch.setattr(bcc, "MAX_LINE", 3)
    with pytest.raises(FormatError, match="x:1: 4 characters; the limit is 3"):
        bcc.read("a 12\n", "x")
    assert bcc.read("a 1\n", "x").profile.samples == 1

    monkeypatch.setattr(bcc, "MAX_LINES", 2)
    with pytest.raises(FormatError, match="x: 3 lines; the limit is 2"):
        bcc.read("a 1\nb 1\n", "x")


NAMES = st.lists(st.from_regex(r"[a-z_:]{1,6}", fullmatch=True), max_size=5)


@given(st.lists(st.tuples(NAMES, NAMES, st.integers(1, 10**6)), min_size=1, max_size=6))
def test_every_sample_is_kept(entries):
    text = "".join(
        "".join(f"    {each}\n" for each in [*kernel, "--", *user]) + f"{WHO}        {count}\n\n"
        for kernel, user, count in entries
    )

    assert bcc.read(text, "x").profile.samples == sum(count for _, _, count in entries)


@given(st.data())
def test_mutilated_output_is_read_or_refused(data):
    text = (DATA / data.draw(st.sampled_from(["profile.txt", "offcputime.txt"]))).read_text()
    at = data.draw(st.integers(0, len(text)))
    broken = text[:at] + data.draw(st.text(max_size=4)) + text[at : data.draw(st.integers(0, 900))]
    with suppress(CiFlameError):
        bcc.read(broken, "x")
