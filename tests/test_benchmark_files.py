"""A benchmark whose own file is not the one that what is stored ran, as git tells it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from synthetic import SHOP, synthetic_measurement, synthetic_run
from test_baseline_git import run_git

from ci_flame.baseline import folder, git
from ci_flame.config import build
from ci_flame.pipeline import benchmark_files, compare_stored

NAME = "test_shop.py::test_work"
TEST = "def test_work(flame): flame(sum, [1, {}])\n"


@pytest.fixture
def project(tmp_path):
    """Two commits, and a run of each; only `shop.py` changed between them."""
    place = tmp_path / "project"
    place.mkdir()
    run_git(place, "init", "-q", "-b", "main")
    (place / ".gitignore").write_text("base\nnow\n.ci-flame\n__pycache__\n")
    for number, name in enumerate(("base", "now")):
        (place / "shop.py").write_text(f"{name}\n")
        (place / "test_shop.py").write_text(TEST.format(0))
        commit(place)
        recorded(place, name, number)
    return place


def commit(place):
    run_git(place, "add", "-A")
    run_git(place, "commit", "-q", "-m", "a change")


def recorded(place, name, seed):
    made = synthetic_measurement(SHOP, benchmark=NAME, seed=seed, rounds=5)
    run = replace(synthetic_run(made), commit=run_git(place, "rev-parse", "HEAD"))
    folder.save(run, place / name)


def edit(place):
    (place / "test_shop.py").write_text(TEST.format(1))
    commit(place)
    recorded(place, "now", 1)


def told(place):
    verdict = json.loads((place / ".ci-flame" / "report" / "verdict.json").read_text())
    (benchmark,) = verdict["benchmarks"]
    notes = benchmark["notes"]
    return [note["text"] for note in notes if note["slug"] == "benchmark-changed"]


def words(place, commit="HEAD^"):
    sha = run_git(place, "rev-parse", commit)
    return [f"test_shop.py differs from that of {sha[:10]}: what is stored ran its own"]


def replayed(place, **environment):
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--flame",
         "--flame-replay", "now", "--flame-baseline", "base"],
        cwd=place, capture_output=True, text=True, check=False, timeout=120,
        env=git.environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return told(place)


def test_pytest_says_that_a_benchmark_changed_since_what_is_stored(project):
    assert replayed(project) == []
    edit(project)

    assert replayed(project) == words(project, "HEAD^^")


def test_where_the_stored_commit_is_not_here_the_base_commit_tells(project):
    edit(project)
    run = folder.load(project / "base")
    folder.save(replace(run, commit="f" * 40), project / "base")

    assert replayed(project) == []
    base = run_git(project, "rev-parse", "HEAD^")
    assert replayed(project, CI_FLAME_BASE_COMMIT=base) == words(project)


def test_two_stored_runs_say_it_too(project, monkeypatch):
    monkeypatch.chdir(project)
    edit(project)
    before, after = (folder.load(project / name) for name in ("base", "now"))
    compare_stored(before, after, build(policy_file=None, start=project, flags={}), project)

    assert told(project) == words(project, before.commit)


def test_nothing_is_said_where_git_cannot_tell(project, tmp_path):
    edit(project)
    before, after = (folder.load(project / name) for name in ("base", "now"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "test_shop.py").write_text("")
    file = project / "test_shop.py"

    assert benchmark_files.changed(NAME, file, ["f" * 40, ""], project) == ()
    assert benchmark_files.changed(NAME, elsewhere / "test_shop.py", ["HEAD"], elsewhere) == ()
    assert benchmark_files.changed_since(before, replace(after, commit="f" * 40), "", project) == ()
    (project / "test_new.py").write_text("new")
    assert (
        benchmark_files.changed("test_new.py::t", project / "test_new.py", ["HEAD"], project) == ()
    )


def test_first_parents_between_two_commits(project):
    first, second = run_git(project, "rev-list", "--reverse", "HEAD").splitlines()
    edit(project)

    assert git.distance(first, "HEAD", project) == 2
    assert git.distance(second, first, project) == 0
    assert git.distance(first, first, project) == 0
    assert git.distance("f" * 40, first, project) == 0
