"""TeamCity's service messages, read back by a parser after JetBrains' description of them."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_text import OUTCOMES, check_golden
from verdicts import ALL, NAMES, failing, hostile, inconclusive, no_baseline, passing, verdict

from ci_flame.policy import Policy
from ci_flame.report import teamcity

MESSAGE = re.compile(r"##teamcity\[(?P<name>[A-Za-z][\w-]*)(?P<rest>.*)\]", re.ASCII)
VALUE = re.compile(
    r"[ \t]+(?P<key>[A-Za-z_]\w*)[ \t]*=[ \t]*'(?P<value>(?:[^'|\[\]\r\n]|\|.)*)'", re.ASCII
)
ESCAPE = re.compile(r"\|(?:0x([0-9A-Fa-f]{4})|(.))", re.DOTALL)
PLAIN = {"n": "\n", "r": "\r", "'": "'", "|": "|", "[": "[", "]": "]"}


def unescaped(text):
    """Return the value: UTF-16 units, as Java's strings are made of."""
    raw = ESCAPE.sub(lambda e: chr(int(e[1], 16)) if e[1] else PLAIN[e[2]], text)
    return raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def read(text):
    """Return name and values of every line; each has to be one whole message."""
    text.encode("ascii")
    found = []
    lines = text.split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.isprintable()
        whole = MESSAGE.fullmatch(line)
        assert whole, line
        rest, values = whole["rest"], {}
        while rest:
            value = VALUE.match(rest)
            assert value, rest
            values[value["key"]] = unescaped(value["value"])
            rest = rest[value.end() :]
        found.append((whole["name"], values))
    return found


def checked(given, **options):
    found = read(teamcity.render(given, **options))
    names = [name for name, _ in found]
    assert names[0] == "testSuiteStarted"
    assert names.count("testStarted") == names.count("testFinished") == len(given.benchmarks)
    running = ""
    for name, values in found:
        if name == "testStarted":
            running = values["name"]
        elif name in {"testFailed", "testIgnored", "testFinished"}:
            assert values["name"] == running
        elif name == "buildProblem":
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,59}", values["identity"])
            assert len(values["description"]) <= 4000
        elif name == "buildStatisticValue":
            assert len(values["key"]) <= 512
            assert re.fullmatch(r"\d{1,13}", values["value"])
    return found


def told(found, name):
    return [values for each, values in found if each == name]


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_valid(case):
    checked(ALL[case])


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden(outcome):
    check_golden(f"{outcome}.teamcity.txt", teamcity.render(ALL[outcome]))


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_no_message_ends_early(name):
    found = checked(hostile(name), name=name)

    assert len(told(found, "testFailed")) == len(told(found, "buildProblem")) == 1


@given(st.text(st.characters(), max_size=30))
def test_a_value_is_read_as_it_was_written(text):
    ((_, values),) = read(teamcity.message("message", text=text) + "\n")

    assert values["text"] == text


def test_a_finding_fails_its_test_and_the_build():
    found = checked(ALL["fail"])
    sentence = str(ALL["fail"].benchmarks[0].findings[0])
    (failed,) = told(found, "testFailed")
    (problem,) = told(found, "buildProblem")

    assert failed["message"] == sentence
    assert "at src/shop/parser.py:88" in failed["details"]
    assert problem["description"].startswith("ci-flame: FAIL (3 benchmarks: 1 fail")
    assert problem["description"].endswith(sentence)


def test_a_warning_fails_nothing():
    found = checked(ALL["warn"])
    (warning,) = told(found, "message")

    assert warning == {"text": str(ALL["warn"].benchmarks[0].findings[0]), "status": "WARNING"}
    assert not told(found, "testFailed")
    assert not told(found, "buildProblem")


@pytest.mark.parametrize(
    ("each", "policy", "name"),
    [
        (inconclusive(), Policy(), "testIgnored"),
        (inconclusive(), Policy(inconclusive_fails=True), "testFailed"),
        (no_baseline(), Policy(), "testIgnored"),
        (no_baseline(), Policy(baseline_required=True), "testFailed"),
    ],
)
def test_what_was_not_judged_is_ignored_unless_the_policy_fails_it(each, policy, name):
    found = checked(replace(verdict(each), policy=policy))

    assert len(told(found, name)) == 1
    assert bool(told(found, "buildProblem")) is (name == "testFailed")


def test_a_new_benchmark_beside_one_that_was_compared_fails_nothing():
    of = replace(verdict(passing(), no_baseline()), policy=Policy(baseline_required=True))
    found = checked(of)

    assert len(told(found, "testIgnored")) == 1
    assert not told(found, "testFailed")
    assert not told(found, "buildProblem")


def test_notes_on_the_build_are_in_its_log():
    (note,) = told(checked(ALL["fail"]), "message")

    assert note == {"text": ALL["fail"].notes[0].text}


def test_a_statistic_is_the_cost_in_whole_nanoseconds():
    found = checked(verdict(failing()), name="py312")
    (statistic,) = told(found, "buildStatisticValue")

    assert statistic == {
        "key": "ci_flame py312: tests/bench_shop.py::test_checkout, ns per iteration",
        "value": str(round(failing().diff.total.after_ns)),
    }


def test_names_that_are_cut_stay_apart():
    long = "n" * 10_000
    names = [f"{long}{end}{long}" for end in "ab"]
    found = checked(verdict(*[passing(name) for name in names]))

    assert len({values["name"] for values in told(found, "testStarted")}) == 2
    assert len({values["key"] for values in told(found, "buildStatisticValue")}) == 2


def test_problems_of_two_legs_are_two():
    one, other = (told(checked(ALL["fail"], name=n), "buildProblem")[0] for n in ("a", "b"))

    assert one["identity"] != other["identity"]
