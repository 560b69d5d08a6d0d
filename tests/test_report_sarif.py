"""SARIF: the OASIS schema, what GitHub asks for beyond it, and names that are anything."""

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import jsonschema
import pytest
from hypothesis import given, settings
from test_report_text import OUTCOMES, check_golden
from verdicts import ALL, NAMES, failing, finding, hostile, inconclusive, passing, verdict

from ci_flame.policy import Policy, Waiver
from ci_flame.profile import Place
from ci_flame.report import sarif
from ci_flame.verdict import Figure, Outcome, Sort
from ci_flame.verdict.located import Located

SCHEMA = json.loads(
    (Path(__file__).parent / "data" / "sarif" / "sarif-2.1.0-rtm.5.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft4Validator(SCHEMA)
EXPIRED = "waiver-expired"
LEVELS = {"error", "warning", "note"}


def checked(given, **options):
    """Return the only run, valid by the schema and as GitHub takes it."""
    text = sarif.render(given, **options)
    text.encode("ascii")
    document = json.loads(text)
    VALIDATOR.validate(document)
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    marks = [
        r["partialFingerprints"]["ciFlame/v1"] for r in run["results"] if "partialFingerprints" in r
    ]
    assert len(set(marks)) == len(marks) or any("suppressions" in r for r in run["results"])
    for each in run["results"]:
        assert rules[each["ruleIndex"]]["id"] == each["ruleId"]
        assert each["level"] in LEVELS
        assert each["message"]["text"].strip()
        assert not re.search(r"[\x00-\x1f]", each["message"]["text"])
        (place,) = each["locations"]  # GitHub refuses a result without one
        steps = [
            step["location"]
            for flow in each.get("codeFlows", ())
            for thread in flow["threadFlows"]
            for step in thread["locations"]
        ]
        assert len(steps) <= sarif.STEPS
        for one in (place, *steps):
            artifact = one["physicalLocation"]["artifactLocation"]
            parts = urlsplit(artifact["uri"])
            assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
            assert not parts.path.startswith("/")
            assert ".." not in unquote_to_bytes(parts.path).split(b"/")
            assert artifact["uriBaseId"] in run["originalUriBaseIds"]
            assert one["physicalLocation"]["region"]["startLine"] >= 1
    return run


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_valid(case):
    checked(ALL[case])
    checked(ALL[case], name="linux, 3.12")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden(outcome):
    check_golden(f"{outcome}.sarif", sarif.render(ALL[outcome]))


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_the_file_is_valid(name):
    run = checked(hostile(name), name=name)

    assert len(run["results"]) >= 2


def test_a_finding_points_at_its_line_and_tells_its_path():
    (result,) = checked(ALL["fail"])["results"]
    where = result["locations"][0]["physicalLocation"]
    (flow,) = result["codeFlows"]
    steps = [one["location"] for one in flow["threadFlows"][0]["locations"]]

    assert result["message"]["text"] == str(ALL["fail"].benchmarks[0].findings[0])
    assert where["artifactLocation"]["uri"] == "src/shop/parser.py"
    assert where["region"]["startLine"] == 88
    assert [step["message"]["text"] for step in steps][-2:] == [
        "shop.parser:parse_order, 34.9 % of the benchmark",
        "shop.parser:tokenize, 18.6 % of the benchmark",
    ]


def test_files_are_told_from_the_root_of_the_repository():
    known = Located({"src/shop/parser.py": "pay/ä b/parser:1.py"}, "pay/")
    (result,) = checked(replace(ALL["fail"], located=known))["results"]
    ((thread,),) = (flow["threadFlows"] for flow in result["codeFlows"])
    steps = [step["location"] for step in thread["locations"]]
    uris = [
        one["physicalLocation"]["artifactLocation"]["uri"] for one in (*result["locations"], *steps)
    ]

    assert uris == ["pay/%C3%A4%20b/parser%3A1.py"] * 3, "none is told that is not in it"


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes():
    assert sarif.uri("a\udce9b.py") == "a%E9b.py"
    assert sarif.uri("a\ud800b.py") == "a%ED%A0%80b.py"


@pytest.mark.parametrize(("outcome", "level"), [("fail", "error"), ("warn", "warning")])
def test_the_level_is_the_outcome(outcome, level):
    assert [each["level"] for each in checked(ALL[outcome])["results"]] == [level]


def test_what_could_not_be_judged_is_a_notification_and_no_result():
    run = checked(verdict(inconclusive(), passing()))
    (told,) = run["invocations"][0]["toolExecutionNotifications"]

    assert run["results"] == []
    assert told["level"] == "warning"
    assert "inconclusive. architecture: x86_64, aarch64" in told["message"]["text"]


def rules_of(*findings):
    each = replace(failing(), findings=findings)
    return [result["ruleId"] for result in checked(verdict(each))["results"]]


def test_each_sort_of_finding_has_its_rule():
    found = failing().findings[0]
    new = finding(failing().diff, "shop.tax:cached_lookup")
    figure = Figure("run_queue.p99_ms", 7.2, 5.0, 5, 5, "10 %", 0.1)

    assert new.change.before_ns == 0
    assert rules_of(found) == ["growth"]
    assert rules_of(new) == ["new-cost"]
    assert rules_of(replace(found, sort=Sort.BUDGET, limit="30 %")) == ["budget"]
    assert rules_of(replace(found, sort=Sort.CREEP, since="1a2b of 2026-09-01")) == ["creep"]
    assert rules_of(replace(found, sort=Sort.METRIC, figure=figure)) == ["metric"]
    count = replace(figure, name="calls")
    assert rules_of(replace(found, sort=Sort.COUNT, figure=count)) == ["count"]
    assert set(Sort) <= set(sarif.RULES)


def marks(given, **options):
    return [
        each["partialFingerprints"]["ciFlame/v1"] for each in checked(given, **options)["results"]
    ]


def test_a_fingerprint_outlives_line_and_figures():
    each = failing()
    found = each.findings[0]
    later = replace(
        found,
        place=Place("src/shop/moved.py", 1),
        change=replace(found.change, after_ns=found.change.after_ns * 2),
        certainty=0.9,
        limit="20 %",
        changed="",
    )

    assert marks(verdict(each)) == marks(verdict(replace(each, findings=(later,))))


def test_a_fingerprint_tells_benchmarks_modes_functions_and_legs_apart():
    each = failing()
    found = each.findings[0]
    others = [
        verdict(failing("tests/bench_shop.py::test_other")),
        verdict(replace(each, findings=(replace(found, mode="off-cpu"),))),
        verdict(replace(each, findings=(replace(found, sort=Sort.BUDGET),))),
        verdict(replace(each, findings=(replace(found, under="shop.api:checkout"),))),
        verdict(replace(each, findings=(replace(found, self_only=True),))),
        verdict(replace(each, findings=(finding(each.diff, "re:Pattern.scanner"),))),
    ]
    all_of = [*marks(verdict(each)), *marks(verdict(each), name="py312")]
    for other in others:
        all_of += marks(other)
    twice = marks(verdict(replace(each, findings=(found, found))))

    assert len(set(all_of)) == len(all_of) == 8
    assert len(set(twice)) == 2


def test_legs_of_a_matrix_have_a_category():
    assert checked(ALL["fail"], name="linux-3.12")["automationDetails"] == {
        "id": "ci_flame/linux-3.12/"
    }
    # upload-sarif tells jobs and matrix legs apart itself where the file does not.
    assert "automationDetails" not in checked(ALL["fail"])


UNTIL = date(2026, 11, 1)
WAIVER = Waiver(
    ("shop.parser:tokenize",), UNTIL, "fixed in the next release", place="ci-flame.yml:20"
)


def test_what_is_waived_is_suppressed():
    each = failing()
    waived = replace(each.findings[0], waiver=WAIVER)
    (result,) = checked(verdict(replace(each, findings=(), waived=(waived,))))["results"]

    assert result["level"] == "note"
    assert result["suppressions"] == [
        {
            "kind": "external",
            "status": "accepted",
            "justification": "until 2026-11-01: fixed in the next release",
        }
    ]


@pytest.mark.parametrize(("today", "expired"), [(date(2026, 11, 1), 0), (date(2026, 11, 2), 1)])
def test_a_waiver_that_has_ended_is_told_where_it_stands(today, expired):
    policy = Policy(waivers=(WAIVER,), today=today)
    results = checked(replace(verdict(failing()), policy=policy))["results"]
    told = [each for each in results if each["ruleId"] == "waiver-expired"]

    assert len(told) == expired
    for each in told:
        where = each["locations"][0]["physicalLocation"]
        assert where["artifactLocation"]["uri"] == "ci-flame.yml"
        assert where["region"]["startLine"] == 20
        assert "shop.parser:tokenize ended on 2026-11-01" in each["message"]["text"]


@pytest.mark.parametrize(("number", "left_out"), [(7, 0), (8, 1)])
def test_the_worst_results_are_kept(monkeypatch, number, left_out):
    monkeypatch.setattr(sarif, "RESULTS", 7)
    each = failing()
    found = each.findings[0]
    warned = replace(found, outcome=Outcome.WARN)
    findings = (*[warned] * (number - 1), found)
    run = checked(verdict(replace(each, findings=findings)))
    notes = run["invocations"][0]["toolExecutionNotifications"]

    assert len(run["results"]) == 7
    assert run["results"][0]["level"] == "error"
    assert len(notes) == left_out


def test_only_the_worst_tell_their_path(monkeypatch):
    monkeypatch.setattr(sarif, "FLOWS", 1)
    each = failing()
    results = checked(verdict(replace(each, findings=each.findings * 3)))["results"]

    assert ["codeFlows" in result for result in results] == [True, False, False]
