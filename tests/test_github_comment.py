"""Comments: what they say, when they are written, and that names in them are only text."""

import json
import re
from dataclasses import replace

import pytest
from github_rules import shown
from hypothesis import given, settings
from hypothesis import strategies as st
from verdicts import ALL, HOSTILE, failing, inconclusive, no_baseline, passing, renamed, verdict

from ci_flame.github import comment
from ci_flame.github.comment import Build, Stamp, read_stamp, render, wanted
from ci_flame.github.verdict_json import decode
from ci_flame.report import json_report, markdown, terminal
from ci_flame.report.words import visible
from ci_flame.verdict import Outcome

NB = "\N{NO-BREAK SPACE}"
PAGE = "https://github.com/acme/demo/actions/runs/12/artifacts/5"
REPORT = "https://github.com/acme/demo/actions/runs/12/artifacts/6"
RUN = "https://github.com/acme/demo/actions/runs/12"
BUILD = Build(
    key="bench_3.12",
    run_id=12,
    run_attempt=1,
    exit_code=1,
    commit="b81e0d5f6a7c92413de08847f5c20b9a63cd1e54",
    base="3f2a9c41d07be8855c1f6ac2b9d31e7740aa91f2",
    source="ancestor",
    distance=3,
    page_url=PAGE,
    report_url=REPORT,
    run_url=RUN,
)
OURS = re.compile(r"</?(?:code|details|summary|span|sub)>|<!-- ci-flame:v1 [^>]*-->")
KINDS = {
    "blank_line", "block_html", "block_code", "block_text", "heading", "inline_html", "link",
    "list", "list_item", "paragraph", "strong", "table", "table_body", "table_cell", "table_head",
    "table_row", "text",
}  # fmt: skip


def told(of):
    return decode(json_report.render(of).encode(), "verdict.json")


def check_harmless(body):
    """Check that a comment holds nothing that we did not write."""
    page = shown(body)

    assert page.links == [PAGE, REPORT, RUN]
    assert page.images == []
    assert len(page.headings) == 1
    assert [tag for tag in page.html if not OURS.fullmatch(tag)] == []
    assert page.kinds <= KINDS
    assert page.later() == {}
    return page


# ---- what it says ----


def test_a_failure_is_told_in_this_order():
    body = render(told(ALL["fail"]), BUILD)
    order = [
        "<!-- ci-flame:v1 key=bench_3.12 run=12 attempt=1 outcome=fail -->\n",
        "### ❌ ci-flame: FAIL in <code>bench&#95;3.12</code> (3 benchmarks: 1 fail, ",
        "**<code>shop.parser:tokenize</code> grew by 25 % (21-29 %), 60.1 -&#62; 75.2 µs",
        "```text\none call path ",
        "\n[total] ",
        "shop.parser:tokenize     ██████                            18.6 %   +25.1 %",
        f"| ❌ **<code>shop.parser:tokenize</code>** | 60.1{NB}µs | 75.2{NB}µs | +25.1{NB}% |",
        "| <code>shop.tax:lookup</code> |",
        "<details><summary>All 3 benchmarks</summary>",
        "<details><summary>4 notes</summary>",
        f"[Flame graphs]({PAGE})",
        "compared with <code>3f2a9c41d0</code> (the nearest commit with a stored run, 3 commits",
        "recorded with ebpf, cpu-clock",
    ]
    places = [body.find(text) for text in order]

    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)
    assert places[0] == 0
    check_harmless(body)


def test_what_was_read_from_the_file_is_what_the_verdict_has():
    of = ALL["fail"]
    read = told(of)
    finding, diff = of.benchmarks[0].findings[0], of.benchmarks[0].diff
    nodes = {node.path: node.total for node in diff.paths}
    boxes = [nodes[finding.path[: n + 1]] for n in range(len(finding.path))]

    assert read.outcome is Outcome.FAIL
    assert read.counts == of.counts
    assert read.before_commit == of.diff.before_commit
    assert read.findings[0].sentence == str(finding)
    assert read.findings[0].change == finding.change
    assert read.findings[0].path == tuple(map(str, finding.path))
    assert read.findings[0].costs == tuple((box.before_ns, box.after_ns) for box in boxes)
    assert read.benchmarks[0].total == diff.total
    assert [each.function for each in read.benchmarks[0].changed] == [
        str(frame.frame) for frame in terminal.changed(of.benchmarks[0])
    ]


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (verdict(passing()), "No hot path grew past its limit."),
        (verdict(inconclusive()), "architecture: x86&#95;64, aarch64: times may not be compared."),
        (verdict(no_baseline()), "is new: nothing to compare with."),
    ],
)
def test_a_build_without_a_finding_says_why(of, words):
    assert words in render(told(of), BUILD).partition("<details>")[0]


