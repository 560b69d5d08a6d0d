"""What a check was really compared with, told by its verdict after the step that looked for one."""

import json
from dataclasses import replace

import pytest
from test_github_comment import BUILD
from test_github_comment import told as told_of
from verdicts import ALL, failing, passing, verdict

from ci_flame.errors import FormatError
from ci_flame.github import verdict_json
from ci_flame.github.check import Ended, compared
from ci_flame.github.comment import render
from ci_flame.github.compared import Compared, really
from ci_flame.report import json_report
from ci_flame.verdict import Note, Outcome
from ci_flame.verdict.confirmed import confirmation

STORED = "3f2a9c41d07be8855c1f6ac2b9d31e7740aa91f2"
BASE = "b" * 40
FOUND = Compared("folder:/somewhere", "ancestor", STORED, 3, "baseline: the artifact of 3f2a9c41d0")


def confirmed(each, commit=BASE, trouble=""):
    """A benchmark that was recorded once more."""
    note = confirmation(
        each.benchmark, each.findings, Outcome.FAIL, beside=commit, ancestor=STORED, trouble=trouble
    )
    return replace(each, notes=(*each.notes, note))


def of(made, commit=STORED):
    assert made.diff is not None
    made = replace(made, diff=replace(made.diff, before_commit=commit))
    return verdict_json.decode(json_report.render(made).encode(), "verdict.json")


def test_nothing_that_was_recorded_is_what_was_found():
    assert really(of(ALL["fail"]), FOUND) == FOUND
    assert really(None, FOUND) == FOUND
    assert really(of(ALL["fail"], ""), FOUND) == FOUND


def test_a_failure_that_was_confirmed_is_compared_with_the_base():
    was = really(of(verdict(confirmed(failing())), BASE), FOUND)

    assert was == Compared(
        f"rerun:{BASE}", "rerun", BASE, 0, "baseline bbbbbbbbbb, recorded in this job"
    )
    assert really(of(verdict(confirmed(failing())), BASE), was) == was


def test_the_stored_commit_itself_recorded_once_more_is_not_its_stored_run():
    found = replace(FOUND, source="artifact", distance=0)
    was = really(of(verdict(confirmed(failing(), STORED))), found)

    assert (was.source, was.sha, was.distance) == ("rerun", STORED, 0)


def test_a_failure_that_could_not_be_confirmed_beside_is_compared_with_what_is_stored():
    told = of(verdict(confirmed(failing(), trouble="it does not run")))

    assert really(told, FOUND) == FOUND


def test_a_part_that_was_confirmed_is_told_beside_the_rest():
    told = of(verdict(confirmed(failing()), passing()))
    was = really(told, FOUND)
    body = render(told, replace(BUILD, source=was.source, distance=3, again=was.again))
    several = "compared with 2 builds: 3f2a9c41d0 (3 before the base), 1111111111 (1 before)"
    beside = render(
        told, replace(BUILD, source=was.source, distance=3, again=was.again, told=several)
    )

    assert was == replace(FOUND, again=BASE)
    for text in (body, beside):
        assert "so that growth of the 3 commits between is judged, too; what failed is" in text
        assert "compared with <code>bbbbbbbbbb</code>, recorded in the same job" in text


def test_a_base_that_was_recorded_instead_of_a_stored_run_of_the_same_commit():
    """Its settings were others, so that the stored run was not compared with."""
    note = Note("rerun", "baseline 3f2a9c41d0 was recorded with other settings", commit=STORED)
    made = verdict(failing())
    made = replace(made, notes=(*made.notes, note))
    found = replace(FOUND, source="artifact", distance=0)

    assert really(of(made), found).source == "rerun"
    assert really(of(made), found).word == f"rerun:{STORED}"


def test_what_nobody_tells_is_not_told():
    was = really(of(ALL["fail"], BASE), FOUND)

    assert was == Compared(sha=BASE)


def test_the_outputs_are_of_the_report(tmp_path):
    (tmp_path / "verdict.json").write_text(
        json_report.render(of_base(confirmed(failing()))), encoding="utf-8"
    )

    assert compared(Ended("fail", 1, tmp_path), FOUND).outputs() == {
        "baseline": f"rerun:{BASE}",
        "baseline_sha": BASE,
        "baseline_distance": "0",
        "baseline_source": "rerun",
        "baseline_told": "baseline bbbbbbbbbb, recorded in this job",
    }
    assert compared(Ended("error", 3), FOUND) == FOUND
    (tmp_path / "verdict.json").write_text("{", encoding="utf-8")
    assert compared(Ended("fail", 1, tmp_path), FOUND) == FOUND


def of_base(each):
    made = verdict(each)
    assert made.diff is not None
    return replace(made, diff=replace(made.diff, before_commit=BASE))


@pytest.mark.parametrize("commit", ["main", "x" * 40, "a" * 65, 5, {}])
def test_a_commit_of_a_note_is_read_strictly(commit):
    document = json.loads(json_report.render(of_base(confirmed(failing()))))
    document["benchmarks"][0]["notes"][-1]["commit"] = commit

    with pytest.raises(FormatError, match=r"commit is (not a commit|missing, or not text)"):
        verdict_json.decode(json.dumps(document).encode(), "verdict.json")


def test_a_comment_says_since_when_growth_was_judged():
    one = render(told_of(ALL["fail"]), replace(BUILD, source="ancestor", distance=1))
    exact = render(told_of(ALL["fail"]), replace(BUILD, source="artifact", distance=0))

    assert "1 commit before the base), so that growth of the commit between is judged, too;" in one
    assert "judged, too" not in exact
