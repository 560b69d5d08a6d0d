"""The before side that a build gets: what was asked for, or the base commit recorded instead."""

import subprocess
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENT, SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder, store
from ci_flame.config import BaselineKind, BaselineSpec, Config, parse_baseline
from ci_flame.config.baselines import BaseSide, Rerun
from ci_flame.errors import BaselineError
from ci_flame.pipeline.chosen import choose

CI = {"CI": "true"}
OTHER = replace(ENVIRONMENT, cpu_model="Example CPU 2")


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    """Three commits, `old`, `base` and the present one."""
    run_git(tmp_path, "init", "-q", "-b", "main")
    for name in ("old", "base", "now"):
        (tmp_path / "code.py").write_text(f"{name}\n")
        run_git(tmp_path, "add", "code.py")
        run_git(tmp_path, "commit", "-q", "-m", name)
        run_git(tmp_path, "tag", name)
    return tmp_path


def recorded(project, commit="old", **changes):
    """A stored run of a commit of the project."""
    found = run_git(project, "rev-parse", commit) if commit else ""
    return replace(synthetic_run(synthetic_measurement(SHOP)), commit=found, **changes)


def config(baseline="auto", rerun=Rerun.CI):
    return Config(baseline=parse_baseline(baseline), base=BaseSide(rerun=rerun))


def keep(project, run, kind):
    """Store the run in one of the places that a baseline may come from; return its spec."""
    if kind == "store":
        store.add(run, project / "builds")
        return "store:builds"
    place = ".ci-flame/baseline" if kind in {"auto", "git"} else "base"
    folder.save(run, project / place)
    if kind == "git":
        run_git(project, "add", "--force", place)
        run_git(project, "commit", "-q", "-m", "baseline")
        return "git:HEAD"
    return "auto" if kind == "auto" else "folder:base"


def texts(chosen):
    return [each.text for each in chosen.notes]


@pytest.mark.parametrize("kind", ["auto", "folder", "git", "store"])
@pytest.mark.parametrize("given", [{}, CI])
def test_a_baseline_of_the_same_machine_class_is_used(project, kind, given):
    spec = keep(project, recorded(project), kind)
    chosen = choose(config(spec), project, lambda: ENVIRONMENT, given)

    assert chosen.run is not None
    assert chosen.run.commit == run_git(project, "rev-parse", "old")
    assert chosen.spec == parse_baseline(spec)
    assert not [each for each in chosen.notes if each.slug == "rerun"]


@pytest.mark.parametrize("kind", ["auto", "folder", "git", "store"])
def test_in_ci_another_machine_s_baseline_is_recorded_again_here(project, kind):
    spec = keep(project, recorded(project), kind)
    chosen = choose(config(spec), project, lambda: OTHER, CI)
    old = run_git(project, "rev-parse", "old")

    assert chosen.run is None
    assert chosen.spec == BaselineSpec(BaselineKind.RERUN, old)
    assert chosen.told.endswith("is recorded beside: the default in CI")
    assert "\n" not in chosen.told
    assert "is not of this machine class (" in chosen.told
    assert "Example CPU 1" in chosen.told
    assert f"{old[:10]}, its commit, is recorded beside" in chosen.told
    assert chosen.told in texts(chosen)


