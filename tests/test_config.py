"""The policy file, flags and markers: every error with its place, both sides of every limit."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame import collect, config
from ci_flame.config import BaselineKind, BaselineSpec, RecordConfig
from ci_flame.config.policy_file import parse_limit, show_limit, show_share
from ci_flame.errors import PolicyError, UsageError
from ci_flame.policy import Limit, Rule, Severity, Waiver
from ci_flame.profile import Mode

FULL = """\
version: 1
record: {collector: ebpf, frequency_hz: 999, processes: 3, seconds: 0.5,
         round_ms: 5, modes: [on-cpu]}
baseline: {from: "rerun:origin/main", required: true}
inconclusive: fail
rules:
  - frames: "shop.parser:*"
    benchmarks: ["tests/bench_*.py::*", "!*slow*"]
    max_growth: 10%
    min_impact: 1%
  - frames: ["*", "!kernel:*"]
    max_growth: "5% | 2ms"
    certainty: 95%
    severity: warn
    self: true
  - {frames: "shop.api:* ; ** ; shop.render:*", budget: 12.5us}
waivers:
  - {frames: "shop.parser:Grammar.compile", until: 2027-01-31, reason: "compiles lazily; see #214"}
"""


def read(text):
    return config.parse_policy(text.encode(), "ci-flame.yml")


def test_reads_every_key():
    made = read(FULL)

    assert made.record == RecordConfig("ebpf", 999, 3, 0.5, 5.0, (Mode.ON_CPU,))
    assert made.baseline == BaselineSpec(BaselineKind.RERUN, "origin/main")
    assert made.policy.baseline_required
    assert made.policy.inconclusive_fails
    assert made.policy.rules == (
        Rule(
            frames=("shop.parser:*",),
            benchmarks=("tests/bench_*.py::*", "!*slow*"),
            max_growth=Limit(share=0.1),
            min_impact=0.01,
            place="ci-flame.yml:7",
        ),
        Rule(
            frames=("*", "!kernel:*"),
            max_growth=Limit(share=0.05, ns=2_000_000.0),
            certainty=0.95,
            severity=Severity.WARN,
            self_only=True,
            place="ci-flame.yml:11",
        ),
        Rule(
            frames=("shop.api:*;**;shop.render:*",),
            budget=Limit(ns=12_500.0),
            place="ci-flame.yml:16",
        ),
    )
    assert made.policy.waivers == (
        Waiver(
            ("shop.parser:Grammar.compile",),
            date(2027, 1, 31),
            "compiles lazily; see #214",
            place="ci-flame.yml:18",
        ),
    )


def test_version_alone_is_the_default():
    assert read("version: 1\n") == config.Config()


def test_collector_names_are_those_of_the_registry():
    assert set(collect.COLLECTORS) <= set(config.COLLECTOR_NAMES) - {"auto"}


RULE = "version: 1\nrules:\n  - frames: '*'\n    max_growth: 10%\n    "
RECORD = "version: 1\nrecord:\n  "
ERRORS = [
    # the file as a whole
    ("", 1, "the policy is empty", "version: 1"),
    ("# nothing\n", 1, "the policy is empty", "version: 1"),
    ("- 1\n", 1, "the policy takes keys", ""),
    ("rules: []\n", 1, "version is missing", "version: 1"),
    ("version: 2\n", 1, 'version "2" is not known', ""),
    ("version: one\n", 1, 'version "one" is not known', ""),
    ("version:\n", 1, "version has no value", ""),
    ("version: [1]\n", 1, "version takes one value, not a list", ""),
    ("version: 1\nversion: 1\n", 2, 'key "version" again; it was given on line 1', ""),
    ("version: 1\n---\nversion: 1\n", 2, "not YAML", ""),
    ("version: 1\nrules: [\n", 3, "not YAML", ""),
    ("version: 1\n\trules: 1\n", 2, "not YAML", ""),
    ("version: 1\nx: \x07\n", 2, "a control character", ""),
    ("version: 1\n? [a]\n: 1\n", 2, "a key must be one word", ""),
    # unknown keys, with the nearest
    ("version: 1\nruls: 1\n", 2, 'unknown key "ruls" in the policy; did you mean "rules"?', ""),
    ("version: 1\nzzzzzzz: 1\n", 2, 'unknown key "zzzzzzz" in the policy', "rules, waivers"),
    (RULE + "max_grwth: 5%\n", 5, 'key "max_grwth" in a rule; did you mean "max_growth"?', ""),
    (RULE + "Severity: warn\n", 5, 'did you mean "severity"?', ""),
    (RECORD + "frequency: 999\n", 3, 'did you mean "frequency_hz"?', ""),
    ("version: 1\nbaseline: {form: auto}\n", 2, 'did you mean "from"?', ""),
    # values that YAML takes for something else
    ("version: 1\nrules:\n  - frames: *\n", 3, "not YAML", "need quotes"),
    ("version: 1\nrules:\n  - frames: *foo\n", 3, "is a YAML alias", "need quotes"),
    ("version: 1\nrules:\n  - frames: !kernel:*\n", 3, "tag", "need quotes"),
    ("version: 1\nrules: &x\n  - frames: a:b\n", 2, "is a YAML anchor", "need quotes"),
    ("version: 1\nrules: !!python/object:os.system {}\n", 2, "is a YAML tag", ""),
    # limits
    (RULE.replace("10%", "10"), 4, 'max_growth: "10" has no unit', "write 10% or 10ms"),
    (RULE.replace("10%", "'5% | 3'"), 4, '"3" has no unit', "write 3% or 3ms"),
    (RULE.replace("10%", "'5% | 6%'"), 4, "has two shares", '"5% | 2ms"'),
    (RULE.replace("10%", "'5ms | 6ms'"), 4, "has two times", '"5% | 2ms"'),
    (RULE.replace("10%", "10 percent"), 4, "is not a limit", "units: %, ns, us, ms, s"),
    (RULE.replace("10%", "-10%"), 4, "is not a limit", ""),
    (RULE.replace("10%", "inf%"), 4, "is not a limit", ""),
    (RULE.replace("10%", "1e3%"), 4, "is not a limit", ""),
    (RULE.replace("10%", "٣%"), 4, "is not a limit", ""),
    (RULE.replace("10%", "[10%]"), 4, "takes one value, not a list", ""),
    (RULE.replace("10%", ""), 4, "max_growth has no value", "leave max_growth out"),
    (RULE + "min_impact: 0.5\n", 5, 'min_impact: "0.5" has no unit', "write 0.5%"),
    (RULE + "min_impact: 2ms\n", 5, "min_impact is a share of the benchmark", "0.5%"),
    (RULE + "min_impact: 100.1%\n", 5, "more than the whole benchmark", "100%"),
    (RULE + "budget: 101%\n", 5, "more than the whole benchmark", "100%"),
    (RULE + "budget: 0%\n", 5, "a budget of nothing", ""),
    (RULE + "budget: 0ms\n", 5, "a budget of nothing", ""),
    (RULE + "certainty: 80\n", 5, '"80" has no unit', "write 80%"),
    (RULE + "certainty: 49.9%\n", 5, "outside 50% to 99.9%", "80%"),
    (RULE + "certainty: 100%\n", 5, "outside 50% to 99.9%", "80%"),
    (RULE + "severity: warning\n", 5, '"warning"; did you mean "warn"?', "fail, warn"),
    (RULE + "self: 1\n", 5, 'self is true or false, not "1"', ""),
    (RULE + "mode: off-cpu\n    self: true\n", 6, "self: true has no meaning with mode: off", ""),
    (RULE + "mode: oncpu\n", 5, 'unknown mode "oncpu"; did you mean "on-cpu"?', ""),
    # globs
    (RULE.replace("'*'", "shop.parser"), 3, "names are module:qualname", 'write "shop.parser:*"'),
    (RULE.replace("'*'", "''"), 3, "is an empty glob", ""),
    (RULE.replace("'*'", "[]"), 3, "no globs", ""),
    (RULE.replace("'*'", "'a:*;;b:*'"), 3, "has an empty step", "**"),
    (RULE.replace("'*'", "'" + "a" * 500 + ":'"), 3, "a glob of 501 characters; at most 500", ""),
    (RULE.replace("'*'", "{a: b}"), 3, "frames takes one value, not a mapping", ""),
    (RULE + "benchmarks: '!'\n", 5, "is an empty glob", ""),
    # rules and waivers
    ("version: 1\nrules:\n", 2, "rules takes a list", "dash"),
    ("version: 1\nrules: []\n", 2, "rules is empty", "default"),
    ("version: 1\nrules:\n  - '*'\n", 3, "a rule takes keys", ""),
    ("version: 1\nrules:\n  - frames: '*'\n", 3, "the rule limits nothing", "max_growth: 10%"),
    ("version: 1\nwaivers:\n  - {frames: 'a:b', reason: x}\n", 3, "the waiver has no until", ""),
    ("version: 1\nwaivers:\n  - {frames: 'a:b', until: 2027-01-01}\n", 3, "has no reason", ""),
    ("version: 1\nwaivers:\n  - {until: 2027-01-01, reason: x}\n", 3, "has no frames", ""),
    (
        "version: 1\nwaivers:\n  - {frames: 'a:b', until: 31.1.2027, reason: x}\n",
        3, '"31.1.2027" is not a date', "2027-01-31",
    ),
    (
        "version: 1\nwaivers:\n  - {frames: 'a:b', until: 2027-02-29, reason: x}\n",
        3, "day is out of range for month", "",
    ),
    (
        "version: 1\nwaivers:\n  - {frames: 'a:b', until: 2027-01-31, reason: ' '}\n",
        3, "reason is empty", "",
    ),
    # recording
    (RECORD + "collector: epbf\n", 3, 'unknown collector "epbf"; did you mean "ebpf"?', ""),
    (RECORD + "collector: replay\n", 3, "collector replay needs a run folder", "replay: DIR"),
    (RECORD + "frequency_hz: 9\n", 3, "frequency_hz 9 is outside 10 to 20000 Hz", ""),
    (RECORD + "frequency_hz: 20001\n", 3, "frequency_hz 20001 is outside 10 to 20000 Hz", ""),
    (RECORD + "frequency_hz: 1kHz\n", 3, 'frequency_hz is a plain number (Hz), not "1kHz"', ""),
    (RECORD + "processes: 0\n", 3, "processes 0 is outside 1 to 100", ""),
    (RECORD + "processes: 101\n", 3, "processes 101 is outside 1 to 100", ""),
    (RECORD + "processes: 2.5\n", 3, "processes is a whole number, not 2.5", ""),
    (RECORD + "seconds: 0.04\n", 3, "seconds 0.04 is outside 0.05 to 600 s", ""),
    (RECORD + "seconds: 600.1\n", 3, "seconds 600.1 is outside 0.05 to 600 s", ""),
    (RECORD + "processes: many\n", 3, 'processes is a plain number, not "many"', ""),
    (RECORD + "round_ms: .nan\n", 3, "round_ms is a plain number (ms)", ""),
    (RECORD + "busy: 20\n", 3, '"20" has no unit', "write 20%"),
    (RECORD + "busy: 0%\n", 3, '"0%" is outside 0% to 100%', ""),
    (RECORD + "busy: 101%\n", 3, '"101%" is outside 0% to 100%', ""),
    (RECORD + "machine: yes\n", 3, 'machine is true or false, not "yes"', ""),
    (RECORD + "modes: [oncpu]\n", 3, 'unknown mode "oncpu"; did you mean "on-cpu"?', ""),
    (RECORD + "modes: []\n", 3, "modes is empty", ""),
    ("version: 1\nrecord: fast\n", 2, "record takes keys", ""),
    # the rest
    ("version: 1\nbaseline: {from: 'gti:main'}\n", 2, 'did you mean "git"?', "git:REV"),
    ("version: 1\nbaseline: {from: rerun}\n", 2, "baseline rerun names nothing", "rerun:REV"),
    ("version: 1\nbaseline: {required: yes please}\n", 2, "required is true or false", ""),
    ("version: 1\ninconclusive: maybe\n", 2, 'inconclusive is pass or fail, not "maybe"', ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message", "hint"), ERRORS)
def test_errors_tell_file_line_and_cure(text, line, message, hint):
    with pytest.raises(PolicyError) as raised:
        read(text)

    assert raised.value.message.startswith(f"ci-flame.yml:{line}: ")
    assert message in raised.value.message
    assert hint in raised.value.hint
    assert "\n" not in raised.value.message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        "frequency_hz: 10", "frequency_hz: 20000", "processes: 1", "processes: 100",
        "seconds: 0.05", "seconds: 600", "round_ms: 0.5", "round_ms: 10000",
        "modes: on-cpu", "collector: perf", "collector: auto",
    ],
)  # fmt: skip
def test_the_inner_side_of_every_bound(words):
    read(RECORD + words)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("min_impact: 0%", "min_impact", 0.0),
        ("min_impact: 100%", "min_impact", 1.0),
        ("budget: 100%", "budget", Limit(share=1.0)),
        ("budget: '0.5% | 1 s'", "budget", Limit(share=0.005, ns=1e9)),
        ("certainty: 50%", "certainty", 0.5),
        ("certainty: 99.9%", "certainty", 0.999),
        ("benchmarks: '!*slow*'", "benchmarks", ("!*slow*",)),
        ("max_growth: 0%", "max_growth", Limit(share=0.0)),
        ("max_growth: 1us", "max_growth", Limit(ns=1000.0)),
        ("max_growth: 1µs", "max_growth", Limit(ns=1000.0)),
        ("max_growth: 2 ms|5%", "max_growth", Limit(share=0.05, ns=2e6)),
        ("self: FALSE", "self_only", False),
        ("severity: warn", "severity", Severity.WARN),
    ],
)
def test_the_inner_side_of_every_limit(words, name, value):
    text = RULE + words if "max_growth" not in words else RULE.replace("max_growth: 10%", words)
    (rule,) = read(text).policy.rules

    assert getattr(rule, name) == value


def test_sizes_are_capped():
    many = "version: 1\nrules:\n" + "  - {frames: '*', max_growth: 1%}\n" * 501
    deep = "version: 1\nrules: " + "[" * 13 + "]" * 13
    wide = "version: 1\nrules: [" + "1," * 20_001 + "]"
    large = b"#" * (256 * 1024 + 1)
    for data, message in [
        (many.encode(), "501 rules; at most 500"),
        (deep.encode(), "nested deeper than 12 levels"),
        (wide.encode(), "more than 20000 values"),
        (large, "262145 bytes; a policy has at most 262144"),
        (b"version: 1\nx: " + b"a" * 2001, "a value of 2001 characters"),
        (b"version: 1\nx: \xff", "byte 14 is not UTF-8"),
    ]:
        with pytest.raises(PolicyError, match=message):
            config.parse_policy(data, "ci-flame.yml")
    config.parse_policy(many.replace("  - {frames: '*', max_growth: 1%}\n", "", 1).encode(), "x")


def error_of(data):
    """The error of a policy, or None; anything but PolicyError fails the test."""
    try:
        config.parse_policy(data, "ci-flame.yml")
    except PolicyError as error:
        return error
    return None


@given(st.text())
def test_any_text_is_a_policy_or_an_error(text):
    error = error_of(text.encode("utf-8", "surrogatepass"))

    lines = len(text.splitlines()) + 2
    assert error is None or (error.source == "ci-flame.yml" and 1 <= error.line <= lines)


@given(st.binary())
def test_any_bytes_are_a_policy_or_an_error(data):
    error = error_of(data)

    assert error is None or "\n" not in error.message


KEYS = st.sampled_from(
    ["version", "rules", "record", "baseline", "frames", "max_growth", "until", "self", "from"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["10%", "2ms", "auto", "*", "a:b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(KEYS, VALUES))
def test_any_structure_is_a_policy_or_an_error(document):
    import yaml

    error = error_of(yaml.safe_dump({**document, "version": 1}, allow_unicode=True).encode())

    assert error is None or "\n" not in error.message


@given(
    st.floats(0, 1e6).map(lambda share: round(share, 9)) | st.none(),
    st.integers(0, 10**12).map(float) | st.none(),
)
def test_limits_read_back_exactly(share, ns):
    if share is None and ns is None:
        return
    limit = Limit(share, ns)

    assert parse_limit(show_limit(limit)) == limit


def test_shares_are_shown_as_people_write_them():
    assert [show_share(share) for share in (0.07, 0.005, 1.0, 0.29, 0.0)] == [
        "7%", "0.5%", "100%", "29%", "0%",
    ]  # fmt: skip


# -- where the file is found ----------------------------------------------------------


def test_the_file_is_found_upwards_to_the_git_root(tmp_path):
    (tmp_path / "ci-flame.yml").write_text("version: 7\n")  # above the repository: not ours
    repository = tmp_path / "repository"
    inner = repository / "a" / "b"
    inner.mkdir(parents=True)
    (repository / ".git").mkdir()
    assert config.find_policy(inner) is None

    (repository / "ci-flame.yml").write_text("version: 1\ninconclusive: fail\n")
    found = config.load(None, start=inner)

    assert found.policy_file == repository / "ci-flame.yml"
    assert found.policy.inconclusive_fails


def test_outside_git_only_the_folder_itself_counts(tmp_path):
    (tmp_path / "ci-flame.yml").write_text("version: 1\n")
    inner = tmp_path / "inner"
    inner.mkdir()

    assert config.find_policy(inner) is None
    assert config.find_policy(tmp_path) == tmp_path / "ci-flame.yml"


def test_a_file_with_the_other_ending_is_told(tmp_path):
    (tmp_path / "ci-flame.yaml").write_text("version: 1\n")

    with pytest.raises(UsageError, match=r"is not read: the name is ci-flame\.yml"):
        config.load(None, start=tmp_path)


def test_paths_in_the_file_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "p.yml").write_text(
        "version: 1\nrecord: {collector: replay, replay: runs/x}\nbaseline: {from: 'folder:base'}\n"
    )
    monkeypatch.chdir("/")
    made = config.load(tmp_path / "p.yml", start=tmp_path)

    assert made.record.replay == tmp_path / "runs/x"
    assert made.baseline == BaselineSpec(BaselineKind.FOLDER, str(tmp_path / "base"))


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "nul"])
def test_a_file_that_cannot_be_read(tmp_path, kind):
    import os

    path = tmp_path / "policy.yml"
    if kind == "folder":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "nul":
        path = tmp_path / "a\0b"

    with pytest.raises(UsageError):
        config.load(path, start=tmp_path)


def test_messages_name_the_file_as_seen_from_here(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "ci-flame.yml").write_text("version: 3\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(PolicyError, match=r"^ci-flame\.yml:1: "):
        config.load(None, start=tmp_path)


def test_today_is_set_by_the_edge(tmp_path):
    day = date(2027, 2, 1)

    assert config.load(None, start=tmp_path, today=day).policy.today == day
    assert config.load(None, start=tmp_path).policy.today is not None
