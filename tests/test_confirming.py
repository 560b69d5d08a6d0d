"""A failure against a stored baseline is confirmed on both sides, where its commit can be had."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run
from test_baseline_git import run_git
from test_cli import call

from ci_flame import pipeline
from ci_flame.baseline import folder, store
from ci_flame.config import BaselineKind, BaselineSpec, build
from ci_flame.diff.same_code import not_the_build
from ci_flame.pipeline.chosen import Chosen, to_confirm
from ci_flame.policy import Policy
from ci_flame.verdict import Outcome
from ci_flame.verdict.confirmed import confirmation

TOKENIZE = "shop.parser:tokenize"


@pytest.mark.parametrize(
    ("factor", "same"), [(1.0, True), (1.8, True), (2.2, False), (0.55, True), (0.45, False)]
)
def test_the_same_build_costs_about_the_same(factor, same):
    stored = synthetic_measurement(SHOP, seed=1)
    again = synthetic_measurement(grown(SHOP, TOKENIZE, factor), seed=2)
    told = not_the_build(stored, again)

    assert (told == "") is same
    assert same or TOKENIZE in told


def test_a_build_has_the_same_functions():
    stored = synthetic_measurement(SHOP, seed=1)
    path = next(name for name in SHOP if name.endswith(TOKENIZE))
    without = {name: cost for name, cost in SHOP.items() if name != path}
    lacks = synthetic_measurement(without, seed=2)

    assert not_the_build(stored, lacks).endswith(f"{TOKENIZE} is not there")
    assert not_the_build(lacks, stored).endswith(f"{TOKENIZE} is not in what is stored")
    assert not_the_build(stored, None) == "the benchmark does not run there"


def test_what_a_second_recording_says():
    note = confirmation("b", (), Outcome.FAIL, beside="0123456789abcdef")

    assert note.slug == "confirmed"
    assert note.text.endswith("second's; the baseline's commit 0123456789 was recorded beside it")
    told = confirmation("b", (), Outcome.FAIL, trouble="there is none").text
    assert told.endswith("; the baseline's commit could not be recorded beside it: there is none")
    assert confirmation("b", (), Outcome.FAIL).text.endswith("the figures are the second's")
    told = confirmation("b", (), Outcome.PASS, beside="0123456789abcdef").text
    assert told.startswith("what failed against the stored baseline alone was recorded once more")
    words = {"second": Outcome.FAIL, "beside": "b" * 40, "ancestor": "a" * 40}
    note = confirmation("b", (), **words)
    told = confirmation("b", (), **words, trouble="there is none")
    assert note.commit == "b" * 40
    assert note.text.endswith(
        "; the base commit bbbbbbbbbb was recorded beside it, and is what counts, not what is"
        " stored of aaaaaaaaaa"
    )
    assert not told.commit
    assert told.text.endswith(
        "; the base commit could not be recorded beside it: there is none, so that commits between"
        " aaaaaaaaaa and the base bbbbbbbbbb may have done it"
    )
    told = confirmation("b", (), Outcome.PASS, beside="0123456789abcdef").text
    assert told.endswith("; the baseline's commit 0123456789 was recorded beside it")


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (True, "a first recording failed, the second could not be judged, and refutes nothing: "),
        (False, "what failed against the stored baseline alone was recorded once more, and could "),
    ],
)
def test_a_second_recording_without_a_verdict_refutes_nothing(first, told):
    sides = [
        synthetic_run(synthetic_measurement(costs, seed=seed))
        for seed, costs in enumerate((SHOP, grown(SHOP, TOKENIZE, 2.0)))
    ]
    found = pipeline.compare(*sides, Policy()).benchmarks[0].findings if first else ()

    note = confirmation("b", found, Outcome.INCONCLUSIVE)

    assert note.slug == "not-confirmed"
    assert note.text.startswith(told)


# -- for real -------------------------------------------------------------------------

SLOWER = """
import pathlib
# What a machine does to one function and to no reference work: the same in every commit.
MACHINE = float(pathlib.Path({state!r}).read_text())
def tokenize(times):
    total = 0
    for i in range(int({loops} * times * MACHINE)): total += i * 3 % 7
    return total
def render():
    return sum(len(str(i)) for i in range(20_000))
