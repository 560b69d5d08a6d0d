"""What a glob matches, and how limits are written."""

from datetime import date

import pytest
from hypothesis import given
from recordings import NAMED_FRAMES
from synthetic import stack_of

from ci_flame.policy import (
    Limit,
    Rule,
    Waiver,
    gates_total,
    matches_frame,
    matches_name,
    matches_path,
)
from ci_flame.profile import GC, TOTAL, TRUNCATED, UNKNOWN, Frame, Kind


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit(share=0.10), "10%"),
        (Limit(share=0.125), "12.5%"),
        (Limit(share=0.0), "0%"),
        (Limit(ns=2e6), "2ms"),
        (Limit(ns=999), "999ns"),
        (Limit(ns=1000), "1us"),
        (Limit(ns=1.5e9), "1.5s"),
        (Limit(share=0.05, ns=2e6), "5% | 2ms"),
        (Limit(), "none"),
    ],
)
def test_limit_is_written_as_the_policy_writes_it(limit, text):
    assert str(limit) == text


@pytest.mark.parametrize(
    ("globs", "frame", "expected"),
    [
        (("*",), "shop.api:get", True),
        (("*",), "native:libz.so.1:deflate", True),
        (("*",), "jit:f", True),
        (("*",), "kernel:vfs_read", False),  # only by kernel:
        (("kernel:*",), "kernel:vfs_read", True),
        (("kernel:vfs_*",), "kernel:do_fsync", False),
        (("*",), "[gc]", True),
        (("[gc]",), "[gc]", True),
        (("*:*",), "[gc]", False),
        (("*",), "[total]", False),
        (("[total]",), "[total]", True),
        (("*",), "[unknown]", False),
        (("shop.parser:*",), "shop.parser:Grammar.compile", True),
        (("shop.parser:*",), "shop.parser2:f", False),
        (("shop.*",), "shop.parser:f", True),
        (("shop.parser:tok?nize",), "shop.parser:tokenize", True),
        (("shop.parser:[st]okenize",), "shop.parser:tokenize", True),
        (("shop.parser:[!t]okenize",), "shop.parser:tokenize", False),
        (("shop.parser:[z-a]x",), "shop.parser:bx", False),  # an empty class, not an error
        (("SHOP.*",), "shop.parser:f", False),  # case counts
        (("shop.*", "!shop.legacy:*"), "shop.legacy:f", False),
        (("!shop.legacy:*", "shop.*"), "shop.legacy:f", False),  # order means nothing
        (("!shop.legacy:*",), "shop.api:f", True),  # exclusions alone: everything else
        (("!shop.legacy:*",), "kernel:f", False),
        (("shop.api:*;**;shop.parser:*",), "shop.parser:f", False),  # a path is no frame
        (("shop.f:été",), "shop.f:été", True),
    ],
)
def test_frame_globs(globs, frame, expected):
    assert matches_frame(globs, Frame.parse(frame)) is expected


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("a:f;b:g", "a:f;b:g", True),
        ("a:f;b:g", "t:t;a:f;b:g", True),  # may begin anywhere
        ("a:f;b:g", "a:f;b:g;c:h", False),  # must end at the last frame
        ("a:f;b:g", "a:f;x:y;b:g", False),
        ("a:f;**;b:g", "a:f;x:y;z:z;b:g", True),
        ("a:f;**;b:g", "a:f;b:g", True),  # none is a number too
        ("a:*;**;b:*", "b:g;a:f", False),
        ("**;b:g", "b:g", True),
        ("a:f;**", "a:f", True),
        ("a:f;**", "a:f;b:g;c:h", True),
        ("a:f;*;b:g", "a:f;kernel:x;b:g", False),
        ("a:f;**;b:g", "a:f;kernel:x;b:g", True),
        ("a:f;**;b:g;**;b:g", "a:f;b:g", False),
    ],
)
def test_path_globs(glob, path, expected):
    assert matches_path((glob,), stack_of(path)) is expected


def test_exclusions_of_paths():
    path = stack_of("a:f;x:y;b:g")

    assert matches_path(("a:f;**;b:g",), path)
    assert not matches_path(("a:f;**;b:g", "!x:y;b:g"), path)
    assert not matches_path(("a:f;**;b:g", "!b:g"), path)
    assert matches_path(("a:f;**;b:g", "!x:y"), path)  # excludes by the last frame


@pytest.mark.parametrize(
    ("globs", "name", "expected"),
    [
        (("*",), "tests/b.py::test_x[a-1]", True),
        (("tests/b.py::test_x[a-1]",), "tests/b.py::test_x[a-1]", True),
        (("tests/b.py::*",), "tests/c.py::test_x", False),
        (("*", "!*slow*"), "tests/b.py::test_slow", False),
        (("!*slow*",), "tests/b.py::test_fast", True),
    ],
)
def test_benchmark_globs(globs, name, expected):
    assert matches_name(globs, name) is expected


@given(NAMED_FRAMES)
def test_every_frame_is_matched_by_its_own_name_and_excluded_by_it(frame):
    if any(char in str(frame) for char in "[]*?!"):
        return

    assert matches_frame((str(frame),), frame)
    assert not matches_frame((str(frame), f"!{frame}"), frame)
    assert matches_frame(("*",), frame) is (frame.kind is not Kind.KERNEL)


def test_marks_need_their_name():
    for mark in (TOTAL, UNKNOWN, TRUNCATED):
        assert not matches_frame(("*",), mark)
        assert matches_frame((str(mark),), mark)
    assert matches_frame(("*",), GC)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (("*",), True),
        (("[total]",), True),
        (("shop.*",), False),
        (("*", "![total]"), False),
        (("!shop.*",), True),
        (("a:f;b:g",), False),
    ],
)
def test_which_rules_judge_the_benchmark_itself(frames, expected):
    assert gates_total(Rule(frames=frames)) is expected


def test_waiver_holds_through_its_last_day():
    waiver = Waiver(("shop.parser:*",), date(2026, 1, 31), "see #214")

    assert not waiver.expired(date(2026, 1, 31))
    assert waiver.expired(date(2026, 2, 1))
    assert not waiver.expired(None)
    assert waiver.covers("any", stack_of("a:f;shop.parser:g"))
    assert not waiver.covers("any", stack_of("shop.parser:g;a:f"))


def test_rule_of_a_metric_or_another_mode_is_not_about_stacks():
    assert Rule().applies_to("b", "on-cpu")
    assert not Rule(mode="off-cpu").applies_to("b", "on-cpu")
    assert not Rule(metric="run_queue.p99_ms").applies_to("b", "on-cpu")
    assert not Rule(benchmarks=("c",)).applies_to("b", "on-cpu")
