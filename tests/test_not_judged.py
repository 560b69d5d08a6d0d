"""A mode that was not judged is no PASS in any report; the build's outcome is another's matter."""

from dataclasses import replace

import pytest
from synthetic import SHOP, synthetic_measurement, synthetic_run

from ci_flame.diff import diff
from ci_flame.judge import judge
from ci_flame.policy import Policy
from ci_flame.report import REPORTERS
from ci_flame.verdict import Note, Outcome


def verdict(slug):
    runs = [synthetic_run(synthetic_measurement(SHOP, seed=seed)) for seed in (1, 2)]
    got = judge(diff(*runs), Policy(), after=runs[1])
    (one,) = got.benchmarks
    notes = (Note(slug, "hardly uses the CPU: only its waiting is judged", one.benchmark),)
    return replace(got, benchmarks=(replace(one, notes=notes),))


SHOWN = {
    "terminal": ("NOT JUDGED", " PASS\n"),
    "markdown": ("</code> not judged", "</code> pass"),
    "junit": ("<skipped", "<failure"),
    "teamcity": ("testIgnored", "testFailed"),
    "static": (">not judged</span>", '<td class="pass">pass'),
    "html": (">not judged</span>", '<span class="unseen">pass</span>'),
}


@pytest.mark.parametrize("slug", ["waits-instead", "no-waits"])
@pytest.mark.parametrize("name", SHOWN)
def test_what_was_not_judged_says_so(name, slug):
    said = REPORTERS[name](verdict(slug))
    text = said if isinstance(said, str) else str(said)
    shown, hidden = SHOWN[name]

    assert shown in text
    assert hidden not in text


@pytest.mark.parametrize("name", SHOWN)
def test_what_was_judged_does_not(name):
    said = str(REPORTERS[name](verdict("recording")))

    assert SHOWN[name][0] not in said


def test_it_passes_all_the_same_and_a_failure_is_one():
    (one,) = verdict("waits-instead").benchmarks

    assert (one.outcome, one.word, one.left_out) == (Outcome.PASS, "not judged", True)
    failed = replace(one, outcome=Outcome.FAIL)
    assert (failed.word, failed.left_out) == ("fail", False)
