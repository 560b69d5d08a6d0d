"""Annotations: the most important first, on the guilty line, within GitHub's room."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verdicts import ALL, HOSTILE, failing, inconclusive, no_baseline, passing, renamed, verdict

from ci_flame.errors import FormatError
from ci_flame.github import annotations as told_by
from ci_flame.github.annotations import MAX_ERRORS, MAX_NOTICES, MAX_WARNINGS, annotations, left_out
from ci_flame.github.commands import MAX_MESSAGE
from ci_flame.github.commands import annotation as command
from ci_flame.github.verdict_json import decode
from ci_flame.profile import TOTAL, Frame, Place
from ci_flame.report import json_report
from ci_flame.verdict import Note, Outcome


def told(of):
    return decode(json_report.render(of).encode(), "verdict.json")


def found(function, growth_us=15.0, outcome=Outcome.FAIL, benchmark="tests/b.py::test_a"):
    """Return a failing benchmark with one finding on a function that grew by so much."""
    each = failing(benchmark, outcome)
    finding = each.findings[0]
    change = replace(finding.change, after_ns=finding.change.before_ns + growth_us * 1e3)
    frame = TOTAL if function == "[total]" else Frame.parse(function)
    return replace(
        each,
        findings=(
            replace(
                finding,
                frame=frame,
                path=(*finding.path[:-1], frame),
                change=change,
                place=Place(f"src/{function}.py", 7),
            ),
        ),
    )


def test_a_finding_is_told_at_the_line_of_its_function():
    (only,) = annotations(told(verdict(failing(), passing())))

    assert (only.level, only.file, only.line) == ("error", "src/shop/parser.py", 88)
    assert only.title == "test_checkout: shop.parser:tokenize"
    assert only.message == str(failing().findings[0])


def test_failures_come_by_impact_then_warnings_then_what_is_inconclusive():
    of = verdict(
        inconclusive("tests/b.py::test_i"),
        found("m:warned", 90.0, Outcome.WARN, "tests/b.py::test_w"),
        found("m:small", 5.0, benchmark="tests/b.py::test_s"),
        found("m:large", 50.0, benchmark="tests/b.py::test_l"),
    )

    assert [(each.level, each.title) for each in annotations(told(of))] == [
        ("error", "test_l: m:large"),
        ("error", "test_s: m:small"),
        ("warning", "test_w: m:warned"),
        ("notice", "test_i: inconclusive"),
    ]


@pytest.mark.parametrize("number", [8, 9, 10, 11, 300])
def test_there_is_room_for_what_other_steps_say(number):
    of = verdict(
        *(found(f"m:f{n}", 100 - n / 10, benchmark=f"b.py::test_{n}") for n in range(number)),
        *(found(f"m:w{n}", 9, Outcome.WARN, f"b.py::test_w{n}") for n in range(number)),
        *(
            replace(inconclusive(f"b.py::test_i{n}"), notes=(Note("odd", f"reason {n}"),))
            for n in range(number)
        ),
    )
    kept = annotations(told(of))
    levels = [each.level for each in kept]

    assert levels.count("error") == min(number, MAX_ERRORS) < 10
    assert levels.count("warning") == min(number, MAX_WARNINGS) < 10
    assert levels.count("notice") == min(number, MAX_NOTICES) < 10
    assert kept[0].title == "test_0: m:f0"
    assert left_out(told(of)) == max(0, number - MAX_ERRORS) + max(0, number - MAX_WARNINGS)


def test_one_function_is_one_annotation_and_names_the_other_benchmarks():
    benchmarks = [found("m:f", 10 + n, benchmark=f"b.py::test_{n}") for n in range(8)]
    (only,) = annotations(told(verdict(*benchmarks)))

    assert only.title == "test_7: m:f"
    assert only.message.endswith(
        "\nAlso in b.py::test_6, b.py::test_5, b.py::test_4, b.py::test_3, b.py::test_2"
        " and 2 benchmarks more."
    )


def test_whole_benchmarks_that_grew_are_told_apart():
    benchmarks = [found("[total]", 9, benchmark=f"b.py::test_{n}") for n in range(3)]

    assert len(annotations(told(verdict(*benchmarks)))) == 3


def test_what_could_not_be_judged_for_one_reason_is_one_notice():
    (only,) = annotations(told(verdict(*(inconclusive(f"b.py::test_{n}") for n in range(3)))))

    assert only.level == "notice"
    assert (only.file, only.line) == ("b.py", 1)
    assert only.message == (
        "b.py::test_0: architecture: x86_64, aarch64: times may not be compared"
        "\nAlso in b.py::test_1, b.py::test_2."
    )


@pytest.mark.parametrize("case", ["pass", "no-baseline", "empty"])
def test_nothing_is_said_of_a_clean_build(case):
    assert annotations(told(ALL[case])) == ()
    assert left_out(told(ALL[case])) == 0


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_one_command_each(name):
    for each in annotations(told(verdict(renamed(failing(), name)))):
        line = command(each.level, each.message, title=each.title, file=each.file, line=each.line)

        assert "\n" not in line
        assert "\r" not in line
        assert line.startswith("::error title=")
        assert len(each.title) <= told_by.MAX_TITLE


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=30), st.integers(0, 20_000))
def test_a_message_keeps_its_end(letters, repeat):
    name = (letters * repeat)[:20_000] or "x"
    each = found("m:f", benchmark=f"b.py::{name}")
    other = found("m:f", 5, benchmark="b.py::other")
    (first, *_more) = annotations(told(verdict(each, other)))

    assert len(first.message) <= MAX_MESSAGE
    assert first.message.isprintable() or "\n" in first.message
    if len(name.encode()) < 100:
        assert first.message.endswith("Also in b.py::other.")


def test_what_is_new_beside_what_was_compared_is_named_once():
    new = [no_baseline(f"b.py::test_n{n}") for n in range(3)]
    (only,) = annotations(told(verdict(passing(), *new)))

    assert (only.level, only.title) == ("notice", "test_n0: new")
    assert only.message == (
        "b.py::test_n0 is new: there was nothing to compare it with, and it fails nothing\n"
        "Also in b.py::test_n1, b.py::test_n2."
    )
    assert annotations(told(verdict(*new))) == (), "the headline says that nothing was compared"


@pytest.mark.parametrize(
    ("slug", "told_as"),
    [("policy-changed", "warning"), ("rule-unused", "warning"), ("unseen", "warning"),
     ("changed-since", None)],
)  # fmt: skip
def test_what_weakens_the_gate_is_a_warning_of_its_own(slug, told_as):
    of = replace(verdict(passing()), notes=(Note(slug, "its own limits"),))

    found = [(each.level, each.message) for each in annotations(told(of))]

    assert found == ([(told_as, "its own limits")] if told_as else [])


@pytest.mark.parametrize(
    ("outcome", "accepted"),
    [(Outcome.INCONCLUSIVE, True), (Outcome.FAIL, False), (Outcome.WARN, False)],
)
def test_a_build_may_be_in_doubt_where_no_benchmark_is(outcome, accepted):
    of = replace(verdict(passing()), outcome=outcome)

    if accepted:
        assert told(of).outcome is outcome
    else:
        with pytest.raises(FormatError, match="and the benchmarks' is pass"):
            told(of)


def test_what_the_base_cannot_run_is_one_warning_for_each_reason():
    why = "no baseline: the base commit cannot run it: No module named 'nope'"
    broken = [
        replace(no_baseline(f"b.py::test_n{n}"), notes=(Note("base-broken", why + "!" * (n > 1)),))
        for n in range(3)
    ]
    one, other = annotations(told(verdict(*broken, passing())))

    assert (one.level, one.title) == ("warning", "test_n0: not compared")
    assert one.message == f"b.py::test_n0: {why}\nAlso in b.py::test_n1."
    assert (other.level, other.message) == ("warning", f"b.py::test_n2: {why}!")