"""
BENCHMARK = """
import shop
def work(): shop.tokenize(1); shop.render()
def test_shop(flame): flame(work)
"""
PROGRAM = """
import shop
for _ in range(200): shop.tokenize(1); shop.render()
"""
POLICY = "version: 1\nrecord: {busy: 100%}\noverhead: {max: 90%}\n"


class Project:
    """A repository of one commit, and a machine that may become slower."""

    def __init__(self, place):
        self.place = place / "repository"
        self.state = place / "machine"
        self.place.mkdir()
        self.machine(1)
        self.code(30_000)
        (self.place / "test_shop.py").write_text(BENCHMARK)
        (self.place / "program.py").write_text(PROGRAM)
        (self.place / "ci-flame.yml").write_text(POLICY)
        (self.place / ".gitignore").write_text("base\n.ci-flame\n__pycache__\n")
        run_git(self.place, "init", "-q", "-b", "main")
        self.commit()

    def machine(self, factor):
        self.state.write_text(str(factor))

    def code(self, loops):
        text = SLOWER.format(state=str(self.state), loops=loops)
        (self.place / "shop.py").write_text(text)

    def commit(self):
        run_git(self.place, "add", "-A")
        run_git(self.place, "commit", "-q", "-m", "a change")

    def pytest(self, *words):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--flame",
             "--flame-processes=3", "--flame-seconds=0.3", *words],
            cwd=self.place, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def command(self, *words):
        return call(
            *words, "--name", "program", "--repeat", "8", "--", sys.executable, "program.py"
        )


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path)
    monkeypatch.chdir(made.place)
    return made


def stored(project, how):
    if how == "pytest":
        recorded = project.pytest("--flame-out=base")
    else:
        recorded = project.command("record", "-o", "base")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr


def compared(project, how):
    if how == "pytest":
        return project.pytest("--flame-baseline=folder:base")
    return project.command("check", "--baseline", "folder:base")


@pytest.mark.root
@pytest.mark.parametrize("how", ["pytest", "command"])
def test_a_machine_that_changed_since_the_baseline_fails_nobody(project, how):
    stored(project, how)
    project.machine(1.4)
    made = compared(project, how)

    assert made.returncode == 0, made.stdout + made.stderr
    assert "a first recording failed, the second did not confirm it" in made.stdout
    assert "was recorded beside it" in made.stdout
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


@pytest.mark.root
def test_code_that_grew_since_the_baseline_fails(project):
    """And what was said of the store before is still said."""
    stored(project, "command")
    assert call("baseline", "add", "base", "--store", ".ci-flame/store").returncode == 0
    (build,) = (project.place / ".ci-flame" / "store" / "builds").glob("*/*")
    broken = build.with_name("20200101T000000Z-0123abcdef-00000000")
    broken.mkdir()
    (broken / "build.json").write_text("{")
    project.code(60_000)
    project.commit()
    made = project.command("check", "--baseline", "store:.ci-flame/store")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "shop:tokenize" in made.stdout
    assert "was recorded beside it" in made.stdout
    assert broken.name in made.stdout
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


@pytest.mark.root
@pytest.mark.parametrize("how", ["pytest", "command"])
def test_a_change_that_takes_back_what_the_base_commit_saved_fails(project, how):
    """Four older builds cost as much as it does now; but the gate is against the base commit."""
    project.code(60_000)
    project.commit()
    stored(project, how)
    slow = folder.load(project.place / "base")
    kept = project.place / ".ci-flame" / "store"
    for number in range(1, 5):
        older = replace(slow, commit=f"{number}" * 40, time=f"2020-01-0{number}T10:00:00Z")
        store.add(older, kept, branch="main")
    project.code(30_000)
    project.commit()
    stored(project, how)
    store.add(folder.load(project.place / "base"), kept, branch="main")
    project.code(60_000)
    project.commit()
    if how == "pytest":
        made = project.pytest("--flame-baseline=store:.ci-flame/store")
    else:
        made = project.command("check", "--baseline", "store:.ci-flame/store")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "shop:tokenize grew by" in made.stdout
    assert "what was recorded beside this build is what counts" in made.stdout
    assert "failed in two recordings" in made.stdout
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


def pull_request(project, monkeypatch, how, *, landed, mine):
    """Store the first commit; another lands on top; then ours, in a job that knows its base."""
    stored(project, how)
    project.code(landed)
    (project.place / "LANDED").write_text("a word\n")
    project.commit()
    monkeypatch.setenv("CI_FLAME_BASE_COMMIT", head(project))
    project.code(mine)
    (project.place / "README").write_text("a word\n")
    project.commit()


def head(project):
    return run_git(project.place, "rev-parse", "HEAD")


@pytest.mark.root
@pytest.mark.parametrize("how", ["pytest", "command"])
def test_what_landed_since_an_ancestor_fails_nobody_else(project, monkeypatch, how):
    """The base commit has no stored run, and is as slow as we are: the ancestor is not asked."""
    first = head(project)
    pull_request(project, monkeypatch, how, landed=90_000, mine=90_000)
    base = run_git(project.place, "rev-parse", "HEAD^")
    made = compared(project, how)
    verdict = json.loads((project.place / ".ci-flame" / "report" / "verdict.json").read_text())

    assert made.returncode == 0, made.stdout + made.stderr
    assert "a first recording failed, the second did not confirm it" in made.stdout
    assert f"the base commit {base[:10]} was recorded beside it, and is what counts" in made.stdout
    assert f"what is stored is of {first[:10]}, 1 commit before the base commit" in made.stdout
    assert verdict["before"]["commit"] == base
    noted = [note for each in verdict["benchmarks"] for note in each["notes"] if "commit" in note]
    assert [(note["slug"], note["commit"]) for note in noted] == [("not-confirmed", base)]
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


@pytest.mark.root
def test_what_grew_since_the_base_fails_with_its_own_diff(project, monkeypatch):
    how = "command"
    pull_request(project, monkeypatch, how, landed=30_000, mine=60_000)
    base = run_git(project.place, "rev-parse", "HEAD^")
    made = compared(project, how)

    assert made.returncode == 1, made.stdout + made.stderr
    assert "failed in two recordings" in made.stdout
    assert "Changed in this diff: shop.py:" in made.stdout
    assert f"this diff: everything since {base[:10]} (the base commit)" in made.stdout
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


@pytest.mark.root
def test_a_base_that_is_not_recorded_accuses_nobody(project, monkeypatch):
    how = "pytest"
    never = POLICY + "baseline: {rerun: never}\n"
    (project.place / "ci-flame.yml").write_text(never)
    project.commit()
    pull_request(project, monkeypatch, how, landed=60_000, mine=60_000)
    made = compared(project, how)

    assert made.returncode == 1, made.stdout + made.stderr
    assert "Changed in this diff" not in made.stdout
    assert "Not touched by this diff." in made.stdout
    assert "what came with the commits between too" in made.stdout


@pytest.mark.root
def test_a_base_that_does_not_run_accuses_nobody(project, monkeypatch):
    stored(project, "pytest")
    (project.place / "shop.py").write_text("def broken(:\n")
    project.commit()
    monkeypatch.setenv("CI_FLAME_BASE_COMMIT", head(project))
    project.code(60_000)
    project.commit()
    first, base = (run_git(project.place, "rev-parse", f"HEAD~{n}")[:10] for n in (2, 1))
    made = compared(project, "pytest")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "could not be recorded beside it: the benchmark does not run there" in made.stdout
    assert f"commits between {first} and the base {base} may have done it" in made.stdout


@pytest.mark.parametrize(
    ("stored", "base", "after", "same"),
    [
        (1.0, 3.0, 3.0, True),  # it landed in between
        (1.0, 3.0, 9.0, True),
        (3.0, 1.0, 3.0, False),  # neither neighbour is so quick
        (1.0, 3.0, 1.0, False),
        (1.0, 1.0, 3.0, True),
    ],
)
def test_a_commit_between_two_recordings_may_differ_from_either(stored, base, after, same):
    sides = (
        synthetic_measurement(grown(SHOP, TOKENIZE, factor), seed=number)
        for number, factor in enumerate((stored, base, after))
    )
    told = not_the_build(*sides)

    assert (told == "") is same
    assert same or told.startswith(f"it is not the build that is stored and measured: {TOKENIZE}")


@pytest.mark.root
def test_a_setup_that_fails_leaves_the_failure_as_it_was_found(project):
    setup = 'baseline: {setup: {before: "echo no compiler; exit 3", after: "touch ran"}}\n'
    (project.place / "ci-flame.yml").write_text(POLICY + setup)
    project.commit()
    stored(project, "pytest")
    project.code(60_000)
    made = project.pytest("--flame-baseline=folder:base")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "beside it: setup of the base commit ended with exit code 3: echo no" in made.stdout
    assert not (project.place / "ran").exists(), "this tree is as it was recorded first"


@pytest.mark.root
def test_a_commit_that_is_another_build_here_excuses_nothing(project):
    """As where an extension is not built in the checkout: it must not hide what grew."""
    stored(project, "pytest")
    project.machine(3)
    made = compared(project, "pytest")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "could not be recorded beside it: it is not the build that is stored" in made.stdout


@pytest.mark.root
def test_a_commit_that_does_not_run_here_is_said(project):
    (project.place / "shop.py").write_text("def broken(:\n")
    project.commit()
    project.code(30_000)  # what is measured is another tree, so its commit may be clean and broken
    stored(project, "pytest")
    run = project.place / "base" / "run.json"
    run.write_text(run.read_text().replace('"dirty": true', '"dirty": false'))
    project.code(60_000)
    made = project.pytest("--flame-baseline=folder:base")

    assert made.returncode == 1, made.stdout + made.stderr
    assert "could not be recorded beside it: the benchmark does not run there" in made.stdout


@pytest.mark.parametrize(
    ("run", "policy", "beside"),
    [
        ({}, "", True),
        ({"dirty": True}, "", False),
        ({"commit": ""}, "", False),
        ({}, "baseline: {rerun: never}\n", False),
        ({}, "baseline: {rerun: ci}\n", True),
        ({}, "record: {confirm: false}\n", False),
    ],
)
def test_which_commits_are_recorded_beside(tmp_path, run, policy, beside):
    (tmp_path / "ci-flame.yml").write_text(f"version: 1\n{policy}")
    config = build(policy_file=None, start=tmp_path, flags={})
    spec = BaselineSpec(BaselineKind.FOLDER, "base")
    made = replace(synthetic_run(commit="0123abc"), **run)
    found = to_confirm(config, Chosen(spec, "baseline base", made))

    assert (found is not None) is beside
    assert found is None or found.spec == BaselineSpec(BaselineKind.RERUN, "0123abc")


def test_nothing_stored_is_not_recorded_beside(tmp_path):
    spec = BaselineSpec(BaselineKind.NONE, "")
    assert (
        to_confirm(build(policy_file=None, start=tmp_path, flags={}), Chosen(spec, "no baseline"))
        is None
    )
