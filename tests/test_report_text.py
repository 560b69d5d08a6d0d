"""Terminal, JSON, JUnit, Markdown and SVG: every reporter with every kind of verdict."""

# ruff: noqa: S314, RUF001 - the XML is our own; the minus sign is what is printed

import html
import json
import math
import os
import re
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run
from verdicts import (
    ALL,
    HOSTILE,
    NAMES,
    benchmark_diff,
    failing,
    finding,
    hostile,
    no_baseline,
    passing,
    renamed,
    verdict,
)

from ci_flame import diff, judge
from ci_flame.policy import Policy
from ci_flame.profile import Kind
from ci_flame.report import REPORTERS, json_report, junit, markdown, svg, terminal
from ci_flame.report.words import columns
from ci_flame.verdict import Note, Sort

DATA = Path(__file__).parent / "data" / "report"
SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "verdict.schema.json").read_text("utf-8"))
OUTCOMES = ["empty", "pass", "fail", "warn", "inconclusive", "no-baseline"]
WRITERS = {**REPORTERS, "svg": lambda v: "".join(map(svg.render, v.benchmarks))}
IN_WORDS = {name: writer for name, writer in WRITERS.items() if name != "openmetrics"}
"""All but the one that has figures only."""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("reporter", WRITERS)
@pytest.mark.parametrize("case", ALL)
def test_every_reporter_writes_every_verdict_the_same_twice(reporter, case):
    text = WRITERS[reporter](ALL[case])

    assert text == WRITERS[reporter](ALL[case])
    assert text.encode() or not ALL[case].benchmarks