def test_a_build_that_judged_nothing_says_so():
    body = render(None, replace(BUILD, exit_code=3))

    assert "### 🛑 ci-flame: nothing was judged in <code>bench&#95;3.12</code>" in body
    assert "exit code 3" in body
    assert read_stamp(body).outcome == "error"
    assert "compared with" not in body
    check_harmless(body)


@pytest.mark.parametrize(
    ("earlier", "of", "words"),
    [
        ("fail", verdict(passing()), "found that a hot path grew. It is mended."),
        ("warn", verdict(passing()), "found that a hot path grew. It is mended."),
        ("fail", verdict(inconclusive()), "This build cannot tell whether it is mended."),
        ("pass", verdict(passing()), None),
        ("error", verdict(passing()), None),
        ("fail", verdict(failing()), None),
    ],
)
def test_a_regression_that_an_earlier_build_told_of_is_mended(earlier, of, words):
    body = render(told(of), BUILD, Stamp("bench_3.12", 11, 1, earlier))

    if words is None:
        assert "An earlier build" not in body
    else:
        assert words in body


@pytest.mark.parametrize(
    ("source", "distance", "words"),
    [
        ("artifact", 0, " (its stored run)"),
        (
            "ancestor",
            1,
            (
                " (the nearest commit with a stored run, 1 commit before the base), so that growth"
                " of the commit between is judged, too"
            ),
        ),
        ("rerun", 0, " (recorded again in the same job)"),
        ("given", 0, " (the baseline that the workflow names)"),
        ("", 0, ""),
    ],
)
def test_the_foot_says_what_it_was_compared_with(source, distance, words):
    body = render(told(ALL["fail"]), replace(BUILD, source=source, distance=distance))

    assert f"compared with <code>3f2a9c41d0</code>{words};" in body


def test_the_foot_names_builds_beside_the_baseline_and_why_there_is_none():
    words = "compared with 2 builds: 3f2a9c41d0 (the base commit), 1111111111 (1 before)"
    several = render(told(ALL["fail"]), replace(BUILD, source="artifact", told=words))
    why = "no baseline: nothing fits; artifact 5 of run 6 is refused: <b>@everyone</b>"
    none = render(told(ALL["no-baseline"]), replace(BUILD, source="none", base="", told=why))
    other = render(told(ALL["fail"]), replace(BUILD, told="<b>@everyone</b>"))

    assert f"; {words};" in several
    assert "there was nothing to compare with: nothing fits; artifact 5 of run 6" in none
    for body in (several, none, other):
        check_harmless(body)
    assert "everyone" not in other


def test_what_is_not_known_is_not_told():
    bare = Build("bench", 12, 1, 0)
    body = render(told(verdict(passing())), bare)

    assert "](" not in body
    assert "compared with" not in body
    assert body.rstrip().endswith("<sub>Recorded with ebpf, cpu-clock.</sub>")


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "https://a.b/c)d", "https://a.b/c d", "//a.b/c", "https://a@b/c", "x"],
)
def test_an_address_that_could_end_its_link_is_left_out(url):
    assert "](" not in render(None, Build("bench", 1, 1, 3, page_url=url))
    assert comment.is_address(PAGE)


def test_three_findings_are_told_and_the_others_folded():
    each = failing()
    finding = each.findings[0]
    others = [replace(finding, outcome=Outcome.WARN) for _ in range(30)]
    body = render(told(verdict(replace(each, findings=(finding, *others)))), BUILD)
    visible_part = body.partition("```")[0]

    assert visible_part.count("grew by 25 %") == comment.FINDINGS
    assert visible_part.index("❌ **") < visible_part.index("⚠️ **")
    assert "<summary>28 findings more</summary>" in body
    assert body.count("grew by 25 %") == comment.FINDINGS + comment.FOLDED
    assert "- and 8 findings more in the report" in body