@pytest.mark.parametrize(
    ("rerun", "given", "recorded_here"),
    [
        (Rerun.CI, {}, False),
        (Rerun.CI, CI, True),
        (Rerun.CI, {"CI": "false"}, False),
        (Rerun.ALWAYS, {}, True),
        (Rerun.ALWAYS, CI, True),
        (Rerun.NEVER, {}, False),
        (Rerun.NEVER, CI, False),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_when_the_base_commit_is_recorded_unasked(project, rerun, given, recorded_here, stored):
    if stored:
        keep(project, recorded(project), "auto")
    chosen = choose(config(rerun=rerun), project, lambda: OTHER, given)

    assert (chosen.spec.kind is BaselineKind.RERUN) is recorded_here
    assert (chosen.run is None) is (recorded_here or not stored)
    if recorded_here:
        why = "the default in CI" if rerun is Rerun.CI else "baseline: {rerun: always}"
        assert chosen.told.endswith(f"is recorded beside: {why}")


def test_nothing_stored_is_told_with_the_commit_that_is_recorded(project):
    chosen = choose(config(), project, lambda: ENVIRONMENT, CI)
    base = run_git(project, "rev-parse", "base")

    assert chosen.spec == BaselineSpec(BaselineKind.RERUN, base)
    assert chosen.told == (
        f"no baseline: .ci-flame/baseline does not exist; {base[:10]}, the first parent of HEAD"
        " (no pull request), is recorded beside: the default in CI"
    )


def test_without_a_commit_of_its_own_a_baseline_gives_way_to_the_job_s_base(project):
    keep(project, recorded(project, ""), "auto")
    chosen = choose(config(), project, lambda: OTHER, CI)

    assert chosen.spec.value == run_git(project, "rev-parse", "base")


@pytest.mark.parametrize(("named", "commit"), [("base", "base"), ("", "old"), ("0" * 40, "old")])
def test_the_base_that_a_step_of_the_job_names_comes_before_the_baseline_s_commit(
    project, named, commit
):
    """The stored run may be of the nearest ancestor that there was; a name of nothing is none."""
    keep(project, recorded(project, "old"), "auto")
    told = run_git(project, "rev-parse", named) if named == "base" else named
    chosen = choose(config(), project, lambda: OTHER, {**CI, "CI_FLAME_BASE_COMMIT": told})

    assert chosen.spec.value == run_git(project, "rev-parse", commit)
    assert ("the base commit of this job" in chosen.told) is (named == "base")


def test_a_baseline_of_a_commit_that_is_nowhere_gives_way_to_the_job_s_base(project):
    keep(project, replace(recorded(project), commit="0" * 40), "auto")
    chosen = choose(config(), project, lambda: OTHER, CI)

    assert chosen.spec.value == run_git(project, "rev-parse", "base")


def test_where_it_cannot_be_recorded_the_reason_is_said_and_nothing_else_changes(tmp_path):
    chosen = choose(config(), tmp_path, lambda: ENVIRONMENT, CI)

    assert chosen.spec.kind is BaselineKind.AUTO
    assert chosen.run is None
    assert chosen.told == (
        "no baseline: .ci-flame/baseline does not exist; the base commit could not be recorded"
        f" instead: {tmp_path} is not in a git work tree (hint: git init, or another --baseline)"
    )
    # The run of another machine stays what is compared with: that is INCONCLUSIVE, and says why.
    folder.save(synthetic_run(synthetic_measurement(SHOP)), tmp_path / ".ci-flame" / "baseline")
    chosen = choose(config(), tmp_path, lambda: OTHER, CI)

    assert chosen.run is not None
    assert chosen.told.startswith("baseline .ci-flame/baseline")
    assert "the base commit could not be recorded instead" in texts(chosen)[0]


@pytest.mark.parametrize("baseline", ["none", "rerun:old", "tree:elsewhere"])
def test_what_was_asked_for_is_not_replaced(project, baseline):
    chosen = choose(config(baseline), project, lambda: OTHER, CI)

    assert chosen.spec == parse_baseline(baseline)
    assert chosen.run is None
    assert chosen.notes == ()


@pytest.mark.parametrize("baseline", ["folder:gone", "git:HEAD", "git:nosuch"])
def test_what_is_named_and_not_there_is_an_error_in_ci_too(project, baseline):
    with pytest.raises(BaselineError):
        choose(config(baseline), project, lambda: ENVIRONMENT, CI)


def test_whoever_records_elsewhere_takes_what_is_stored_as_it_is(project):
    keep(project, recorded(project), "auto")

    assert choose(config(), project, None, CI).run is not None
    keep(project, recorded(project), "store")
    chosen = choose(config("store:builds"), project, None, CI)
    assert (chosen.spec.kind, chosen.run, chosen.told) == (BaselineKind.STORE, None, "")
