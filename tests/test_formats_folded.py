"""Folded stacks: ours come back, others' are understood, what is not folded is refused."""

import pytest
from hypothesis import given
from strategies import PLAIN, profiles

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats import folded
from ci_flame.profile import Frame, Kind, Profile, Unit, Weight, fold


def read(text):
    return {fold(stack): weight.value for stack, weight in folded.read(text, "x").stacks.items()}


@given(profiles(text=PLAIN))
def test_write_then_read_keeps_the_stacks(profile):
    """Except for what the format cannot tell: a native frame without a library."""
    expected = {
        fold(stack): weight.samples for stack, weight in profile.stacks.items() if weight.samples
    }
    text = folded.write(profile)

    assert read(text) == expected
    assert folded.write(folded.read(text, "x")) == text


FRAMES = (
    Frame("test_checkout", "tests.bench_shop"),
    Frame("Grammar.compile", "shop.parser"),
    Frame("<lambda>", "__main__"),
    Frame("f.<locals>.g", "<string>"),
    Frame("read", "libc.so.6", Kind.NATIVE),
    Frame("std::sort<int>", "shop", Kind.NATIVE),
    Frame("vfs_read", "", Kind.KERNEL),
    Frame("JS:add /app/x.js", "", Kind.JIT),
    Frame("[gc]", "", Kind.MARK),
)


def test_own_frames_come_back_as_they_were():
    profile = Profile({FRAMES: Weight(3, 3), FRAMES[:1]: Weight(4, 4)}, Unit.SAMPLES)

    assert folded.read(folded.write(profile), "x") == profile


def test_numbers_are_samples_or_weights():
    profile = Profile({FRAMES[:1]: Weight(3, 1500), FRAMES[:2]: Weight(0, 7)})

    assert folded.write(profile) == "tests.bench_shop:test_checkout 3\n"
    assert folded.write(profile, weights=True) == (
        "tests.bench_shop:test_checkout 1500\n"
        "tests.bench_shop:test_checkout;shop.parser:Grammar.compile 7\n"
    )


def test_characters_that_the_format_needs_are_replaced():
    odd = Frame("La;b\nc\rd", "", Kind.JIT)

    assert folded.write(Profile({(odd,): Weight(1, 1)})) == "jit:La:b c d 1\n"


def test_stacks_that_become_one_line_add_up():
    two = {(Frame(name, "", Kind.JIT),): Weight(2, 2) for name in ("a;b", "a:b")}

    assert folded.write(Profile(two)) == "jit:a:b 4\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("do_syscall_64_[k]", "kernel:do_syscall_64"),
        ("Interpreter_[j]", "jit:Interpreter"),
        ("inner_[i]", "inner"),
        ("main (app.py:10)", "app:main"),
        ("get (/v/site-packages/shop/core.py)", "shop.core:get"),
        ("std::vector<int>::push_back", "std::vector<int>::push_back"),
        ("java/lang/Thread:.run", "native::java/lang/Thread:.run"),
        ("main.work", "main.work"),
        ("operator new(unsigned long)", "operator new(unsigned long)"),
        ("node:internal/main", "node:internal/main"),
        ("shop.parser:tokenize", "shop.parser:tokenize"),
        ("native:libc.so.6:read", "native:libc.so.6:read"),
        ("[unknown]", "[unknown]"),
    ],
)
def test_foreign_names(name, expected):
    assert read(f"{name} 1\n") == {expected: 1}


def test_white_space_and_line_ends():
    assert read("a:x;b:y 1\r\n\n  \na:x;b:y 2") == {"a:x;b:y": 3}
    assert read("with space;b:y 1\n") == {"with space;b:y": 1}


@pytest.mark.parametrize("text", ["{}", "hello", "12", "a;b -1", "a;b 1.5", "a;b ²", "\x1f\x8b x"])
def test_first_line_that_is_not_folded_is_not_recognised(text):
    with pytest.raises(UnrecognisedError, match=r"^x:1: not `frame;frame NUMBER`"):
        folded.read(text, "x")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a;b", "x:3: not `frame;frame NUMBER`: 'a;b'"),
        ("a;;b 1", "x:3: a frame without a name: 'a;;b 1'"),
        ("a;b " + "9" * 19, "x:3: a number of 19 digits; the limit is 18"),
        (";".join("a" * 4097) + " 1", "x:3: 4097 frames; the limit is 4096"),
        ("a" * folded.MAX_LINE + " 1", "x:3: 1048578 characters; the limit is 1048576"),
    ],
)
def test_later_line_that_is_not_folded_is_refused(line, sentence):
    with pytest.raises(FormatError) as error:
        folded.read(f"a:x 1\n\n{line}\n", "x")
    assert error.value.message == sentence


def test_limits_themselves_are_allowed():
    assert len(next(iter(folded.read(";".join("a" * 4096) + " 1", "x").stacks))) == 4096
    assert read("a:x " + "9" * 18) == {"a:x": 10**18 - 1}


def test_lines_are_limited(monkeypatch):
    monkeypatch.setattr(folded, "MAX_LINES", 2)
    assert read("a:x 1\nb:y 1\n")

    with pytest.raises(FormatError, match="more than 2 lines, the limit"):
        read("a:x 1\nb:y 1\nc:z 1\n")


def test_nothing_is_an_empty_profile():
    assert folded.read("", "x") == Profile({}, Unit.SAMPLES)
    assert folded.write(Profile()) == ""
