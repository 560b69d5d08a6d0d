"""Tables of functions: which are listed, and that no figure contradicts the sentence above it."""

from dataclasses import replace

import pytest
from synthetic import SHOP, synthetic_measurement
from test_github_comment import BUILD, told
from verdicts import failing, passing, verdict

from ci_flame.diff import diff_benchmark
from ci_flame.github.comment import render
from ci_flame.judge import judge_benchmark
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Frame, Mode
from ci_flame.report import json_report, markdown, terminal, words
from ci_flame.verdict import Note, Outcome

NB = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("globs", "listed"),
    [
        (("*",), {"shop.parser:tokenize", "re:Pattern.scanner"}),
        (("*", "kernel:*"), {"shop.parser:tokenize", "re:Pattern.scanner", "kernel:clear_page"}),
        (("shop.*",), {"shop.parser:tokenize"}),
        (("re:*",), {"shop.parser:tokenize", "re:Pattern.scanner"}),
        (("**;re:*",), {"shop.parser:tokenize", "re:Pattern.scanner"}),
        ((), {"shop.parser:tokenize", "re:Pattern.scanner"}),
    ],
)
def test_only_functions_that_a_rule_reads_are_listed(globs, listed):
    each = failing()  # its finding is on shop.parser:tokenize
    total = replace(each.diff.total, p_value=0.0)
    names = {"shop.parser:tokenize", "re:Pattern.scanner"}
    frames = [frame for frame in each.diff.frames if str(frame.frame) in names]
    kernel = Frame.parse("kernel:clear_page")
    frames.append(replace(frames[0], frame=kernel, path=(*frames[0].path, kernel)))
    frames = tuple(replace(frame, total=total) for frame in frames)
    rules = (Rule(frames=globs, max_growth=Limit(share=0.1)),) if globs else ()
    each = replace(each, diff=replace(each.diff, frames=frames), rules=rules)

    assert {str(frame.frame) for frame in terminal.changed(each)} == listed
    (written,) = json_report.document(verdict(each))["benchmarks"]
    assert {row["function"] for row in written["functions"] if row["changed"]} == listed
    in_text = "kernel:clear_page" in terminal.render(verdict(each))
    assert in_text == ("kernel:clear_page" in listed)


def test_a_judged_benchmark_knows_its_rules():
    after = synthetic_measurement(SHOP)
    rules = (
        Rule(frames=("shop.*",), max_growth=Limit(share=0.1)),
        Rule(mode="off-cpu", max_growth=Limit(share=0.1)),
    )
    made = diff_benchmark(synthetic_measurement(SHOP), after, Mode.ON_CPU)

    assert judge_benchmark(made, Policy(rules=rules), family=1).rules == rules[:1]


def test_what_was_not_judged_is_not_said_to_be_unchanged():
    note = Note("busy", "The machine was busy.", "b")
    each = replace(passing(), outcome=Outcome.INCONCLUSIVE, notes=(note,), smallest_visible=None,
                   visible={})  # fmt: skip

    for text in (markdown.render(verdict(each)), terminal.render(verdict(each))):
        assert "noise can explain" not in text
        assert "o function was judged: see the note" in text
    assert "noise can explain" in markdown.render(verdict(passing()))


def test_a_table_has_the_figure_of_the_sentence():
    each = failing()
    (one,) = each.findings
    frame = next(frame for frame in each.diff.frames if frame.frame == one.frame)
    assert frame.own.after_ns != frame.total.after_ns
    own = replace(one, change=frame.own, self_only=True)
    of_own = verdict(replace(each, findings=(own,)))

    assert "grew by" in str(own)
    assert "own cost of shop.parser:tokenize" in str(own)
    for text in (markdown.render(of_own), render(told(of_own), BUILD)):
        row = next(line for line in text.splitlines() if line.startswith("| ❌ **"))
        assert "shop.parser:tokenize</code>** (own cost) |" in row
        assert words.growth(frame.own) in row.replace(NB, " ")
    text = terminal.render(of_own)
    assert any(
        "(own cost)" in line and words.growth(frame.own) in line for line in text.split("\n")
    )
    # Of the calls from one caller only, the row says so.
    under = replace(each, findings=(replace(own, under="shop:main"),))
    assert terminal.told_of(under, frame) == (frame.own, " (own cost, under shop:main)")
    told_under = replace(one, under="shop:*main*")
    of_some = verdict(replace(each, findings=(told_under,)))
    for text in (markdown.render(of_some), render(told(of_some), BUILD)):
        row = next(line for line in text.splitlines() if line.startswith("| ❌ **"))
        assert "</code>** (under shop:&#42;main&#42;) |" in row
    # All calls say more than those of one caller; growth since an anchor is of another before side.
    both = replace(each, findings=(told_under, one))
    assert terminal.told_of(both, frame) == (one.change, "")
    since = replace(each, findings=(replace(own, since="1a2b3c4d5e"),))
    assert terminal.told_of(since, frame) == (frame.total, "")
