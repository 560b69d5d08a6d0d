"""JUnit: what Jenkins and GitLab read of it, and names that are anything."""

# ruff: noqa: S314 - the XML is our own

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import xmlschema
from hypothesis import given, settings
from test_report_text import OUTCOMES, check_golden
from verdicts import (
    ALL,
    NAMES,
    failing,
    finding,
    hostile,
    inconclusive,
    no_baseline,
    passing,
    verdict,
)

from ci_flame.policy import Policy
from ci_flame.profile import Place
from ci_flame.report import junit
from ci_flame.verdict import Note, Outcome
from ci_flame.verdict.located import Located

XUNIT = xmlschema.XMLSchema(Path(__file__).parent / "data" / "junit" / "junit-10.xsd")
RESULTS = {"failure", "error", "skipped"}
ATTRIBUTES = {"name", "classname", "file", "line"}


def cases(given):
    """Return the test cases; each has at most one result, which is all that GitLab can show."""
    text = junit.render(given)
    text.encode("utf-8", "strict")
    root = ET.fromstring(text)
    (suite,) = root
    found = suite.findall("testcase")
    counts = {name: sum(1 for case in found if case.find(name) is not None) for name in RESULTS}

    assert root.tag == "testsuites"
    assert [int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")] == [
        len(found), counts["failure"], counts["error"], counts["skipped"],
    ]  # fmt: skip
    for case in found:
        assert set(case.attrib) <= ATTRIBUTES
        assert case.get("name")
        assert case.get("classname")
        assert len([each for each in case if each.tag in RESULTS]) <= 1
        assert {each.tag for each in case} <= RESULTS | {"system-out"}
    return found


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_valid(case):
    assert len(cases(ALL[case])) == len(ALL[case].benchmarks)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden(outcome):
    check_golden(f"{outcome}.junit.xml", junit.render(ALL[outcome]))


@pytest.mark.parametrize("case", ALL)
def test_the_schema_of_jenkins_holds_but_for_what_gitlab_needs(case):
    """Of the xUnit plugin: its `junit` step reads more. The schema knows no file of a test case."""
    root = ET.fromstring(junit.render(ALL[case]))
    for each in root.iter("testcase"):
        each.attrib.pop("file", None)
        each.attrib.pop("line", None)
    for suite in root:
        assert suite.attrib.pop("disabled") == "0", "by junit-xml, of Ant's schema"
    root.attrib.pop("disabled")

    XUNIT.validate(root)


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_the_file_is_valid(name):
    failed, _ = cases(hostile(name))

    assert failed.find("failure") is not None


def test_all_findings_are_in_one_failure():
    each = failing()
    both = (*each.findings, finding(each.diff, "shop.parser:Grammar.compile"))
    (case,) = cases(verdict(replace(each, findings=both)))
    failure = case.find("failure")

    assert failure.get("message") == " ".join(map(str, both))
    first, second = failure.text.split("\n\n")
    assert first.splitlines()[:2] == [str(both[0]), "src/shop/parser.py:88"]
    assert first.splitlines()[-1] == "shop.parser:tokenize"
    assert second.splitlines()[-1] == "shop.parser:Grammar.compile"


def test_a_warning_is_no_failure():
    (case,) = cases(verdict(failing(outcome=Outcome.WARN)))

    assert case.find("failure") is None
    assert "tokenize grew by" in case.find("system-out").text


def test_file_and_line_are_of_the_repository():
    test = next(f for f in failing().diff.frames if f.frame.function == "test_checkout")
    here = replace(test, place=Place("pay/tests/bench_shop.py", 31))
    each = failing()
    frames = tuple(here if one.frame == test.frame else one for one in each.diff.frames)
    each = replace(each, diff=replace(each.diff, frames=frames))
    (case,) = cases(replace(verdict(each), located=Located({}, "pay/")))

    assert (case.get("file"), case.get("line")) == ("pay/tests/bench_shop.py", "31")
    assert case.get("classname") == "tests.bench_shop", "as pytest names it"


def test_a_command_has_no_file():
    (case,) = cases(verdict(failing("make bench")))

    assert case.get("file") is None
    assert case.get("name") == "make bench"


def test_a_new_benchmark_beside_one_that_was_compared_is_no_error():
    of = replace(verdict(passing(), no_baseline()), policy=Policy(baseline_required=True))
    (case,) = (each for each in cases(of) if each.get("name") == "test_new")

    assert case.find("skipped") is not None
    assert case.find("error") is None


@pytest.mark.parametrize(
    ("each", "policy", "tag"),
    [
        (inconclusive(), Policy(), "skipped"),
        (inconclusive(), Policy(inconclusive_fails=True), "error"),
        (no_baseline(), Policy(), "skipped"),
        (no_baseline(), Policy(baseline_required=True), "error"),
    ],
)
def test_what_was_not_judged_says_why(each, policy, tag):
    each = replace(each, notes=(*each.notes, Note("more", "a second note.")))
    (case,) = cases(replace(verdict(each), policy=policy))
    (first, second) = each.notes

    assert case.find(tag).get("message") == f"{first.text}. {second.text}"
