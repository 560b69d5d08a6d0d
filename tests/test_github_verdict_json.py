"""`verdict.json` of anybody: what is read, and that nothing odd in it gets through."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verdicts import ALL

from ci_flame.errors import FormatError
from ci_flame.github import verdict_json
from ci_flame.github.verdict_json import MAX_TEXT, Where, decode
from ci_flame.report import json_report
from ci_flame.verdict import Outcome

TEXT = json_report.render(ALL["fail"])
DOCUMENT = json.loads(TEXT)


def changed(path, value):
    """Return the document with one value replaced; `...` removes its key."""
    document = json.loads(TEXT)
    *way, last = path
    at = document
    for key in way:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_read_as_it_was_written(case):
    of = ALL[case]
    told = decode(json_report.render(of).encode(), "verdict.json")

    assert told.outcome is of.outcome
    assert told.counts == of.counts
    assert [len(each.findings) for each in told.benchmarks] == [
        len(each.findings) for each in of.benchmarks
    ]
    assert [each.outcome for each in told.benchmarks] == [each.outcome for each in of.benchmarks]
    if case == "fail":
        assert told.findings[0].where == Where("src/shop/parser.py", 88)
        assert told.findings[0].impact == pytest.approx(15.1 / 397.3, rel=0.01)


FINDING = ("benchmarks", 0, "findings", 0)
REFUSED = {
    "another version": (("schema_version",), 2, "has schema version 2, this ci_flame reads 1"),
    "no version": (("schema_version",), ..., "has schema version None"),
    "a true version": (("schema_version",), True, "has schema version True"),
    "an unknown outcome": (("outcome",), "great", "outcome is none of pass, "),
    "a better outcome": (("outcome",), "pass", "is pass, and the benchmarks' is fail"),
    "a better benchmark": (("benchmarks", 0, "outcome"), "warn", "outcome is warn, and a finding"),
    "a passing finding": ((*FINDING, "outcome"), "pass", "outcome is none of fail, warn"),
    "no benchmarks": (("benchmarks",), ..., "benchmarks is missing, or not a list"),
    "benchmarks by name": (("benchmarks",), {}, "benchmarks is missing, or not a list"),
    "a text for a benchmark": (("benchmarks", 0), "x", "[0] is missing, or not an object"),
    "a number for a name": (("benchmarks", 0, "benchmark"), 7, "benchmark is missing, or not text"),
    "no sentence": ((*FINDING, "sentence"), None, "sentence is missing, or not text"),
    "a long text": ((*FINDING, "sentence"), "x" * (MAX_TEXT + 1), "1,000,001 letters; at most"),
    "a path of numbers": ((*FINDING, "path"), [1], "path holds something else than names"),
    "a long path": ((*FINDING, "path"), ["f"] * 10_001, "has 10,001 items; at most 10,000"),
    "boxes of another path": ((*FINDING, "path_costs"), [], "has 0 boxes, the path 5"),
    "boxes that are none": ((*FINDING, "path_costs"), [1] * 5, "something else than pairs"),
    "triples": ((*FINDING, "path_costs"), [[1, 2, 3]] * 5, "something else than pairs"),
    "a text for a cost": ((*FINDING, "change", "after_ns"), "9", "after_ns is not a number"),
    "a true cost": ((*FINDING, "change", "after_ns"), True, "after_ns is not a number"),
    "no change": ((*FINDING, "change"), ..., "change is missing, or not an object"),
    "many functions": (("benchmarks", 0, "functions"), [{}] * 2_001, "2,001 items; at most 2,000"),
    "a text for a note": (("notes",), ["x"], "notes[0] is missing, or not an object"),
    "a commit with markup": (("after", "commit"), "[x](y)", "after.commit is not a commit"),
    "a long commit": (("before", "commit"), "a" * 65, "before.commit is not a commit"),
    "a text for a side": (("before",), "x", "before is missing, or not an object"),
    "a text for a place": ((*FINDING, "where"), "x", "where is missing, or not an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_verdict_is_refused_by_name(case):
    path, value, words = REFUSED[case]

    with pytest.raises(FormatError) as caught:
        decode(changed(path, value), "artifact 7")

    assert caught.value.message.startswith("artifact 7: ")
    assert words in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"schema_version": 1', "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"schema_version": NaN}', "not JSON: NaN is no JSON"),
        (b'{"schema_version": 1' + b"0" * 5_000 + b"}", "a number of 5,001 digits"),
        (b"[]", "it is missing, or not an object"),
        (TEXT.replace('"p_value": 0.0', '"p_value": 1e999', 1).encode(), "is not finite"),
    ],
    ids=["empty", "binary", "cut", "deep", "nan", "digits", "list", "infinite"],
)
def test_what_is_no_json_is_refused_by_name(data, words):
    with pytest.raises(FormatError, match=r"^v: ") as caught:
        decode(data, "v")

    assert words in str(caught.value)


@pytest.mark.parametrize(("more", "is_read"), [(0, True), (1, False)])
def test_size_has_a_limit(monkeypatch, more, is_read):
    monkeypatch.setattr(verdict_json, "MAX_BYTES", len(TEXT.encode()))

    if is_read:
        assert decode(TEXT.encode(), "v").outcome is Outcome.FAIL
    else:
        with pytest.raises(FormatError, match="bytes; at most"):
            decode(TEXT.encode() + b" " * more, "v")


@pytest.mark.parametrize("kind", ["findings", "notes"])
def test_counts_hold_over_the_whole_file(monkeypatch, kind):
    monkeypatch.setattr(verdict_json, "MAX_BENCHMARKS", 4)
    document = json.loads(TEXT)
    first, second = document["benchmarks"][:2]
    document["benchmarks"] = [first, second]
    second["outcome"] = "fail"
    one = first["findings"][0] if kind == "findings" else first["notes"][0]
    document["notes"] = first["notes"] = second["notes"] = []
    first[kind], second[kind] = [one] * 3, [one] * 1
    assert decode(json.dumps(document).encode(), "v")

    second[kind] = [one] * 2
    with pytest.raises(FormatError, match="over 4 of them in all"):
        decode(json.dumps(document).encode(), "v")


@pytest.mark.parametrize(
    ("where", "is_kept"),
    [
        ({"file": "src/a.py", "line": 1, "of": "function"}, True),
        ({"file": "/etc/passwd", "line": 1, "of": "function"}, False),
        ({"file": "../a.py", "line": 1, "of": "function"}, False),
        ({"file": "src/../../a.py", "line": 1, "of": "function"}, False),
        ({"file": "a\nb", "line": 1, "of": "function"}, False),
        ({"file": "", "line": 1, "of": "function"}, False),
        ({"file": "x" * 4_097, "line": 1, "of": "function"}, False),
        ({"file": "src/a.py", "line": 0, "of": "function"}, False),
        ({"file": "src/a.py", "line": 1e300, "of": "function"}, False),
        (None, False),
    ],
)
def test_a_place_out_of_the_repository_is_none(where, is_kept):
    told = decode(changed((*FINDING, "where"), where), "v")

    assert (told.benchmarks[0].findings[0].where is not None) is is_kept


def test_keys_that_are_not_known_are_ignored():
    assert decode(changed(("later",), {"x": [1]}), "v") == decode(TEXT.encode(), "v")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@st.composite
def mutated(draw):
    """Return the document with any value of any kind at any place."""
    document = json.loads(TEXT)
    at, depth = document, draw(st.integers(1, 7))
    for _step in range(depth):
        keys = list(range(len(at))) if isinstance(at, list) else sorted(at)
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or _step == depth - 1:
            at[key] = draw(ANY)
            break
        at = at[key]
    return document


@settings(max_examples=200, deadline=None)
@given(mutated())
def test_any_value_anywhere_is_read_or_refused(document):
    try:
        told = decode(json.dumps(document).encode(), "v")
    except FormatError:
        return
    assert told.outcome in Outcome
    assert all(isinstance(each.sentence, str) for each in told.findings)