def test_the_worst_benchmark_is_told_first_and_named():
    mild = failing("tests/b.py::test_mild", Outcome.WARN)
    body = render(told(verdict(mild, failing("tests/b.py::test_bad"))), BUILD)

    assert body.index("test&#95;bad") < body.index("test&#95;mild")
    assert body.count(" In <code>tests/b.py::test") == 2


def test_a_benchmark_with_many_changes_counts_what_it_does_not_list():
    each = failing()
    total = replace(each.diff.total, p_value=0.0)
    frames = tuple(replace(frame, total=total) for frame in each.diff.frames)
    body = render(told(verdict(replace(each, diff=replace(each.diff, frames=frames)))), BUILD)
    marks = sum(frame.frame.kind in {"mark", "kernel"} for frame in frames)

    assert body.count("| <code>") + body.count("| ❌ **<code>") >= comment.ROWS
    assert f"and {len(frames) - marks - comment.ROWS}{NB}functions more |" in body


def test_a_file_without_the_newer_keys_still_has_the_guilty_function():
    document = json_report.document(ALL["fail"])
    document = json.loads(json.dumps(document))
    for each in document["benchmarks"]:
        for finding in each["findings"]:
            del finding["path_costs"]
        for function in each["functions"]:
            del function["changed"]
    body = render(decode(json.dumps(document).encode(), "verdict.json"), BUILD)

    assert "```" not in body
    assert f"| ❌ **<code>shop.parser:tokenize</code>** | 60.1{NB}µs | 75.2{NB}µs |" in body


def test_a_first_build_was_compared_with_nothing():
    body = render(told(verdict(no_baseline())), BUILD)

    assert "compared with" not in body.replace("nothing to compare with", "")
    assert "there was nothing to compare with" in body


def test_figures_of_a_fork_are_called_that():
    assert "the pull request&#39;s own build" not in render(told(ALL["fail"]), BUILD)
    assert "the figures are those of the pull request's own build" in render(
        told(ALL["fail"]), replace(BUILD, foreign=True)
    )


# ---- stamps ----


@given(
    st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True),
    st.integers(1, 2**63 - 1),
    st.integers(1, 10**6),
    st.sampled_from([*Outcome, "error"]),
)
def test_a_stamp_is_read_as_it_was_written(key, run_id, attempt, outcome):
    stamp = Stamp(key, run_id, attempt, outcome)

    assert read_stamp(f"{stamp}\n\ntext") == stamp
    assert read_stamp(f"{stamp}\r\n\r\ntext") == stamp


@pytest.mark.parametrize(
    "body",
    [
        "",
        "text\n<!-- ci-flame:v1 key=a run=1 attempt=1 outcome=fail -->",
        "> <!-- ci-flame:v1 key=a run=1 attempt=1 outcome=fail -->",
        "<!-- ci-flame:v2 key=a run=1 attempt=1 outcome=fail -->",
        "<!-- ci-flame:v1 key=a b run=1 attempt=1 outcome=fail -->",
        "<!-- ci-flame:v1 key=a run=-1 attempt=1 outcome=fail -->",
        "<!-- ci-flame:v1 key=a run=1 attempt=1 outcome=fail --> more",
        f"<!-- ci-flame:v1 key=a run={'9' * 5000} attempt=1 outcome=fail -->",
    ],
)
def test_another_comment_has_no_stamp(body):
    assert read_stamp(body) is None


# ---- when ----

EARLIER = Stamp("bench", 1, 1, "fail")
CLEAN, BROKEN = verdict(passing()), verdict(failing())
BETTER = verdict(replace(failing(), findings=(), outcome=Outcome.PASS))


