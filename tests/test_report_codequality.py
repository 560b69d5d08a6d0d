"""GitLab's code quality report, by the schema that GitLab holds each entry against."""

import json
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given, settings
from test_report_text import OUTCOMES, check_golden
from verdicts import ALL, NAMES, failing, finding, hostile, verdict

from ci_flame.report import codequality
from ci_flame.verdict import Outcome

ENTRY = {
    # What GitLab asks of an entry; it stops reading the whole file at the first that lacks it.
    "type": "object",
    "required": ["description", "check_name", "fingerprint", "severity", "location"],
    "properties": {
        "description": {"type": "string", "minLength": 1},
        "check_name": {"type": "string", "minLength": 1},
        "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
        "location": {
            "type": "object",
            "required": ["path", "lines"],
            "properties": {
                "path": {"type": "string", "minLength": 1, "pattern": "^[^/]"},
                "lines": {
                    "type": "object",
                    "required": ["begin"],
                    "properties": {"begin": {"type": "integer", "minimum": 1}},
                },
            },
        },
    },
}


def entries(given, **options):
    text = codequality.render(given, **options)
    text.encode("ascii")
    read = json.loads(text)
    jsonschema.validate(read, {"type": "array", "items": ENTRY})
    assert len({each["fingerprint"] for each in read}) == len(read)
    return read


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_valid(case):
    assert len(entries(ALL[case])) == sum(len(each.findings) for each in ALL[case].benchmarks)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden(outcome):
    check_golden(f"{outcome}.codequality.json", codequality.render(ALL[outcome]))


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_the_file_is_valid(name):
    assert len(entries(hostile(name), name=name)) == 1


@pytest.mark.parametrize(("outcome", "severity"), [("fail", "critical"), ("warn", "minor")])
def test_the_severity_is_the_outcome(outcome, severity):
    assert [each["severity"] for each in entries(ALL[outcome])] == [severity]


def test_what_has_no_file_is_shown_at_the_benchmark():
    each = failing()
    total = finding(each.diff, "[total]")
    (entry,) = entries(verdict(replace(each, findings=(total,))))

    assert entry["location"]["path"] == "tests/bench_shop.py"


def test_a_command_is_shown_at_the_rule():
    each = failing("make bench")
    frames = tuple(replace(frame, place=None) for frame in each.diff.frames)
    found = replace(each.findings[0], place=None)
    bare = replace(each, findings=(found,), diff=replace(each.diff, frames=frames))
    (entry,) = entries(verdict(bare))

    assert entry["location"] == {"path": "ci-flame.yml", "lines": {"begin": 7}}


def test_the_worst_are_kept(monkeypatch):
    monkeypatch.setattr(codequality, "ENTRIES", 2)
    each = failing()
    warned = replace(each.findings[0], outcome=Outcome.WARN)
    read = entries(verdict(replace(each, findings=(warned, warned, each.findings[0]))))

    assert [entry["severity"] for entry in read] == ["critical", "minor"]


def test_legs_of_a_matrix_are_issues_of_their_own():
    one, other = (entries(ALL["fail"], name=name) for name in ("a", "b"))

    assert one[0]["fingerprint"] != other[0]["fingerprint"]
