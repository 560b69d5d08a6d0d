"""Where findings point: from the repository's root, in monorepos and outside of git."""

import json
import subprocess
from dataclasses import replace
from datetime import date

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import QUIET, SHOP, grown, synthetic_measurement, synthetic_run
from test_report_text import SCHEMA
from verdicts import ALL, failing, finding, no_baseline, verdict

from ci_flame import config, pipeline
from ci_flame.baseline import repository
from ci_flame.config import terms
from ci_flame.config.terms import Terms
from ci_flame.policy import Policy, Waiver
from ci_flame.profile import TOTAL, Frame, Kind, Measurement, Place
from ci_flame.report import json_report
from ci_flame.verdict import Outcome, located, touch
from ci_flame.verdict.located import Located, Of, Spot

TREE = (
    "tests/bench_shop.py",
    "src/shop/parser.py",
    "services/pay/tests/bench_shop.py",
    "services/pay/src/pay/api.py",
    "services/pay/src/shop/parser.py",
    "libs/money/rate.py",
)


@pytest.fixture
def tree(tmp_path):
    """Return a repository with the files of a monorepo; the last one is not tracked yet."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    for words in (("init", "-q"), ("add", *TREE[:-1])):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.mark.parametrize(
    ("start", "file", "of_a_command", "expected"),
    [
        ("", "src/shop/parser.py", False, "src/shop/parser.py"),
        # Under pytest places are relative to the work tree, of a command to its folder.
        ("services/pay", "src/shop/parser.py", False, "src/shop/parser.py"),
        ("services/pay", "src/shop/parser.py", True, "services/pay/src/shop/parser.py"),
        ("services/pay", "src/pay/api.py", False, "services/pay/src/pay/api.py"),
        ("", "libs/money/rate.py", False, "libs/money/rate.py"),  # not tracked yet
        ("", "money/rate.py", False, "libs/money/rate.py"),  # by its folder on sys.path
        ("", "shop/parser.py", False, None),  # two end like this: which is not known
        ("", "nowhere.py", False, None),
        ("", "site-packages/shop/parser.py", False, None),
        ("", "lib/python3.11/json/decoder.py", False, None),
        ("", "<frozen importlib._bootstrap>", False, None),
    ],
)
def test_a_file_of_a_place_is_found_in_the_repository(tree, start, file, of_a_command, expected):
    found = repository.locate([file], tree / start, inside_first=of_a_command)

    assert found.files.get(file) == expected
    assert found.benchmarks == (f"{start}/" if start else "")


def test_outside_git_nothing_is_known(tmp_path):
    assert repository.locate(["a.py"], tmp_path, inside_first=False) is None


def test_git_is_not_asked_for_lists_where_there_is_nothing_to_point_at(tree):
    (tree / ".git" / "index").write_bytes(b"broken")

    assert repository.locate([], tree / "services/pay", inside_first=False) == Located(
        {}, "services/pay/"
    )
    assert repository.locate(["a.py"], tree, inside_first=False) is None


# ---- pointing ----

FAILING = failing()
FOUND = FAILING.findings[0]


def spot(found=FOUND, each=FAILING, known=None):
    each = replace(each, findings=(found,))
    return located.spot(found, each, replace(verdict(each), located=known))


def test_without_git_a_place_is_taken_as_it_was_recorded():
    assert spot() == Spot("src/shop/parser.py", 88, Of.FUNCTION)


def test_the_guilty_function_comes_first():
    known = Located({"src/shop/parser.py": "services/pay/src/shop/parser.py"}, "services/pay/")

    assert spot(known=known) == Spot("services/pay/src/shop/parser.py", 88, Of.FUNCTION)


def native(changed_at=None):
    """The finding, of a C function: it has no place, and its caller has one."""
    roll = Frame("roll", "_rolling", kind=Kind.NATIVE)
    path = (*FOUND.path, roll)
    return replace(FOUND, frame=roll, path=path, place=None, changed_at=changed_at)


def test_a_c_function_is_where_the_diff_changed_it():
    changed_at = touch.Spot(touch.Touch.CHANGED, "services/pay/src/rolling.c", 17)
    known = Located({"src/shop/parser.py": "services/pay/src/shop/parser.py"})

    assert spot(native(changed_at), known=known) == Spot(changed_at.file, 17, Of.FUNCTION)
    assert spot(native(), known=known).of is Of.CALLER


@pytest.mark.parametrize(
    ("function", "file"),
    [
        ("src/parser.js:tokenize", "src/parser.js"),
        ("src/parser.mjs:Parser.tokenize", "src/parser.mjs"),
        ("src/view.tsx:(anonymous)", "src/view.tsx"),
        ("src/parser.py:tokenize", ""),
        ("shop.Parser.size", ""),  # Java
        ("node:internal/main/run_main_module:(anonymous)", ""),
        ("../elsewhere.js:f", ""),
        ("/elsewhere.js:f", ""),
    ],
)
@pytest.mark.parametrize("in_git", [True, False])
def test_a_javascript_function_is_in_the_file_that_its_name_tells(function, file, in_git):
    frame = Frame(function, kind=Kind.JIT)
    found = replace(FOUND, frame=frame, path=(frame,), place=None)
    each = replace(FAILING, findings=(found,))
    asked = located.wanted(verdict(each))
    known = Located({name: name for name in asked if not name.startswith((".", "/"))})

    told = spot(found, known=known if in_git else None)

    assert (told.of is Of.FUNCTION) is bool(file)
    if file:
        assert told == Spot(file, 1, Of.FUNCTION)


def test_then_the_nearest_caller_of_the_repository():
    loads = finding(FAILING.diff, "json.decoder:JSONDecoder.raw_decode")
    callers = [str(frame) for frame in loads.path]
    parse = next(f for f in FAILING.diff.frames if str(f.frame) == "shop.api:Request.parse")

    assert callers.index("shop.api:Request.parse") < callers.index("json:loads")
    assert spot(loads, known=Located({"src/shop/api.py": "src/shop/api.py"})) == Spot(
        "src/shop/api.py", parse.place.line, Of.CALLER
    )


def test_then_the_benchmark_with_its_line():
    total = finding(FAILING.diff, "[total]")
    test = next(f for f in FAILING.diff.frames if f.frame.function == "test_checkout")
    here = replace(test, place=Place("services/pay/tests/bench_shop.py", 31))
    frames = tuple(here if each is test else each for each in FAILING.diff.frames)
    each = replace(FAILING, diff=replace(FAILING.diff, frames=frames))

    assert total.frame == TOTAL
    assert spot(total, each, Located({}, "services/pay/")) == Spot(
        "services/pay/tests/bench_shop.py", 31, Of.BENCHMARK
    )
    # The function of another file is not this test.
    assert spot(total, each, Located({}, "")).line == 1


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("ci-flame.yml:7", Spot("ci-flame.yml", 7, Of.POLICY)),
        ("perf/gate.yaml:12", Spot("perf/gate.yaml", 12, Of.POLICY)),
        ("default", Spot("ci-flame.yml", 1, Of.POLICY)),
        ("marker of test_x", Spot("ci-flame.yml", 1, Of.POLICY)),
        ("/home/me/ci-flame.yml:7", Spot("ci-flame.yml", 1, Of.POLICY)),
        ("../ci-flame.yml:7", Spot("ci-flame.yml", 1, Of.POLICY)),
        ("ci-flame.yml:0", Spot("ci-flame.yml", 1, Of.POLICY)),
    ],
)
def test_then_the_rule_that_was_broken(place, expected):
    frames = tuple(replace(each, place=None) for each in FAILING.diff.frames)
    diff = replace(FAILING.diff, frames=frames)
    each = replace(FAILING, benchmark="make bench", diff=diff)
    found = replace(
        FOUND, benchmark="make bench", place=None, rule=replace(FOUND.rule, place=place)
    )

    assert spot(found, each) == expected


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({"ci-flame.yml": "pay/ci-flame.yml"}, Spot("pay/ci-flame.yml", 7, Of.POLICY)),
        ({}, Spot("pay/ci-flame.yml", 1, Of.POLICY)),  # where one would be
    ],
)
def test_the_policy_of_a_part_of_the_repository_is_found(policies, expected):
    each = replace(FAILING, benchmark="make bench")
    found = replace(FOUND, benchmark="make bench", place=None)

    assert spot(found, each, Located({}, "pay/", policies)) == expected


def test_policy_files_are_found_where_the_user_names_them(tree, monkeypatch):
    for name in ("ci-flame.yml", "services/pay/ci-flame.yml"):
        (tree / name).write_text("version: 1\n")
    monkeypatch.chdir(tree / "services/pay")
    above = str(tree / "ci-flame.yml")  # what lies above is named from the root of the machine
    asked = ("ci-flame.yml", above, "/etc/ci-flame.yml", "../../../out.yml")
    found = repository.locate([], tree / "services/pay", inside_first=False, policies=asked)

    assert found.policies == {"ci-flame.yml": "services/pay/ci-flame.yml", above: "ci-flame.yml"}


def test_a_rule_of_a_policy_above_is_told_from_the_root(tree, monkeypatch):
    (tree / "ci-flame.yml").write_text('version: 1\nrules:\n  - {frames: "*", max_growth: 10%}\n')
    monkeypatch.chdir(tree / "services/pay")
    policy = config.load(None, start=tree / "services/pay").policy
    before, after = runs()
    told, kept = pipeline.located(
        pipeline.compare(before, after, policy), after, Terms(policy), tree / "services/pay"
    )
    (each,) = told.benchmarks
    (found,) = each.findings

    assert found.rule.place.startswith("/")
    assert located.policy_spot(found.rule.place, told.located) == Spot("ci-flame.yml", 3, Of.POLICY)
    again = terms.decode(terms.encode(kept), "policy.json")
    assert again.located.policies == told.located.policies


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "../up.py", "a/../../up.py", "C:\\x.py", "site-packages/x.py", "<string>", ""],
)
def test_nothing_outside_of_the_repository_is_pointed_at(file):
    found = replace(FOUND, place=Place(file, 3))
    frames = tuple(replace(each, place=None) for each in FAILING.diff.frames)
    each = replace(FAILING, diff=replace(FAILING.diff, frames=frames), benchmark=f"{file}::test_x")
    told = spot(found, each)

    assert told.of is Of.POLICY
    assert told.file == "ci-flame.yml"


def test_a_line_is_never_under_one():
    assert spot(replace(FOUND, place=Place("a.py", 0))).line == 1


@given(st.text(max_size=30), st.text(max_size=30), st.integers(-5, 10**9))
def test_whatever_names_are_a_spot_is_relative(benchmark, file, line):
    found = replace(FOUND, benchmark=benchmark, place=Place(file, line))
    told = spot(found, replace(FAILING, benchmark=benchmark))

    assert told.file
    assert not told.file.startswith("/")
    assert ".." not in told.file.split("/")
    assert told.line >= 1


def test_a_benchmark_that_has_no_file_has_no_spot():
    each = no_baseline("make bench")

    assert located.benchmark_spot(each, verdict(each)) is None


def test_a_benchmark_without_a_baseline_has_its_line():
    root = Frame("test_new", "bench_shop")
    recorded = Measurement(
        "tests/bench_shop.py::test_new[a::b]", (), root, {root: Place("x/tests/bench_shop.py", 9)}
    )
    each = replace(no_baseline(recorded.benchmark), alone=recorded)
    told = located.benchmark_spot(each, replace(verdict(each), located=Located({}, "x/")))

    assert told == Spot("x/tests/bench_shop.py", 9, Of.BENCHMARK)


def test_without_git_the_line_of_a_test_is_found_by_its_file():
    test = next(f for f in FAILING.diff.frames if f.frame.function == "test_checkout")
    for file, line in (("pay/tests/bench_shop.py", 31), ("tests/bench_shop.py", 31), ("x.py", 1)):
        here = replace(test, place=Place(file, 31))
        frames = tuple(here if each is test else each for each in FAILING.diff.frames)
        each = replace(FAILING, diff=replace(FAILING.diff, frames=frames))

        assert located.benchmark_spot(each, verdict(each)).line == line


# ---- through the pipeline ----

PLACES = {"shop.parser:tokenize": ("services/pay/src/shop/parser.py", 88)}


def runs():
    before = synthetic_measurement(SHOP, seed=1, noise=QUIET, places=PLACES)
    after = synthetic_measurement(
        grown(SHOP, "shop.parser:tokenize", 2.0), seed=2, noise=QUIET, places=PLACES
    )
    return synthetic_run(before), synthetic_run(after)


def test_where_it_is_survives_the_report_folder(tree, tmp_path):
    before, after = runs()
    judged = pipeline.compare(before, after, Policy())
    told, kept = pipeline.located(judged, after, Terms(Policy()), tree / "services/pay")
    again = pipeline.judge_runs(before, after, terms.decode(terms.encode(kept), "policy.json"))

    (each,) = told.benchmarks
    assert each.outcome is Outcome.FAIL
    assert told.located == again.located == kept.located
    assert located.spot(each.findings[0], each, told).file == "services/pay/src/shop/parser.py"
    assert json_report.render(told) == json_report.render(again)


def test_a_command_is_profiled_in_its_folder(tree):
    places = {"shop.parser:tokenize": ("src/shop/parser.py", 88)}
    made = (synthetic_measurement(SHOP, seed=1, noise=QUIET, places=places),
            synthetic_measurement(grown(SHOP, "shop.parser:tokenize", 2.0), seed=2, noise=QUIET,
                                  places=places))  # fmt: skip
    files = []
    for root in (made[1].root, None):
        before, after = (synthetic_run(replace(each, root=root)) for each in made)
        judged = pipeline.compare(before, after, Policy())
        told, _ = pipeline.located(judged, after, Terms(Policy()), tree / "services/pay")
        (each,) = told.benchmarks
        files.append(located.spot(each.findings[0], each, told).file)

    assert made[1].root is not None
    assert files == ["src/shop/parser.py", "services/pay/src/shop/parser.py"]


def test_terms_of_before_there_were_spots_are_read():
    document = json.loads(terms.encode(Terms(Policy())))
    del document["located"]

    assert terms.decode(json.dumps(document), "policy.json").located is None


@pytest.mark.parametrize("case", ALL)
def test_verdict_json_says_where(case):
    document = json.loads(json_report.render(ALL[case]))
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    for each in document["benchmarks"]:
        for found in each["findings"]:
            assert found["where"]["line"] >= 1
            assert found["where"]["file"]


def test_what_is_waived_is_kept_beside_the_findings():
    before, after = runs()
    waiver = Waiver(("shop.parser:*",), date(2026, 12, 31), "known", place="ci-flame.yml:20")
    judged = pipeline.compare(before, after, Policy(waivers=(waiver,), today=date(2026, 12, 31)))
    (each,) = judged.benchmarks
    (told,) = json.loads(json_report.render(judged))["benchmarks"][0]["waived"]

    assert each.findings == ()
    assert [str(found.frame) for found in each.waived] == ["shop.parser:tokenize"]
    assert told["waiver"] == {"until": "2026-12-31", "reason": "known"}
    assert told["where"] == {
        "file": "services/pay/src/shop/parser.py",
        "line": 88,
        "of": "function",
    }
    jsonschema.validate(
        json.loads(json_report.render(judged)), SCHEMA, cls=jsonschema.Draft202012Validator
    )
