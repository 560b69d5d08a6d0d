"""The names of functions: short to read, and never those of another one."""

import pytest
from hypothesis import given
from strategies import frames

from ci_flame.formats import folded
from ci_flame.policy import matches_frame
from ci_flame.profile import Profile, Unit, Weight
from ci_flame.profile.frame import Frame, Kind


@given(frames())
def test_every_name_reads_back_as_its_frame(frame):
    assert Frame.parse(str(frame)) == frame


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (Frame("Grammar.compile", "shop.parser"), "shop.parser:Grammar.compile"),
        (Frame("f"), ":f"),
        (Frame("read", "libc", Kind.NATIVE), "native:libc:read"),
        (Frame("std::sort", "libx", Kind.NATIVE), "native:libx:std::sort"),
        (Frame("mix", "", Kind.NATIVE), "mix"),
        (Frame("std::sort<int>", "", Kind.NATIVE), "std::sort<int>"),
        (Frame("operator new(unsigned long)", "", Kind.NATIVE), "operator new(unsigned long)"),
        # What would be read as Python, as a mark or as another kind is written longer.
        (Frame("java/lang/Thread:.run", "", Kind.NATIVE), "native::java/lang/Thread:.run"),
        (Frame("[heap]", "", Kind.NATIVE), "native::[heap]"),
        (Frame("kernel::lock", "", Kind.NATIVE), "native::kernel::lock"),
        (Frame("jit:x", "", Kind.NATIVE), "native::jit:x"),
        (Frame("f", "lib:c", Kind.NATIVE), "native:lib%3Ac:f"),
        (Frame("f", "lib%3Ac", Kind.NATIVE), "native:lib%253Ac:f"),
        (Frame("vfs_read", "", Kind.KERNEL), "kernel:vfs_read"),
        (Frame("~Foo::bar", "", Kind.JIT), "jit:~Foo::bar"),
        (Frame("[gc]", "", Kind.MARK), "[gc]"),
        # Modules may be called as the kinds are.
        (Frame("lock", "kernel"), "python:kernel:lock"),
        (Frame("compile", "jit"), "python:jit:compile"),
        (Frame("call", "native"), "native:call"),
        (Frame("a:b", "native"), "python:native:a:b"),
        (Frame("main", "python"), "python:main"),
        (Frame("f", "odd:name"), "python:odd%3Aname:f"),
    ],
)
def test_names(frame, name):
    assert str(frame) == name
    assert Frame.parse(name) == frame


@pytest.mark.parametrize("symbol", ["mix", "std::sort", "a:b", "[heap]"])
def test_names_that_earlier_versions_printed_are_read(symbol):
    assert Frame.parse(f"native::{symbol}") == Frame(symbol, "", Kind.NATIVE)


@pytest.mark.parametrize(
    ("glob", "frame", "expected"),
    [
        ("native:*", Frame("mix", "", Kind.NATIVE), True),
        ("native::mix", Frame("mix", "", Kind.NATIVE), True),
        ("native:*:mix", Frame("mix", "", Kind.NATIVE), True),
        ("native:*:mix", Frame("mix", "libm", Kind.NATIVE), True),
        ("mi?", Frame("mix", "", Kind.NATIVE), True),
        ("native:*", Frame("lock", "shop"), False),
        ("python:kernel:*", Frame("lock", "kernel"), True),
        ("kernel:*", Frame("lock", "kernel"), True),  # what the module's own name says
        ("python:kernel:*", Frame("lock", "", Kind.KERNEL), False),
    ],
)
def test_globs_know_short_and_long_names(glob, frame, expected):
    assert matches_frame((glob,), frame) is expected


@pytest.mark.parametrize("symbol", ["parse (shop.py)", "copy_[k]", "shop:f", "mix", "std::sort"])
def test_a_native_function_stays_native_in_folded_text(symbol):
    frame = Frame(symbol, "", Kind.NATIVE)
    text = folded.write(Profile({(frame,): Weight(2, 2)}, Unit.SAMPLES))

    assert list(folded.read(text, "x").stacks) == [(frame,)]
