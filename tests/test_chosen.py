"""The before side that a build gets: what was asked for, or the base commit recorded instead."""

import subprocess
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENT, SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder, store
from ci_flame.config import BaselineKind, BaselineSpec, Config, parse_baseline
from ci_flame.config.baselines import BaseSide, Rerun
from ci_flame.errors import BaselineError, MissingBaselineError
from ci_flame.pipeline.chosen import choose, to_confirm
from ci_flame.policy import Policy

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


@pytest.mark.parametrize("in_ci", [True, False])
def test_a_required_store_that_is_empty_gives_way_to_the_base_commit_in_ci(project, in_ci):
    asked = replace(config("store:none"), policy=Policy(baseline_required=True))

    if in_ci:
        assert choose(asked, project, lambda: ENVIRONMENT, CI).spec.kind is BaselineKind.RERUN
    else:
        with pytest.raises(MissingBaselineError, match="the policy requires one"):
            choose(asked, project, lambda: ENVIRONMENT, {})


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
        f" instead: {tmp_path} is not in a git work tree (hint: git init, or go into a work tree)"
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


# -- the baseline is of a commit before the base commit ---------------------------------


def ancestor_notes(chosen):
    return [each.text for each in chosen.notes if each.slug == "ancestor"]


@pytest.mark.parametrize("kind", ["folder", "store"])
@pytest.mark.parametrize("replay", [False, True])
def test_an_ancestor_stands_in_for_the_base_commit(project, kind, replay):
    spec = keep(project, recorded(project), kind)
    old, base = (run_git(project, "rev-parse", name) for name in ("old", "base"))
    settings = config(spec)
    if replay:
        settings = replace(settings, record=replace(settings.record, collector="replay"))
    given = CI | {"CI_FLAME_BASE_COMMIT": base}
    chosen = choose(settings, project, lambda: ENVIRONMENT, given)
    beside = to_confirm(settings, chosen)

    assert chosen.run is not None
    assert chosen.run.commit == old
    assert (chosen.commit, chosen.called) == (base, "the base commit")
    assert beside is not None
    assert beside.spec == BaselineSpec(BaselineKind.RERUN, base)
    (told,) = ancestor_notes(chosen)
    assert told.startswith(
        f"what is stored is of {old[:10]}, 1 commit before the base commit {base[:10]}: "
    )


@pytest.mark.parametrize(
    ("kind", "stored", "given", "seen_from"),
    [
        ("folder", "base", CI | {"CI_FLAME_BASE_COMMIT": "base"}, "base"),
        # Who names a release wants to be compared with it.
        ("folder", "old", CI, "old"),
        ("git", "old", CI, "old"),
        # The nearest build stands in for the first parent, where that has none.
        ("store", "old", CI, "base"),
        ("store", "base", CI, "base"),
        ("store", "old", {}, "old"),
        # A build of the branch itself, nearer than the merge base.
        ("store", "base", CI | {"GITHUB_BASE_REF": "old"}, "base"),
    ],
)
def test_which_commit_a_change_is_told_from(project, kind, stored, given, seen_from):
    run_git(project, "branch", "-f", "old", "old")
    if "CI_FLAME_BASE_COMMIT" in given:
        given = given | {"CI_FLAME_BASE_COMMIT": run_git(project, "rev-parse", "base")}
    spec = keep(project, recorded(project, stored), kind)
    if kind == "git":
        run_git(project, "tag", "-f", "now")
    chosen = choose(config(spec), project, lambda: ENVIRONMENT, given)

    assert chosen.commit == run_git(project, "rev-parse", f"refs/tags/{seen_from}")
    assert bool(ancestor_notes(chosen)) is (seen_from != stored)


@pytest.mark.parametrize(
    ("distance", "words"),
    [("7", ", 7 commits before"), ("", ", commits before"), ("x" * 99, ", commits before")],
)
def test_the_distance_in_a_shallow_clone_is_what_the_job_says(
    project, tmp_path_factory, distance, words
):
    clone = tmp_path_factory.mktemp("shallow") / "clone"
    run_git(project, "clone", "-q", "--depth=2", f"file://{project}", str(clone))
    folder.save(recorded(project), clone / "base")
    base = run_git(project, "rev-parse", "base")
    given = {"CI_FLAME_BASE_COMMIT": base, "CI_FLAME_BASE_DISTANCE": distance}
    (told,) = ancestor_notes(choose(config("folder:base"), clone, lambda: ENVIRONMENT, given))

    assert words in told


def test_a_base_commit_that_cannot_be_had_is_still_the_base(project):
    spec = keep(project, recorded(project), "folder")
    chosen = choose(config(spec), project, lambda: ENVIRONMENT, {"CI_FLAME_BASE_COMMIT": "f" * 40})

    assert chosen.commit == "f" * 40
    assert ", commits before the base commit ffffffffff: " in ancestor_notes(chosen)[0]


SETTINGS = "was recorded with other settings (frequency: "

# -- what is not comparable ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "edit", "words"),
    [
        ({"cpu_model": "Example CPU 2"}, False, "is not of this machine class (CPU model: "),
        ({"frequency_hz": 499}, False, f"{SETTINGS}1999 Hz, 499 Hz)"),
        (
            {"frequency_hz": 499},
            True,
            f"{SETTINGS}1999 Hz, 499 Hz: ci-flame.yml has changed since)",
        ),
        ({"cpu_model": "Example CPU 2", "frequency_hz": 499}, False, f") and {SETTINGS}"),
    ],
)
def test_a_setting_is_no_machine_class(project, environment, edit, words):
    (project / "ci-flame.yml").write_text("version: 1\n")
    run_git(project, "add", "ci-flame.yml")
    run_git(project, "commit", "-q", "-m", "policy")
    spec = keep(project, recorded(project, "HEAD"), "folder")
    if edit:
        (project / "ci-flame.yml").write_text("version: 1\nrecord: {frequency_hz: 499}\n")
    settings = replace(config(spec), policy_file=project / "ci-flame.yml")
    present = replace(ENVIRONMENT, **environment)
    chosen = choose(settings, project, lambda: present, CI)

    assert words in chosen.told
    assert ("machine class" in chosen.told) is ("cpu_model" in environment)
    (note,) = [each for each in chosen.notes if each.slug == "rerun"]
    assert note.commit == run_git(project, "rev-parse", "HEAD")


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_where_a_step_of_ours_put_a_run_is_not_told(project, tmp_path, kind):
    place = keep(project, recorded(project), kind).replace(":", f":{project}/")
    given = CI | {"CI_FLAME_BASE_COMMIT": run_git(project, "rev-parse", "base")}
    for present in (ENVIRONMENT, OTHER):
        chosen = choose(config(place), project, lambda each=present: each, given)

        assert str(tmp_path) not in "\n".join((chosen.told, *texts(chosen)))
        assert run_git(project, "rev-parse", "old")[:10] in chosen.told