def test_the_bytes_do_not_depend_on_the_process():
    program = (
        "import hashlib, sys, verdicts; from test_report_text import WRITERS;"
        "print(hashlib.sha256(''.join(write(v) for write in WRITERS.values()"
        " for v in verdicts.ALL.values()).encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(seen) == 1


@pytest.mark.parametrize("reporter", ["terminal", "json", "junit", "svg", "html"])
def test_every_reporter_prints_the_sentence_as_it_is(reporter):
    sentence = str(ALL["fail"].benchmarks[0].findings[0])
    text = WRITERS[reporter](ALL["fail"])
    if reporter != "json":
        text = text.replace("&gt;", ">").replace("&#39;", "'")
    if reporter == "json":
        text = text.replace("\\u003e", ">")

    assert sentence in text


def check_golden(name, text):
    """Compare with the stored file; CI_FLAME_BLESS=1 accepts what is written now."""
    golden = DATA / name
    if os.environ.get("CI_FLAME_BLESS"):
        golden.write_text(text, "utf-8")
    expected = golden.read_text("utf-8")
    if text != expected:
        golden.with_suffix(golden.suffix + ".got-now").write_text(text, "utf-8")
    assert text == expected


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden_text_and_markdown(outcome):
    check_golden(f"{outcome}.txt", terminal.render(ALL[outcome]))
    check_golden(f"{outcome}.md", markdown.render(ALL[outcome]))


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_golden_svg(outcome):
    check_golden(f"{outcome}.svg", svg.render(ALL[outcome].benchmarks[0]))


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_the_json_and_the_terminal_are_whole(name):
    given_ = hostile(name)
    text = json_report.render(given_)
    text.encode("utf-8", "strict")
    (found,) = json.loads(text)["benchmarks"][0]["findings"]

    assert found["where"]["line"] >= 1
    assert not found["where"]["file"].startswith("/")
    letters = set(terminal.render(given_).replace("\n", ""))
    assert not {unicodedata.category(one) for one in letters} & {"Cc", "Cs", "Zl", "Zp"}


# ---- terminal ----


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_table_fits_the_width(width):
    each = renamed(failing(), "名" * 80)
    table = [
        line
        for line in terminal.benchmark_lines(each, width=width)
        if "->" in line and line.startswith("  ") and "limit" not in line and "per iter" not in line
    ]

    assert len(table) == terminal.ROWS
    assert len({columns(line) for line in table}) == 1
    assert columns(table[0]) <= max(width, 16 + 75)


def test_a_narrow_terminal_leaves_the_share_out_before_it_cuts_names():
    wide = "\n".join(terminal.benchmark_lines(failing(), width=100))
    narrow = "\n".join(terminal.benchmark_lines(failing(), width=80))

    assert "share of benchmark" in wide
    assert "share of benchmark" not in narrow
    assert "  native:_json.so…" in narrow
    assert "  shop.parser:parse_order " in narrow


@pytest.mark.parametrize(("width", "shown"), [(160, True), (100, False), (80, False)])
def test_the_table_says_what_could_have_been_seen_where_there_is_room(width, shown):
    frames = [frame.frame for frame in terminal.changed(failing())[: terminal.ROWS]]
    seen = replace(failing(), visible={frames[0]: 0.0612})
    lines = terminal.benchmark_lines(seen, width=width)
    start = next(n for n, line in enumerate(lines) if line.startswith("  function"))
    first, *others = lines[start + 1 :][: len(frames)]

    assert lines[start].endswith("  could have seen") is shown
    assert first.endswith(" 6.1 %") is shown
    assert all(line.endswith(" -") for line in others) is shown


def test_a_table_of_what_was_not_judged_has_no_such_column():
    lines = terminal.benchmark_lines(replace(failing(), visible={}), width=160)

    assert "could have seen" not in "".join(lines)
    assert any(line.endswith("share of benchmark") for line in lines)


@pytest.mark.parametrize("reporter", ["terminal", "markdown", "html"])
def test_a_note_of_the_build_is_not_said_again_by_its_benchmarks(reporter):
    note = Note("no-baseline", "no baseline here")
    each = replace(passing(), notes=(note, Note("blind", "blind there")))
    text = WRITERS[reporter](verdict(each, replace(each, benchmark="b"), notes=(note,)))

    assert text.count("no baseline here") == 1
    assert text.count("blind there") == 2


def test_names_cannot_forge_lines_or_reach_the_terminal():
    text = terminal.render(ALL["hostile-newline"])

    assert "\x1b" not in text
    assert "\x00" not in text
    assert not any(line.startswith("second") for line in text.splitlines())


def test_a_mode_other_than_on_cpu_is_named_everywhere():
    waiting = verdict(replace(failing(), mode="off-cpu"))

    assert "test_checkout [off-cpu] FAIL" in terminal.render(waiting)
    assert "</code> [off-cpu] fail" in markdown.render(waiting)
    assert (
        ET.fromstring(junit.render(waiting)).find(".//testcase").get("name").endswith("(off-cpu)")
    )
    assert "<small>off-cpu</small>" in REPORTERS["html"](waiting)


def bare(name="[total]"):
    """Return a failing benchmark on one function, without place, interval or known power."""
    each = failing()
    total = replace(each.diff.total, low=math.inf, high=math.inf)
    less = replace(each.diff, total=total, frames=each.diff.frames[:1], anchor_error=0.0)
    found = replace(finding(less, name), place=None, change=total)
    return replace(each, findings=(found,), diff=less, smallest_visible=None, notes=())


@pytest.mark.parametrize("reporter", WRITERS)
def test_what_is_not_known_is_not_told(reporter):
    text = WRITERS[reporter](verdict(bare()))

    assert "mallest growth" not in text
    assert "Smallest visible growth" not in text
    assert "None" not in text
    assert not re.search(r"\b(?:inf|nan)\b", text)


def test_a_finding_on_the_benchmark_has_its_change_in_json():
    (found,) = json.loads(json_report.render(verdict(bare())))["benchmarks"][0]["findings"]

    assert found["function"] == "[total]"
    assert found["path_change"]["after_ns"] == found["change"]["after_ns"]
    assert (found["file"], found["line"]) == (None, None)


def test_a_budget_without_a_baseline_has_a_finding_and_no_diff():
    each = failing()
    alone = replace(
        each,
        findings=(replace(each.findings[0], sort=Sort.BUDGET, budget_interval=(0.17, math.inf)),),
        diff=None,
    )
    document = json.loads(json_report.render(verdict(alone)))
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    (found,) = document["benchmarks"][0]["findings"]

    assert (found["sort"], found["budget_interval"]) == ("budget", [0.17, None])
    assert found["impact"] is found["path_change"] is None
    for writer in IN_WORDS.values():
        assert "budget" in writer(verdict(alone))


def test_a_verdict_of_the_judge_itself():
    """From samples to every report, with nothing built by hand in between."""
    before = synthetic_run(synthetic_measurement(SHOP, seed=1))
    after = synthetic_run(synthetic_measurement(grown(SHOP, "shop.parser:tokenize", 1.5), seed=2))
    judged = judge.judge(diff.diff(before, after), Policy(), after=after)
    (found,) = judged.benchmarks[0].findings

    document = json.loads(json_report.render(judged))

    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert document["outcome"] == "fail"
    for name, writer in IN_WORDS.items():
        text = writer(judged)
        assert text == writer(judged)
        assert "shop.parser:tokenize grew by" in text.replace("</code>", ""), name
    titles = [e.text for e in ET.fromstring(svg.render(judged.benchmarks[0])).iter(f"{SVG}title")]
    assert sum(title.startswith(str(found)) for title in titles) == 1


def test_many_changes_are_counted_after_those_that_are_listed():
    each = failing()
    total = replace(each.diff.total, p_value=0.0)
    frames = tuple(replace(frame, total=total) for frame in each.diff.frames)
    all_changed = verdict(replace(each, diff=replace(each.diff, frames=frames)))

    text, summary = terminal.render(all_changed), markdown.render(all_changed)

    read = sum(frame.frame.kind is not Kind.KERNEL for frame in frames)
    assert f"and {read - terminal.ROWS} functions more that changed" in text
    assert f"and {read - markdown.ROWS} functions more |" in summary


def test_the_svg_says_how_many_boxes_it_left_out(monkeypatch):
    monkeypatch.setattr(svg, "BOXES", 30)

    assert f"{len(failing().diff.paths) + 1 - 30} of the narrowest boxes left out" in svg.render(
        failing()
    )


def test_colour_only_on_request():
    assert "\x1b[1;31mFAIL\x1b[0m" in terminal.render(ALL["fail"], colour=True)
    assert "\x1b" not in terminal.render(ALL["fail"])


def test_only_functions_that_can_be_told_from_noise_are_listed():
    listed = {str(frame.frame) for frame in terminal.changed(failing())}

    assert "shop.parser:tokenize" in listed
    assert "shop.tax:_load_table" in listed
    assert "[gc]" not in listed
    assert terminal.changed(passing()) == ()
    assert terminal.changed(no_baseline()) == ()


def test_a_finding_within_noise_is_listed_all_the_same():
    each = failing()
    quiet = replace(each.diff.frames[0].total, p_value=1.0)
    frames = tuple(replace(frame, total=quiet) for frame in each.diff.frames)

    (only,) = terminal.changed(replace(each, diff=replace(each.diff, frames=frames)))

    assert only.frame == each.findings[0].frame


# ---- markdown ----


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_only_text_in_markdown(name):
    raw = markdown.render(verdict(renamed(failing(), name)))
    outside = re.sub(r"```text\n.*?```", "", raw, flags=re.DOTALL)

    assert not re.search(r"<(?!/?(?:code|details|summary|span)>)", outside)
    assert "@octocat" not in outside
    assert "](http" not in outside
    assert "://" not in outside
    assert raw.count("```") == 2
    for line in outside.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 8


def test_markdown_stays_under_its_limit_and_says_what_is_missing():
    benchmarks = [passing(f"tests/bench.py::test_{n}") for n in range(40)]
    many = verdict(failing(), *benchmarks, notes=(Note("slow-machine", "slow"),))
    whole = markdown.render(many)

    cut = markdown.render(many, limit_bytes=5_000)

    assert len(cut.encode()) <= 5_000 < len(whole.encode())
    assert "left out" not in whole
    assert re.search(r"_\d+ benchmarks of 41 left out here", cut)
    assert "tokenize</code> grew by" in cut, "the worst comes first"


def is_whole(markdown):
    """Return whether every fence and every `<details>` of the text is closed."""
    outside = re.sub(r"^```text\n.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    opened = outside.count("<details>")
    return "```" not in outside and opened == outside.count("</details>")


@pytest.mark.parametrize("room", [0, 1, 40, 400])
def test_a_text_is_cut_where_no_block_is_open(room):
    whole = markdown.render(ALL["fail"])
    note = "_Cut here._"
    size = len(whole.encode())

    assert markdown.fit(whole, size, note) == whole
    for limit in range(size - 1, len(note) + 2 + room, -97):
        cut = markdown.fit(whole, limit, note)
        *kept, last = cut.rstrip("\n").split("\n")

        assert len(cut.encode()) <= limit
        assert last == note
        assert is_whole(cut)
        assert whole.startswith("\n".join(kept[:-1]))
        if len(kept) > 1 and kept[-2].startswith("|"):
            table = whole[whole.index("\n".join(kept[:-1])) :].removeprefix("\n".join(kept[:-1]))
            assert table.startswith("\n\n"), "the whole table or nothing of it"


def test_the_worst_benchmark_is_told_even_where_it_is_longer_than_the_limit():
    each = failing()
    many = replace(each, findings=each.findings * 200)
    cut = markdown.render(verdict(many, passing()), limit_bytes=8_000)

    assert len(cut.encode()) <= 8_000
    assert "tokenize</code> grew by" in cut
    assert cut.endswith(
        "_Cut here: the rest is left out. All are in `report.html` and `verdict.json`._\n"
    )
    assert is_whole(cut)


def test_the_first_sentence_of_a_finding_is_bold_and_its_benchmark_left_out():
    assert (
        markdown.sentence(
            "tests/b.py::test_x",
            "shop:f",
            "tests/b.py::test_x: shop:f is new: 2 ms (1. try); limit 1 %. Same.",
        )
        == "**<code>shop:f</code> is new: 2 ms (1. try); limit 1 %.** Same."
    )
    assert markdown.sentence("b", "[total]", "b: the benchmark itself grew.") == (
        "**the benchmark itself grew.**"
    )
    assert markdown.sentence("b", "f", "another: sentence") == "**another: sentence**"


@pytest.mark.parametrize(
    "name",
    ["native:_rolling:roll", "native:libx.so:f()::{lambda()#1}", "jit:shop.Parser$Lexer.next"],
)
def test_a_name_in_code_can_be_copied(name):
    assert html.unescape(markdown.code(name)) == f"<code>{name}</code>"


def test_a_long_flame_strip_loses_its_middle():
    rows = [(f"f{n}", 1 - n / 100, "+1.0 %") for n in range(100)]

    short, long = markdown.strip(rows[: markdown.STRIP_ROWS]), markdown.strip(rows)

    assert len(short) == len(long) == markdown.STRIP_ROWS + 4
    assert "77 frames left out here" in "".join(long)
    assert long[2].startswith("f0 ")
    assert long[-3].startswith("f99 ")


def test_a_summary_of_ten_thousand_benchmarks_can_be_uploaded():
    each = passing()
    many = verdict(
        *[replace(each, benchmark=f"test_{n}" + "x" * 200, diff=None) for n in range(9_000)]
    )

    assert len(markdown.render(many).encode()) <= markdown.LIMIT_BYTES


def test_the_flame_strip_leads_to_the_guilty_function():
    strip = markdown.render(ALL["fail"]).split("```")[1].splitlines()[1:]

    assert strip[0].split() == ["one", "call", "path", "share", "growth"]
    assert strip[1].startswith("[total]")
    assert strip[-1].startswith("shop.parser:tokenize")
    assert "+25.1 %" in strip[-1]
    assert len({columns(line) for line in strip}) == 1
    assert strip[1].count("█") == markdown.STRIP


# ---- svg ----


@pytest.mark.parametrize("case", ALL)
def test_svg_is_safe_and_readable_without_script(case):
    for each in ALL[case].benchmarks:
        text = svg.render(each)
        root = ET.fromstring(text)

        assert "<script" not in text
        assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
            "svg",
            "g",
            "rect",
            "text",
            "title",
        }
        for element in root.iter():
            assert not {"style", "class", "href"} & set(element.attrib)
            assert not any(name.startswith("on") for name in element.attrib)


def test_every_box_of_the_svg_has_a_tooltip_and_the_guilty_one_an_outline():
    each = failing()
    root = ET.fromstring(svg.render(each))
    titles = [group.find(f"{SVG}title").text for group in root.iter(f"{SVG}g")]
    guilty = [title for title in titles if title.startswith(str(each.findings[0]))]

    assert len(guilty) == 1
    assert guilty[0].splitlines()[1:] == [
        "shop.parser:tokenize",
        "60.1 µs → 75.2 µs per iteration",
        "+25.1 % (+20.9 to +29.4 %), +15.1 µs per iteration",
        "15.1 % → 18.6 % of the benchmark",
        "2,906 → 3,576 samples",
    ]
    outlines = [r for r in root.iter(f"{SVG}rect") if r.get("stroke") == svg.EDGE]
    assert len(outlines) == 2, "the box and the legend"
    assert len(titles) == len(each.diff.paths) + 1


def test_the_svg_draws_what_vanished_and_leaves_noise_grey():
    root = ET.fromstring(svg.render(failing()))
    boxes = {g.find(f"{SVG}title").text.splitlines()[-5]: g for g in root.iter(f"{SVG}g")}
    gone = next(g for name, g in boxes.items() if name == "shop.tax:_load_table")
    told = {
        g.find(f"{SVG}title").text: g.find(f"{SVG}rect").get("fill") for g in root.iter(f"{SVG}g")
    }

    assert gone.find(f"{SVG}rect").get("stroke-dasharray")
    for title, fill in told.items():
        red, _, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
        if "cannot be told" in title:
            assert abs(red - blue) < 16
        elif "\n+" in title and "gone" not in title:
            assert red > blue + 30
        elif "\n−" in title:
            assert blue > red + 30


def test_boxes_that_are_too_narrow_are_left_out_but_never_the_guilty_one():
    own = {path: (before, after) for path, (before, after) in benchmark_own().items()}
    each = failing()
    narrow = replace(each, diff=benchmark_diff(own))

    root = ET.fromstring(svg.render(narrow, width=80))

    assert len(list(root.iter(f"{SVG}g"))) < len(narrow.diff.paths)
    assert any(
        (group.find(f"{SVG}title").text or "").startswith(str(each.findings[0]))
        for group in root.iter(f"{SVG}g")
    )


def benchmark_own():
    from verdicts import tree

    return {
        path: (cost[0] / 1e4, cost[1] / 1e4) if path[-1].module == "shop.parser" else cost
        for path, cost in tree().items()
    }


def test_a_long_sentence_is_whole_in_the_tooltip():
    each = renamed(failing(), "n" * 10_000)

    assert str(each.findings[0]).replace(">", "&gt;") + "\n" in svg.render(each)
    assert max(map(len, re.findall(r"<text[^>]*>([^<]*)", svg.render(each)))) < 250
