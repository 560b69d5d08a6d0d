"""verdict.json and JUnit XML: what programs read."""

# ruff: noqa: S314 - the XML is our own

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from verdicts import (
    ALL,
    HOSTILE,
    change,
    failing,
    renamed,
    verdict,
)

from ci_flame.policy import Policy
from ci_flame.report import json_report, junit
from ci_flame.report.words import visible
from ci_flame.verdict import Outcome

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "verdict.schema.json").read_text("utf-8"))


# ---- json ----


@pytest.mark.parametrize("case", ALL)
def test_json_keeps_its_schema(case):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    document = json.loads(json_report.render(ALL[case]), parse_constant=pytest.fail)

    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_schema_refuses_other_documents():
    document = json.loads(json_report.render(ALL["fail"]))
    for wrong in ({"schema_version": 2}, {"outcome": "failed"}, {"extra": 1}, {"benchmarks": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **wrong}, SCHEMA)


def test_json_tells_the_finding_with_file_and_line():
    document = json.loads(json_report.render(ALL["fail"]))
    each = ALL["fail"].benchmarks[0].findings[0]

    (found,) = document["benchmarks"][0]["findings"]

    assert found["sentence"] == str(each)
    assert (found["file"], found["line"]) == ("src/shop/parser.py", 88)
    assert found["path"][-1] == found["function"] == "shop.parser:tokenize"
    assert found["change"]["before_ns"] == pytest.approx(60_100)
    assert found["change"]["growth"] == pytest.approx(75.2 / 60.1 - 1)
    assert found["impact"] == pytest.approx(15.1 / 396.9, rel=1e-2)
    assert document["outcome"] == "fail"
    assert document["counts"]["fail"] == 1
    assert document["before"]["commit"].startswith("3f2a9c")


def test_json_writes_infinity_as_null_with_its_reason():
    functions = json.loads(json_report.render(ALL["fail"]))["benchmarks"][0]["functions"]
    by_name = {each["function"]: each["total"] for each in functions}
    new, gone = by_name["shop.tax:cached_lookup"], by_name["shop.tax:_load_table"]

    assert (new["new"], new["gone"], new["growth"], new["low"]) == (True, False, None, None)
    assert (gone["new"], gone["gone"], gone["growth"]) == (False, True, -1)


def test_json_keeps_the_functions_that_changed_most_and_counts_the_others():
    each = failing()
    frames = tuple(each.diff.frames) * 5
    many = verdict(replace(each, diff=replace(each.diff, frames=frames)))

    benchmark = json.loads(json_report.render(many))["benchmarks"][0]

    assert len(benchmark["functions"]) == json_report.FUNCTIONS
    assert benchmark["functions_left_out"] == len(frames) - json_report.FUNCTIONS > 0


def test_json_takes_the_numbers_of_numpy():
    numbers = replace(change(1, 2), before_ns=np.float64(1), samples_after=np.int64(3))

    assert json.dumps(json_report.change(numbers))


# ---- junit ----


@pytest.mark.parametrize("case", ALL)
def test_junit_has_one_case_per_benchmark(case):
    root = ET.fromstring(junit.render(ALL[case]))

    assert len(root.findall(".//testcase")) == len(ALL[case].benchmarks)
    failing_cases = [b for b in ALL[case].benchmarks if b.outcome is Outcome.FAIL]
    assert int(root.get("failures")) == len(failing_cases)


def test_junit_names_the_test_as_pytest_does():
    root = ET.fromstring(junit.render(ALL["fail"]))
    case = root.find(".//testcase")

    assert (case.get("classname"), case.get("name")) == ("tests.bench_shop", "test_checkout")
    assert case.get("file") == "tests/bench_shop.py"
    assert case.find("failure").get("message") == str(ALL["fail"].benchmarks[0].findings[0])
    told = case.find("failure").text
    assert told.startswith(str(ALL["fail"].benchmarks[0].findings[0]))  # Jenkins shows only this
    assert "src/shop/parser.py:88\nbench_shop:test_checkout\n" in told


@pytest.mark.parametrize(
    ("case", "policy", "tag"),
    [
        ("inconclusive", Policy(), "skipped"),
        ("inconclusive", Policy(inconclusive_fails=True), "error"),
        ("no-baseline", Policy(), "skipped"),
        ("no-baseline", Policy(baseline_required=True), "error"),
    ],
)
def test_junit_says_what_was_not_judged(case, policy, tag):
    root = ET.fromstring(junit.render(replace(ALL[case], policy=policy)))

    (found,) = root.findall(f".//testcase/{tag}")

    assert found.get("message") == ALL[case].benchmarks[0].notes[0].text + "."


def test_a_warning_is_no_failure_in_junit():
    root = ET.fromstring(junit.render(ALL["warn"]))

    assert root.find(".//failure") is None
    assert str(ALL["warn"].benchmarks[0].findings[0]) in root.find(".//system-out").text


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_stay_told_apart_in_xml(name):
    root = ET.fromstring(junit.render(verdict(renamed(failing(), name))))

    assert visible(name)[:50] in root.find(".//testcase/system-out").text.replace("\n", "\\n")


def test_characters_that_xml_lacks_become_escapes():
    text = junit.render(verdict(renamed(failing(), "a\x00b\uffffc\U0001fffed")))

    assert ET.fromstring(text).find(".//testcase").get("name") == "a\\x00b\\uffffc\\U0001fffed"
