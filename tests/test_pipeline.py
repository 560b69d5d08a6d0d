"""From runs to a report folder and back: what is judged, stored and judged again."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run

from ci_flame import config, pipeline, report_folder
from ci_flame.baseline import folder
from ci_flame.config import BaselineKind, BaselineSpec, Config, RecordConfig, terms
from ci_flame.config.terms import Terms
from ci_flame.errors import (
    BaselineError,
    CiFlameError,
    CollectError,
    FormatError,
    InterruptedRunError,
    UsageError,
)
from ci_flame.pipeline import pytest_command
from ci_flame.pipeline.chosen import load_baseline
from ci_flame.policy import Limit, Policy, Rule, Severity, Waiver
from ci_flame.verdict import Note, Outcome
from ci_flame.verdict.absent import is_compared

GUILTY = "shop.parser:tokenize"
OTHER = "tests/bench_shop.py::test_other"
LENIENT = Policy(rules=(Rule(max_growth=Limit(share=5.0)),))
WARNING = Policy(rules=(Rule(max_growth=Limit(share=0.1), severity=Severity.WARN),))


@pytest.fixture(scope="module")
def before():
    return synthetic_run(
        synthetic_measurement(SHOP, seed=1), synthetic_measurement(SHOP, seed=2, benchmark=OTHER)
    )


@pytest.fixture(scope="module")
def after():
    """As `before`, but tokenize costs twice as much in the first benchmark."""
    return synthetic_run(
        synthetic_measurement(grown(SHOP, GUILTY, 2.0), seed=3),
        synthetic_measurement(SHOP, seed=4, benchmark=OTHER),
    )


FIRST = "tests/bench_shop.py::test_checkout"


def outcomes(verdict):
    return {each.benchmark: each.outcome for each in verdict.benchmarks}


# -- judging --------------------------------------------------------------------------


def test_compare_names_the_function_that_grew(before, after):
    verdict = pipeline.compare(before, after, Policy())

    assert verdict.outcome is Outcome.FAIL
    assert outcomes(verdict) == {FIRST: Outcome.FAIL, OTHER: Outcome.PASS}
    assert GUILTY in str(verdict.benchmarks[0].findings[0])


def test_each_benchmark_is_judged_by_its_own_policy(before, after):
    mine = pipeline.judge_runs(before, after, Terms(Policy(), {FIRST: LENIENT}))
    theirs = pipeline.judge_runs(before, after, Terms(LENIENT, {FIRST: Policy()}))
    warned = pipeline.judge_runs(before, after, Terms(Policy(), {FIRST: WARNING}))

    assert outcomes(mine) == {FIRST: Outcome.PASS, OTHER: Outcome.PASS}
    assert outcomes(theirs) == {FIRST: Outcome.FAIL, OTHER: Outcome.PASS}
    assert outcomes(warned) == {FIRST: Outcome.WARN, OTHER: Outcome.PASS}
    assert mine.outcome is Outcome.PASS
    assert mine.diff is not None


def test_a_policy_of_its_own_changes_nothing_for_the_others(before, after):
    alone = pipeline.judge_runs(before, after, Terms(Policy(), family=2))
    mixed = pipeline.judge_runs(before, after, Terms(Policy(), {OTHER: WARNING}, family=2))

    assert mixed.benchmarks[0] == alone.benchmarks[0]


def test_benchmarks_that_come_and_go_are_named_with_policies_too(before, after):
    renamed = replace(
        after,
        measurements=(
            after.measurements[0],
            replace(after.measurements[1], benchmark="tests/bench_shop.py::test_new"),
        ),
    )
    verdict = pipeline.judge_runs(before, renamed, Terms(Policy(), {FIRST: LENIENT}))

    assert outcomes(verdict)["tests/bench_shop.py::test_new"] is Outcome.NO_BASELINE
    assert any(OTHER in note.text or note.benchmark == OTHER for note in verdict.notes)


def test_without_a_baseline_the_note_says_why(after):
    verdict = pipeline.judge_runs(None, after, Terms(Policy(), note=Note("no-baseline", "gone")))

    assert verdict.outcome is Outcome.NO_BASELINE
    assert "gone" in {note.text for note in verdict.notes}


def test_budgets_need_no_baseline(after):
    policy = Policy(rules=(Rule(frames=(GUILTY,), budget=Limit(share=0.1)),))

    assert pipeline.judge_runs(None, after, Terms(policy)).outcome is Outcome.FAIL


def test_an_interrupted_run_is_no_baseline(before, after):
    with pytest.raises(BaselineError, match="before is incomplete"):
        pipeline.compare(replace(before, complete=False), after, Policy())
    with pytest.raises(BaselineError, match="before holds no benchmark"):
        pipeline.compare(replace(before, measurements=()), after, Policy())


@pytest.mark.parametrize(
    ("outcome", "policy", "compared", "code"),
    [
        (Outcome.PASS, Policy(), True, 0),
        (Outcome.WARN, Policy(), True, 0),
        (Outcome.NO_BASELINE, Policy(), False, 0),
        (Outcome.NO_BASELINE, Policy(baseline_required=True), False, 4),
        # Some are new, the others were compared.
        (Outcome.NO_BASELINE, Policy(baseline_required=True), True, 0),
        # A budget warned, and there was nothing to compare with.
        (Outcome.WARN, Policy(baseline_required=True), False, 4),
        (Outcome.INCONCLUSIVE, Policy(), True, 0),
        (Outcome.INCONCLUSIVE, Policy(inconclusive_fails=True), True, 5),
        (Outcome.INCONCLUSIVE, Policy(baseline_required=True), True, 0),
        (Outcome.FAIL, Policy(), True, 1),
        (Outcome.FAIL, Policy(baseline_required=True), False, 1),
        (Outcome.PASS, Policy(baseline_required=True, inconclusive_fails=True), True, 0),
    ],
)
def test_exit_codes(outcome, policy, compared, code):
    assert pipeline.exit_code(outcome, policy, compared=compared) == code


@pytest.mark.parametrize(("names", "code"), [((FIRST,), 0), ((FIRST, OTHER), 4)])
def test_a_required_baseline_is_missing_where_nothing_was_compared(tmp_path, after, names, code):
    """One that is new beside one that was compared fails nothing; the stored verdict agrees."""
    policy = Policy(baseline_required=True)
    before = replace(
        after,
        measurements=tuple(
            replace(each, benchmark=f"{each.benchmark}_gone") if each.benchmark in names else each
            for each in after.measurements
        ),
    )
    verdict = pipeline.judge_runs(before, after, Terms(policy))
    report_folder.save(
        verdict, report_folder.Report(before, after, Terms(policy)), tmp_path / "report"
    )

    assert is_compared(verdict.benchmarks) is (code == 0)
    assert (
        pipeline.exit_code(verdict.outcome, policy, compared=is_compared(verdict.benchmarks))
        == code
    )
    assert pipeline.stored_exit_code(tmp_path / "report") == code


# -- baselines ------------------------------------------------------------------------


def test_stored_baselines(tmp_path, before):
    small = replace(before, measurements=before.measurements[:1])
    folder.save(small, tmp_path / ".ci-flame/baseline")
    folder.save(small, tmp_path / "elsewhere")

    auto = load_baseline(BaselineSpec(), tmp_path)
    named = load_baseline(BaselineSpec(BaselineKind.FOLDER, "elsewhere"), tmp_path)

    assert auto.run == named.run == small
    assert auto.told == "baseline .ci-flame/baseline (commit 0123456789)"


def test_no_baseline_is_told_with_its_reason(tmp_path):
    auto = load_baseline(BaselineSpec(), tmp_path)
    none = load_baseline(BaselineSpec(BaselineKind.NONE), tmp_path)

    assert (auto.run, none.run) == (None, None)
    assert auto.told == "no baseline: .ci-flame/baseline does not exist"
    assert none.told == "no baseline: none was given"


def test_a_baseline_that_was_named_must_be_usable(tmp_path, before):
    folder.save(replace(before, complete=False), tmp_path / "half")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty", "half"):
        with pytest.raises(BaselineError, match=name):
            load_baseline(BaselineSpec(BaselineKind.FOLDER, name), tmp_path)
    with pytest.raises(UsageError, match="baseline rerun:HEAD is recorded, not loaded"):
        load_baseline(BaselineSpec(BaselineKind.RERUN, "HEAD"), tmp_path)


def test_a_broken_stored_baseline_is_not_taken_for_none(tmp_path):
    (tmp_path / ".ci-flame/baseline").mkdir(parents=True)

    with pytest.raises(BaselineError, match="empty"):
        load_baseline(BaselineSpec(), tmp_path)


# -- the report folder ----------------------------------------------------------------


def write(before, after, place, policy=Policy(), **more):  # noqa: B008 - frozen
    judged = Terms(policy, more.get("policies", {}), more.get("family"), more.get("note"))
    verdict = pipeline.judge_runs(before, after, judged)
    pipeline.write_report(verdict, before, after, Config(policy=policy), place, **more)
    return verdict


def test_the_report_holds_everything(tmp_path, before, after):
    place = tmp_path / ".ci-flame" / "report"
    verdict = write(before, after, place)

    names = {path.name for path in place.iterdir()}
    assert {"before", "after", "policy.json", "verdict.json", "report.html"} <= names
    assert {"junit.xml", "summary.md"} <= names
    assert len([name for name in names if name.endswith(".svg")]) == 2
    assert json.loads((place / "verdict.json").read_text())["outcome"] == "fail"
    assert str(verdict.benchmarks[0].findings[0]) in (place / "verdict.json").read_text()
    assert report_folder.outcome(place) is Outcome.FAIL
    assert [path.name for path in place.parent.iterdir() if "tmp" in path.name] == []
    assert (place.parent / ".gitignore").exists()


def test_explain_judges_again_to_the_same_bytes(tmp_path, before, after):
    from ci_flame.report import REPORTERS

    policy = replace(Policy(), today=date(2027, 1, 31))
    write(before, after, tmp_path / "r", policy, policies={OTHER: WARNING}, family=7)

    again = pipeline.explain(tmp_path / "r")

    assert REPORTERS["json"](again) == (tmp_path / "r" / "verdict.json").read_text()
    assert REPORTERS["junit"](again) == (tmp_path / "r" / "junit.xml").read_text()


def test_explain_of_benchmarks_that_are_all_new(tmp_path, before, after):
    write(replace(before, measurements=()), after, tmp_path / "r")

    verdict = pipeline.explain(tmp_path / "r")

    assert verdict.outcome is Outcome.NO_BASELINE
    assert {note.slug for note in verdict.notes} == {"new-benchmark"}


def test_explain_without_a_before_side(tmp_path, after):
    write(None, after, tmp_path / "r", note=Note("no-baseline", "no baseline: gone"))

    again = pipeline.explain(tmp_path / "r")

    assert again.outcome is Outcome.NO_BASELINE
    assert "no baseline: gone" in {note.text for note in again.notes}


def test_a_report_replaces_a_report_and_nothing_else(tmp_path, before, after):
    place = tmp_path / "r"
    place.mkdir()  # an empty folder is nobody's
    write(before, before, place)
    write(before, after, place)
    assert report_folder.outcome(place) is Outcome.FAIL

    other = tmp_path / "src"
    other.mkdir()
    (other / "precious.py").write_text("x")
    with pytest.raises(UsageError, match="is not empty and not a report"):
        write(before, after, other)
    with pytest.raises(UsageError, match="is not a folder"):
        write(before, after, other / "precious.py")
    assert [path.name for path in other.iterdir()] == ["precious.py"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "src"]


def test_a_full_disk_leaves_the_earlier_report(tmp_path, before, after, monkeypatch):
    place = tmp_path / "r"
    write(before, before, place)

    def full(path, text):
        if path.name == "junit.xml":
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr(report_folder, "_write", full)
    with pytest.raises(CiFlameError, match="cannot be written: No space left on device"):
        write(before, after, place)

    assert report_folder.outcome(place) is Outcome.PASS
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_is_not_a_report(tmp_path, before):
    folder.save(before, tmp_path / "run")

    with pytest.raises(UsageError, match="does not exist"):
        pipeline.explain(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"is not a report: it has no verdict\.json"):
        pipeline.explain(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("policy.json", ""),
        ("policy.json", "[]"),
        ("policy.json", '{"schema_version": 2}'),
        ("policy.json", "{" * 100_000),
        ("policy.json", '{"schema_version": 1, "note": null, "family": -1}'),
        ("verdict.json", "[1]"),
        ("verdict.json", '{"outcome": "great"}'),
        ("verdict.json", "[" * 100_000),
    ],
)
def test_hostile_reports_are_refused_by_name(tmp_path, before, name, text):
    write(before, before, tmp_path / "r")
    (tmp_path / "r" / name).write_text(text)

    read = report_folder.terms if name == "policy.json" else report_folder.outcome

    with pytest.raises(FormatError, match=name):
        read(tmp_path / "r")


def test_discard_removes_reports_only(tmp_path, before):
    write(before, before, tmp_path / "r")
    (tmp_path / "other").mkdir()

    report_folder.discard(tmp_path / "r")
    report_folder.discard(tmp_path / "other")

    assert [path.name for path in tmp_path.iterdir()] == ["other"]


# -- policy.json ----------------------------------------------------------------------

GLOBS = st.lists(st.sampled_from(["*", "a:b", "x.y:*;**;z:*", "[total]", "kernel:*"]), min_size=1)
SHARES = st.floats(0, 1).map(lambda share: round(share, 6))
LIMITS = st.builds(Limit, share=st.floats(0.001, 1).map(lambda s: round(s, 6))) | st.builds(
    Limit, ns=st.integers(1, 10**10).map(float)
)
RULES = st.builds(
    Rule,
    frames=GLOBS.map(tuple),
    benchmarks=st.sampled_from([("*",), ("t.py::x[é]", "!*slow*")]),
    max_growth=LIMITS,
    min_impact=SHARES,
    budget=st.none() | LIMITS,
    certainty=st.floats(0.5, 0.999).map(lambda share: round(share, 4)),
    severity=st.sampled_from(Severity),
    self_only=st.booleans(),
    place=st.text(max_size=20),
)
WAIVERS = st.builds(
    Waiver,
    frames=GLOBS.map(tuple),
    until=st.dates(),
    reason=st.sampled_from(["because", 'quo"te: #1']),
    place=st.text(max_size=20),
)
POLICIES = st.builds(
    Policy,
    rules=st.lists(RULES, min_size=1, max_size=3).map(tuple),
    waivers=st.lists(WAIVERS, max_size=2).map(tuple),
    baseline_required=st.booleans(),
    inconclusive_fails=st.booleans(),
    today=st.none() | st.dates(),
)


@given(
    POLICIES,
    st.dictionaries(st.text(min_size=1, max_size=10), POLICIES, max_size=2),
    st.none() | st.integers(0, 99),
)
def test_terms_read_back_exactly(policy, benchmarks, family):
    told = Terms(policy, benchmarks, family, Note("no-baseline", "why\n☃", "b"))

    assert terms.decode(terms.encode(told), "policy.json") == told


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["schema_version", "policy", "judged_by", "benchmarks", "note", "family", "places"]
    ), inner)))  # fmt: skip
def test_any_document_is_terms_or_an_error(document):
    if isinstance(document, dict):
        document["schema_version"] = 1

    with pytest.raises(FormatError, match=r"^policy\.json: "):
        terms.decode(json.dumps(document), "policy.json")


# -- pytest commands ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pytest", True),
        ("/x/bin/pytest -q tests", True),
        ("py.test", True),
        ("python -m pytest", True),
        ("python3.12 -X dev -W error -B -m pytest -k x", True),
        ("python3.13t -mpytest", True),
        ("pypy3 -m pytest", True),
        ("python bench.py pytest", False),
        ("python -c pytest", False),
        ("python -m unittest", False),
        ("python", False),
        ("python -m", False),
        ("tox", False),
        ("pytest-watch", False),
    ],
)
def test_pytest_commands_are_recognised(command, expected):
    assert pytest_command.is_pytest(command.split()) is expected


def test_options_go_through_the_environment(monkeypatch, tmp_path):
    import shlex

    monkeypatch.chdir(tmp_path)
    told = Config(
        record=RecordConfig(processes=2, seconds=0.5),
        baseline=BaselineSpec(BaselineKind.TREE, "/base tree"),
        out=Path("o ut"),
        policy_file=Path("p.yml"),
    )
    words = shlex.split(
        pytest_command.environment(told, {"PYTEST_ADDOPTS": "-q"})["PYTEST_ADDOPTS"]
    )

    assert words[:2] == ["-q", "--flame"]
    pairs = dict(zip(words[2::2], words[3::2], strict=True))
    assert pairs["--flame-out"] == str(tmp_path / "o ut")
    assert pairs["--flame-report"] == str(tmp_path / ".ci-flame/report")
    assert pairs["--flame-baseline"] == "tree:/base tree"
    assert pairs["--flame-policy"] == str(tmp_path / "p.yml")
    assert (pairs["--flame-processes"], pairs["--flame-seconds"]) == ("2", "0.5")
    assert config.parse_baseline(pairs["--flame-baseline"]) == told.baseline


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (RecordConfig(), []),
        (
            RecordConfig(collector="perf", event="page-faults", call_graph="dwarf,4096"),
            ["--flame-event", "page-faults", "--flame-call-graph", "dwarf,4096"],
        ),
        (RecordConfig(collector="replay", replay=Path("/x")), ["--flame-replay", "/x"]),
        # The policy's run is not what somebody asks for who names a collector.
        (RecordConfig(collector="ebpf", replay=Path("/x")), []),
    ],
)
def test_what_is_recorded_is_what_was_asked_for(record, words):
    told = pytest_command.options(Config(record=record))
    names = ("--flame-event", "--flame-call-graph", "--flame-replay")
    kept = [pair for pair in itertools.pairwise(told) if pair[0] in names]

    assert [word for pair in kept for word in pair] == words


def test_a_relative_baseline_is_found_by_a_pytest_that_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in (BaselineKind.FOLDER, BaselineKind.TREE):
        words = pytest_command.options(Config(baseline=BaselineSpec(kind, "../base")))

        assert words[words.index("--flame-baseline") + 1] == f"{kind}:{tmp_path}/../base"


def test_every_option_is_one_that_the_plugin_knows(pytester):
    told = Config(
        record=RecordConfig(
            collector="replay", replay=Path("x"), event="cycles", call_graph="dwarf"
        ),
        policy_file=Path("p.yml"),
        quick=True,
    )
    known = pytester.runpytest_subprocess("--help").stdout.str()

    for word in pytest_command.options(told):
        if word.startswith("--"):
            assert word in known


@pytest.mark.parametrize(
    ("ended", "code", "expected"), [(0, 0, 0), (0, 4, 4), (1, 1, 1), (1, 5, 5), (2, 1, 1)]
)
def test_the_verdict_decides(ended, code, expected):
    assert pytest_command.combine(ended, code) == expected


@pytest.mark.parametrize("ended", [1, 2, 3, 4])
def test_pytest_that_fails_for_other_reasons_is_no_pass(ended):
    with pytest.raises(CollectError, match=f"exit code {ended}, and not because of a hot path"):
        pytest_command.combine(ended, 0)


def interrupted(command, monkeypatch, tmp_path):
    """Run a command as pytest, with Ctrl-C once it has written its process number to `pid`."""
    pid = tmp_path / "pid"

    def wait(process, timeout=None):
        if timeout is not None:
            return ended(process, timeout)
        while not (pid.exists() and pid.read_text(encoding="ascii").endswith("\n")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    ended = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(InterruptedRunError):
        pytest_command.run(command, config.Config())
    return int(pid.read_text(encoding="ascii"))


def test_ctrl_c_reaches_pytest_through_a_wrapper(monkeypatch, tmp_path):
    # A shell waits for what it started, and passes no signal on.
    script = f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60'; true"
    pid = interrupted(["sh", "-c", script], monkeypatch, tmp_path)

    cmdline = Path(f"/proc/{pid}/cmdline")  # empty once it has ended
    deadline = time.monotonic() + 10
    while cmdline.exists() and cmdline.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not (cmdline.exists() and cmdline.read_bytes())


def test_pytest_cannot_wait_for_the_terminal():
    words = [sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"]

    assert pytest_command.run(words, config.Config()) == 0


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (5, "found no test"),
        (0, "recorded no benchmark"),
        (3, "exit code 3 and left no report"),
        (4, "exit code 4 and left no report\n  hint: its message .* not installed"),
    ],
)
def test_pytest_without_a_report(tmp_path, ended, message):
    with pytest.raises(CollectError, match=message):
        pytest_command.outcome(ended, tmp_path)