@pytest.mark.parametrize(
    ("mode", "of", "code", "earlier", "is_wanted"),
    [
        ("auto", CLEAN, 0, None, False),
        ("auto", CLEAN, 0, EARLIER, True),  # it is mended
        ("auto", BROKEN, 1, None, True),
        ("auto", verdict(failing(outcome=Outcome.WARN)), 0, None, True),
        ("auto", verdict(inconclusive()), 0, None, False),
        ("auto", verdict(inconclusive()), 5, None, True),  # where the policy fails on it
        ("auto", verdict(no_baseline()), 0, None, False),
        ("auto", verdict(no_baseline()), 4, None, True),
        ("auto", BETTER, 0, None, False),
        ("auto", None, 3, None, False),  # the job is red, and its log says why
        ("auto", None, 3, EARLIER, True),
        ("on-change", CLEAN, 0, None, False),
        ("on-change", BETTER, 0, None, True),
        ("on-change", verdict(no_baseline()), 0, None, True),
        ("on-change", None, 3, None, False),
        ("always", CLEAN, 0, None, True),
        ("always", None, 3, None, True),
        ("never", BROKEN, 1, EARLIER, False),
    ],
)
def test_when_a_build_is_told(mode, of, code, earlier, is_wanted):
    assert wanted(mode, None if of is None else told(of), code, earlier) is is_wanted


# ---- hostile names and sizes ----

TOKENS = re.split(
    r"\s+",
    r"""
@octocat #123 GH-12 https://example.org/x www.example.org ` ``` ~~~ | \ <b> </details> <!-- -->
<script> ![i](x) [x](https://example.org) [^1] [_] - 1. # > *** ___ ~~ $x$ $$ :rocket: :tada:
&lt; &#64;me a@b.org acme/demo#1 acme@3f2a9c41d07be8855c1f6ac2b9d31e7740aa91f2 ==== ---- ::error::
{{7}} ﬁ 名
""".strip(),
)
SPACES = [" ", "    ", "\t", "\n", "\r\n", "\n\n", "\n```\n", "\u2028", "\x00", "\x1b[31m"]
ODD = ["\u202e", "\u2067", "\u200b", "\udce9", "e\u0301"]
PARTS = st.one_of(st.sampled_from([*TOKENS, *SPACES, *ODD]), st.text(max_size=8))
NASTY = st.lists(PARTS, min_size=1, max_size=12).map("".join).filter(bool)


@settings(max_examples=300, deadline=None)
@given(NASTY)
def test_any_text_is_shown_as_it_is(name):
    page = shown(f"before {markdown.text(name)} after")

    assert page.kinds <= {"paragraph", "text", "inline_html"}
    assert set(page.html) <= {"<span>", "</span>"}
    assert page.later() == {}
    # A parser trims and joins spaces, as a page does.
    assert "".join(page.everything.split()) == "".join(
        f"before {visible(name)} after".replace("\N{WORD JOINER}", "").split()
    )


@settings(max_examples=200, deadline=None)
@given(NASTY)
def test_any_name_in_code_is_shown_as_it_is(name):
    page = shown(f"before {markdown.code(name)} after")

    assert page.kinds <= {"paragraph", "text", "inline_html"}
    assert page.html == ["<code>", "</code>"]
    assert page.links == []


@settings(max_examples=25, deadline=None)
@given(NASTY)
def test_no_name_becomes_anything_in_a_comment(name):
    of = verdict(renamed(failing(), name))

    page = check_harmless(render(told(of), replace(BUILD, commit="", base="")))
    if len(name) < 40:
        assert "".join(visible(name).replace("`", "'").split()).replace(
            "\N{WORD JOINER}", ""
        ) in "".join(page.everything.replace("`", "'").split())


LONG = {"mentions": "@x" * 50_000, "ticks": "`|\n" * 1_000, "joined": "e\u0301" * 2_000}


@pytest.mark.parametrize("case", [*HOSTILE, *LONG])
def test_hostile_names_are_only_text(case):
    body = render(told(verdict(renamed(failing(), (HOSTILE | LONG)[case]))), BUILD)

    check_harmless(body)
    assert len(body) < 30_000
    for line in body.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {6, 7}


def test_the_longest_comment_is_under_the_limit_however_it_is_counted():
    each = renamed(failing(), "名" * 2_000)
    benchmarks = [
        replace(renamed(failing(), f"{n}{'`_*é🔥' * 50}"), findings=each.findings * 5)
        for n in range(60)
    ]
    body = render(told(verdict(*benchmarks)), BUILD)
    crlf = body.replace("\n", "\r\n")

    assert len(crlf.encode()) < comment.MAX_CHARACTERS
    assert "Cut here: the comment would be too long." in body
    assert body.count("<details>") == body.count("</details>")
    assert body.count("```") % 2 == 0
    assert f"[Flame graphs]({PAGE})" in body, "the links are what a reader needs most then"
    check_harmless(body)
