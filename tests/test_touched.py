"""Labels: what a diff touched, in the words of a finding. They never change an outcome."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import QUIET, SHOP, grown, synthetic_measurement, synthetic_run

from ci_flame import pipeline
from ci_flame.config import terms
from ci_flame.judge.touched import label, label_all
from ci_flame.policy import Policy
from ci_flame.profile import TOTAL, Frame, Place
from ci_flame.report import REPORTERS
from ci_flame.verdict import Figure, Note, Outcome, Sort
from ci_flame.verdict.touch import Spot, Touch, Touched

TOKENIZE = "shop.parser:tokenize"
PLACES = {
    TOKENIZE: ("src/shop/parser.py", 88),
    "shop.parser:parse": ("src/shop/parser.py", 20),
    "shop.cart:total": ("src/shop/cart.py", 4),
    "json:dumps": ("lib/python3.11/json/__init__.py", 183),
}
FILES = frozenset({"src/shop/parser.py", "src/shop/cart.py"})


def changed(line=90, file="src/shop/parser.py"):
    return Spot(Touch.CHANGED, file, line)


def run(costs, seed):
    made = synthetic_measurement(costs, seed=seed, noise=QUIET, places=PLACES)
    return synthetic_run(made)


BEFORE = run(SHOP, 1)


def verdict_of(leaf=TOKENIZE, factor=2.0):
    return pipeline.compare(BEFORE, run(grown(SHOP, leaf, factor), 2), Policy())


FAILED = verdict_of()
DUMPED = verdict_of("json:dumps")


def told(touched, verdict=FAILED):
    """Return kind and words of the label on the finding that failed."""
    (finding, *_) = label(verdict.benchmarks[0], touched).findings
    return finding.touched, finding.changed


def touched(files=FILES, dependencies=(), native=(), **spots):
    named = {name.replace("__", "."): spot for name, spot in spots.items()}
    return Touched("1a2b3c4d5e (test)", named, files, dependencies, frozenset(native))


@pytest.mark.parametrize(
    ("spots", "expected"),
    [
        ({TOKENIZE: changed()}, (Touch.CHANGED, "Changed in this diff: src/shop/parser.py:90.")),
        (
            {TOKENIZE: Spot(Touch.READS, "src/shop/parser.py", 3, "LIMIT")},
            (Touch.READS, "Uses LIMIT, changed in this diff: src/shop/parser.py:3."),
        ),
        (
            {TOKENIZE: Spot(Touch.MOVED, "src/shop/parser.py", 88, "src/shop/lexer.py")},
            (
                Touch.MOVED,
                "Moved unchanged in this diff: src/shop/parser.py:88 (from src/shop/lexer.py).",
            ),
        ),
        ({}, (Touch.UNTOUCHED, "Not touched by this diff.")),
        # What changed elsewhere, or above it, is no change of it.
        ({"shop.cart:total": changed()}, (Touch.UNTOUCHED, "Not touched by this diff.")),
        ({"shop.parser:parse": changed()}, (Touch.UNTOUCHED, "Not touched by this diff.")),
        ({"shop.parser:other": changed()}, (Touch.UNTOUCHED, "Not touched by this diff.")),
    ],
)
def test_labels_of_a_function(spots, expected):
    assert FAILED.outcome is Outcome.FAIL
    assert told(touched(**spots)) == expected


def finding_on(name):
    """Return the failed verdict with its finding on another function."""
    (each,) = FAILED.benchmarks
    frame = Frame.parse(name)
    where = PLACES.get(name)
    about = replace(each.findings[0], frame=frame, place=Place(*where) if where else None)
    return replace(FAILED, benchmarks=(replace(each, findings=(about,)),))


@pytest.mark.parametrize(
    ("name", "spots", "expected"),
    [
        # A callee on its paths changed; the one that grew most is named.
        (
            "shop.parser:parse",
            {TOKENIZE: changed(90)},
            (Touch.CALLS, f"Calls what changed in this diff: {TOKENIZE} (src/shop/parser.py:90)."),
        ),
        (
            "shop.api:checkout",
            {TOKENIZE: changed(90), "shop.cart:total": changed(5, "src/shop/cart.py")},
            (Touch.CALLS, f"Calls what changed in this diff: {TOKENIZE} (src/shop/parser.py:90)."),
        ),
        (
            "shop.parser:parse",
            {TOKENIZE: changed(90), "shop.parser:parse": changed(21)},
            (Touch.CHANGED, "Changed in this diff: src/shop/parser.py:21."),
        ),
        # Only code that changed counts, not what moved or reads another constant.
        (
            "shop.parser:parse",
            {TOKENIZE: Spot(Touch.MOVED, "src/shop/parser.py", 88, "a.py")},
            (Touch.UNTOUCHED, "Not touched by this diff."),
        ),
        (
            "shop.parser:parse",
            {"shop.cart:total": changed()},
            (Touch.UNTOUCHED, "Not touched by this diff."),
        ),
        (
            str(TOTAL),
            {"shop.cart:total": changed(5, "src/shop/cart.py")},
            (Touch.CALLS, "Calls what changed in this diff: shop.cart:total (src/shop/cart.py:5)."),
        ),
        (str(TOTAL), {}, (Touch.UNTOUCHED, "Nothing that it runs was touched by this diff.")),
        (
            str(TOTAL),
            {"shop.nowhere:f": changed()},
            (Touch.UNTOUCHED, "Nothing that it runs was touched by this diff."),
        ),
        ("json:dumps", {}, (Touch.ELSEWHERE, "Not in this repository.")),
        # Nothing is known of native code without line tables.
        ("native:libc.so.6:memcpy", {}, ("", "")),
    ],
)
def test_labels_of_what_is_around_a_change(name, spots, expected):
    assert told(touched(**spots), finding_on(name)) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        # More bytecodes are somebody's change, as more time is; a metric of the machine is not.
        (Sort.COUNT, (Touch.CHANGED, "Changed in this diff: src/shop/parser.py:90.")),
        (Sort.GROWTH, ("", "")),
    ],
)
def test_a_finding_of_exact_counts_is_labelled_and_a_metric_is_not(sort, expected):
    (each,) = FAILED.benchmarks
    figure = Figure("bytecodes", 1020, 1000, 2, 2, "0 %", 0.0)
    about = replace(each.findings[0], sort=sort, figure=figure)
    verdict = replace(FAILED, benchmarks=(replace(each, findings=(about,)),))

    assert told(touched(**{TOKENIZE: changed()}), verdict) == expected
    if sort is Sort.COUNT:
        (labelled,) = label(verdict.benchmarks[0], touched(**{TOKENIZE: changed()})).findings
        assert str(labelled).endswith("limit 0 %. Changed in this diff: src/shop/parser.py:90.")


def test_a_finding_knows_the_line_that_changed_in_itself_alone():
    spots = {"shop.parser:parse": changed(21), TOKENIZE: Spot(Touch.READS, "a.py", 3, "LIMIT")}
    (found,) = label(FAILED.benchmarks[0], touched(**spots)).findings
    (itself,) = label(FAILED.benchmarks[0], touched(**{TOKENIZE: changed(90)})).findings

    assert found.changed_at is None
    assert itself.changed_at == changed(90)


def test_native_functions_of_line_tables():
    name = "native:_fast.so:scan"
    about = finding_on(name)

    unlined = replace(touched(), unlined=frozenset([name]))
    assert told(unlined, about) == (
        "",
        "No line table tells whose change it is: build _fast.so with -g.",
    )
    assert told(touched(native=[name]), about) == (Touch.UNTOUCHED, "Not touched by this diff.")
    assert told(touched(native=[name], **{name: changed(7, "src/fast.c")}), about) == (
        Touch.CHANGED,
        "Changed in this diff: src/fast.c:7.",
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("uv.lock",), "Not in this repository; uv.lock changed in this diff."),
        (("a.txt", "b", "c"), "Not in this repository; a.txt, b, c changed in this diff."),
        (
            ("a.txt", "b", "c", "d"),
            "Not in this repository; a.txt, b, c and 1 more changed in this diff.",
        ),
    ],
)
def test_dependencies_that_changed_are_named(names, words):
    assert told(touched(dependencies=names), DUMPED) == (Touch.ELSEWHERE, words)


def test_nothing_known_is_nothing_said():
    assert label(FAILED.benchmarks[0], None) is FAILED.benchmarks[0]
    assert label_all(FAILED, None) is FAILED


def test_without_findings_there_is_no_note():
    calm = pipeline.compare(BEFORE, BEFORE, Policy())

    assert label_all(calm, touched(**{TOKENIZE: changed()})) is calm


def test_the_build_says_what_the_diff_is_of_and_only_once():
    once = label_all(FAILED, touched(**{TOKENIZE: changed()}))
    twice = label_all(once, touched(**{TOKENIZE: changed()}))

    assert Note("changed-since", "this diff: everything since 1a2b3c4d5e (test)") in once.notes
    assert twice == once


SPOTS = st.dictionaries(
    st.sampled_from([*PLACES, "shop.api:checkout", "[total]", "a:b"]),
    st.builds(Spot, st.sampled_from([Touch.CHANGED, Touch.READS, Touch.MOVED]),
              st.sampled_from(["a.py", "src/b.py"]), st.integers(1, 99), st.just("told")),
    max_size=5,
)  # fmt: skip
TOUCHED = st.builds(
    Touched, st.just("1a2b3c (x)"), SPOTS, st.frozensets(st.sampled_from(sorted(FILES))),
    st.lists(st.just("uv.lock"), max_size=1).map(tuple),
    st.frozensets(st.sampled_from(sorted(PLACES))), st.frozensets(st.sampled_from(sorted(PLACES))),
)  # fmt: skip


@given(TOUCHED, st.sampled_from([FAILED, DUMPED]))
def test_labels_change_words_alone(touch, verdict):
    labelled = label_all(verdict, touch)

    assert labelled.outcome is verdict.outcome
    for mine, its in zip(labelled.benchmarks, verdict.benchmarks, strict=True):
        plain = tuple(
            replace(each, touched="", changed="", changed_at=None) for each in mine.findings
        )
        assert replace(mine, findings=plain) == its
        for each in mine.findings:
            assert bool(each.changed) or not each.touched
            assert str(each).endswith(each.changed)


@given(TOUCHED)
def test_what_was_touched_is_read_back(touch):
    whole = terms.Terms(Policy(), touched=touch)

    assert terms.decode(terms.encode(whole), "policy.json") == whole


@pytest.mark.parametrize("name", sorted(REPORTERS.keys() - {"openmetrics"}))
def test_every_report_says_it(name):
    labelled = label_all(FAILED, touched(**{TOKENIZE: changed()}))
    plain = " ".join(REPORTERS[name](labelled).split())

    assert "Changed in this diff: src/shop/parser.py:90" in plain
    assert "this diff: everything since 1a2b3c4d5e (test)" in plain or name in {
        "junit",
        "codequality",
    }
