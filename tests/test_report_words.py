"""Numbers and names as every report prints them."""

# ruff: noqa: RUF001 - the minus and the multiplication sign are what is printed

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdicts import change

from ci_flame.report import words


@pytest.mark.parametrize(
    ("ns", "expected"),
    [
        (0, "0"),
        (-1, "0"),
        (0.5, "0.50 ns"),
        (9.994, "9.99 ns"),
        (9.995, "10.0 ns"),
        (99.94, "99.9 ns"),
        (99.95, "100 ns"),
        (999.4, "999 ns"),
        (999.5, "1.00 µs"),
        (60_100, "60.1 µs"),
        (999_499, "999 µs"),
        (999_500, "1.00 ms"),
        (1_250_000_000, "1.25 s"),
        (5e12, "5000 s"),
    ],
)
def test_a_duration_has_three_digits(ns, expected):
    assert words.duration(ns) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 %"),
        (0.0004, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.12345, "12.3 %"),
        (1.0, "100.0 %"),
    ],
)
def test_a_share(value, expected):
    assert words.share(value) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (60.1, 75.2, "+25.1 %"),
        (100, 88, "−12.0 %"),
        (100, 100, "0.0 %"),
        (100, 100.04, "0.0 %"),
        (100, 100.06, "+0.1 %"),
        (100, 199.9, "+99.9 %"),
        (100, 225, "+125 %"),
        (100, 999, "+899 %"),
        (100, 1000, "× 10.0"),
        (0, 5, "new"),
        (5, 0, "gone"),
        (0, 0, "0.0 %"),
    ],
)
def test_growth(before, after, expected):
    assert words.growth(change(before, after)) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.18, 0.33, "+18.0 to +33.0 %"),
        (-0.05, 0.02, "−5.0 to +2.0 %"),
        (0.5, math.inf, "over +50.0 %"),
        (8.99, math.inf, "over +899 %"),
        (9.0, math.inf, "over × 10.0"),  # as growth itself from ten times on
        (29960.68, math.inf, "over × 29962"),
        (0.5, 99.99, "+50.0 to +9999 %"),
        (0.5, 100.0, "over +50.0 %"),
        (-math.inf, -0.5, "under −50.0 %"),
        (math.inf, math.inf, ""),
        (math.nan, math.nan, ""),
    ],
)
def test_an_interval_without_an_end_says_so(low, high, expected):
    assert words.interval(replace(change(10, 12), low=low, high=high)) == expected


@given(st.floats(), st.floats(), st.floats(), st.floats())
def test_no_number_is_an_error(before, after, low, high):
    numbers = replace(change(1, 1), before_ns=before, after_ns=after, low=low, high=high)

    for text in (
        words.duration(before),
        words.share(after),
        words.growth(numbers),
        words.interval(numbers),
        words.change_of_time(numbers),
    ):
        assert text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("f\uffff", "f\\uffff"),
        ("f\ufffe", "f\\ufffe"),
        ("f\U0001ffff", "f\\U0001ffff"),
        ("f\ufffd", "f\ufffd"),  # a character
    ],
)
def test_what_is_no_character_is_not_passed_on_to_xml(text, shown):
    assert words.visible(text) == shown


@pytest.mark.parametrize(
    ("node_id", "expected"),
    [
        ("tests/test_a.py::test_x", ("tests/test_a.py", "test_x")),
        ("tests/test_a.py::test_x[std::sort]", ("tests/test_a.py", "test_x[std::sort]")),
        ("a[1]/test_a.py::Class::test_x[::1]", ("a[1]/test_a.py::Class", "test_x[::1]")),
        ("make", ("", "make")),
        ("", ("", "")),
    ],
)
def test_a_node_id_is_split_before_its_case(node_id, expected):
    assert words.split_id(node_id) == expected


@given(st.text())
def test_visible_text_is_one_harmless_line(text):
    shown = words.visible(text)

    assert len(shown.splitlines()) <= 1
    assert shown.isprintable() or not any(letter < " " or letter == "\x7f" for letter in shown)
    shown.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202eevil", "\\u202eevil"),
        ("שלום", "שלום"),
        ("a\udce9", "a\\udce9"),
        ("\u2028", "\\u2028"),
    ],
)
def test_control_and_direction_characters_are_escaped(text, expected):
    assert words.visible(text) == expected


@given(st.text(max_size=60), st.integers(1, 40))
def test_cut_text_fits_and_keeps_both_ends(text, width):
    shown = words.cut(text, width)

    assert words.columns(shown) <= width
    if words.columns(text) <= width:
        assert shown == text


def test_a_name_is_cut_in_its_middle():
    assert words.cut("shop.parser:Grammar.compile", 15) == "shop.pa…compile"
    assert words.cut("n" * 10_000, 9) == "nnnn…nnnn"
    assert words.columns(words.cut("名" * 50, 9)) == 9


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 boxes"), (1, "1 box"), (1234, "1,234 boxes")]
)
def test_plural(number, expected):
    assert words.plural(number, "box").replace("boxs", "boxes") == expected
