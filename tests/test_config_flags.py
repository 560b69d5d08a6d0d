"""Baselines, flags and markers: what they mean, and what is told where they do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame import config
from ci_flame.config import BaselineKind, BaselineSpec, RecordConfig
from ci_flame.errors import CiFlameError, PolicyError, UsageError
from ci_flame.policy import Limit, Policy, Rule, Severity

FILE = """\
version: 1
record: {collector: ebpf, frequency_hz: 999, processes: 3, round_ms: 5}
rules:
  - {frames: "*", max_growth: 10%}
"""

# -- baseline -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("auto", BaselineSpec()),
        ("none", BaselineSpec(BaselineKind.NONE)),
        ("folder:base/line", BaselineSpec(BaselineKind.FOLDER, "base/line")),
        ("some/folder", BaselineSpec(BaselineKind.FOLDER, "some/folder")),
        (".ci-flame/baseline", BaselineSpec(BaselineKind.FOLDER, ".ci-flame/baseline")),
        ("/a:b/c", BaselineSpec(BaselineKind.FOLDER, "/a:b/c")),
        ("./a:b", BaselineSpec(BaselineKind.FOLDER, "./a:b")),
        ("git:main:x/y", BaselineSpec(BaselineKind.GIT, "main:x/y")),
        ("rerun:HEAD~1", BaselineSpec(BaselineKind.RERUN, "HEAD~1")),
        ("tree:/srv/x", BaselineSpec(BaselineKind.TREE, "/srv/x")),
    ],
)
def test_baselines(text, spec):
    assert config.parse_baseline(text) == spec
    assert config.parse_baseline(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty baseline"),
        ("gti:main", 'did you mean "git"?'),
        ("none:x", "none takes nothing after it"),
        ("rerun:", "rerun: names nothing"),
        ("git", "baseline git names nothing"),
        ("rerun:--exec=x", "is not a revision"),
        ("a\nb", "an empty baseline"),
    ],
)
def test_baselines_that_are_none(text, message):
    with pytest.raises(UsageError) as raised:
        config.parse_baseline(text)

    assert message in raised.value.message


@given(st.text(max_size=40))
def test_any_text_is_a_baseline_or_an_error(text):
    try:
        spec = config.parse_baseline(text)
    except UsageError:
        return
    assert config.parse_baseline(str(spec)) == spec


# -- flags ----------------------------------------------------------------------------


def test_flags_replace_the_file(tmp_path):
    (tmp_path / "ci-flame.yml").write_text(FILE)
    made = config.build(
        policy_file=None,
        start=tmp_path,
        flags={
            "out": "o", "report": "r", "baseline": "none", "collector": "perf",
            "frequency": "4999", "processes": 2, "seconds": "1.5", "quick": None, "replay": None,
        },
    )  # fmt: skip

    assert made.record == RecordConfig("perf", 4999, 2, 1.5, 5.0)
    assert made.baseline == BaselineSpec(BaselineKind.NONE)
    assert (made.out, made.report) == (Path("o"), Path("r"))
    assert made.policy.rules[0].max_growth == Limit(share=0.1)


def test_quick_is_one_short_process_unless_told_otherwise(tmp_path):
    quick = config.build(policy_file=None, start=tmp_path, flags={"quick": True})
    told = config.build(policy_file=None, start=tmp_path, flags={"quick": True, "processes": 3})

    assert (quick.record.processes, quick.record.seconds) == (1, 1.0)
    assert (told.record.processes, told.record.seconds) == (3, 1.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"processes": 0}, "--flame-processes 0 is outside 1 to 100"),
        ({"frequency": "fast"}, '--flame-frequency is a plain number (Hz), not "fast"'),
        ({"seconds": True}, "--flame-seconds is a plain number"),
        ({"collector": "prf"}, 'did you mean "perf"?'),
        ({"collector": "replay"}, "collector replay needs a run folder"),
        ({"out": ""}, "--flame-out needs a path"),
        ({"report": "a\nb"}, "--flame-report needs a path"),
        ({"baseline": "x:y"}, 'unknown baseline "x:y"'),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flags, message):
    with pytest.raises(UsageError) as raised:
        config.build(policy_file=None, start=tmp_path, flags=flags, prefix="--flame-")

    assert message in raised.value.message


def test_a_replay_folder_chooses_the_collector(tmp_path):
    made = config.build(policy_file=None, start=tmp_path, flags={"replay": "runs/x"})

    assert made.record.collector == "replay"
    assert made.record.replay == Path("runs/x")


def test_a_flag_that_does_not_exist_is_a_mistake_of_ours(tmp_path):
    with pytest.raises(ValueError, match="no such flags: ou"):
        config.build(policy_file=None, start=tmp_path, flags={"ou": 1})


# -- markers --------------------------------------------------------------------------

FILE_RULES = Policy(
    rules=(
        Rule(frames=("a:*",), max_growth=Limit(share=0.1), place="f:1"),
        Rule(frames=("b:*",), max_growth=Limit(share=0.2), severity=Severity.WARN, place="f:2"),
        Rule(frames=("c:*",), budget=Limit(share=0.3), place="f:3"),
    )
)
PLACE = "marker of t.py::x"


def marked(**keywords):
    return config.marker_rules(FILE_RULES, keywords, "t.py::x").rules


def test_a_marker_replaces_the_fields_it_names():
    a, b, c = FILE_RULES.rules
    limit = Limit(share=0.05)

    assert marked() == (a, b, c)
    assert marked(processes=2, seconds=1, gc=True) == (a, b, c)
    assert marked(max_growth="5%") == (
        replace(a, max_growth=limit, place=PLACE),
        replace(b, max_growth=limit, place=PLACE),
        replace(c, place=PLACE),
    )
    assert {rule.severity for rule in marked(severity="warn")} == {Severity.WARN}
    assert {rule.frames for rule in marked(frames=["x:*", "!x:y"])} == {("x:*", "!x:y")}
    assert {rule.self_only for rule in marked(self_only=True)} == {True}
    assert marked(budget="12ms")[2] == replace(c, budget=Limit(ns=12e6), place=PLACE)


def test_a_marker_adds_the_limit_that_no_rule_has():
    default = Policy()
    made = config.marker_rules(default, {"budget": "30%", "frames": "r:*"}, "t.py::x").rules

    assert made[-1] == Rule(frames=("r:*",), budget=Limit(share=0.3), place=PLACE)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_grwth": "5%"}, 'unknown field "max_grwth"; did you mean "max_growth"?'),
        ({"max_growth": 5}, 'max_growth: "5" is not text'),
        ({"max_growth": "5"}, 'max_growth: "5" has no unit'),
        ({"self_only": 1}, 'self_only: "1" is neither True nor False'),
        ({"frames": "shop"}, "names are module:qualname"),
        ({"frames": 3}, "is not text"),
        ({"certainty": "10%"}, "outside 50% to 99.9%"),
    ],
)  # fmt: skip
def test_markers_that_do_not_fit(keywords, message):
    with pytest.raises(UsageError) as raised:
        marked(**keywords)

    assert raised.value.message.startswith("marker of t.py::x: ")
    assert message in raised.value.message


def test_a_share_budget_of_everything_is_refused():
    with pytest.raises(UsageError, match="budget names no frames"):
        config.marker_rules(Policy(), {"budget": "30%"}, "t.py::x")


def test_a_marker_sets_how_its_test_is_recorded():
    record = config.marker_record(RecordConfig(), {"processes": 2, "max_growth": "5%"}, "t")

    assert record == RecordConfig(processes=2)
    with pytest.raises(UsageError, match=r"marker of t: seconds 0 is outside"):
        config.marker_record(RecordConfig(), {"seconds": 0}, "t")


def test_every_error_is_ours():
    assert issubclass(PolicyError, CiFlameError)
