"""A change that brings its own limits is told so, in every build, whoever judges it."""

import subprocess
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENT, SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder
from ci_flame.baseline.ci_base import NAMED
from ci_flame.config import build
from ci_flame.pipeline.chosen import choose
from ci_flame.pipeline.policy_change import SLUG

STRICT = 'version: 1\nrules:\n  - {frames: "*", max_growth: 10%}\n'
LOOSE = 'version: 1\nrules:\n  - {frames: "*", max_growth: 1000%}\n'


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(place, policy, name="ci-flame.yml"):
    file = place / name
    file.parent.mkdir(exist_ok=True)
    if policy is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(policy, encoding="utf-8")
    (place / "code.py").write_text(f"{policy!r}\n", encoding="utf-8")
    run_git(place, "add", "-A")
    run_git(place, "commit", "-q", "--allow-empty", "-m", "policy")
    return run_git(place, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path):
    run_git(tmp_path, "init", "-q", "-b", "main")
    return tmp_path


def told(project, baseline, given=None, *, start=None, policy=None):
    place = start or project
    config = build(policy_file=policy, start=place, flags={"baseline": baseline})
    chosen = choose(config, place, lambda: ENVIRONMENT, given or {})
    return [each.text for each in chosen.notes if each.slug == SLUG]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (STRICT, STRICT, ""),
        (STRICT, STRICT + "# looser soon\n", ""),
        (STRICT, LOOSE, "ci-flame.yml differs from that of {base} (rules)"),
        (STRICT, STRICT + "record: {processes: 2}\ninconclusive: fail\n",
         "(record, inconclusive)"),
        (STRICT, None, "ci-flame.yml is gone in this change: the defaults judge it"),
        (None, LOOSE, "ci-flame.yml is new in this change: {base} has no such policy"),
        (None, None, ""),
        ("rules: [", STRICT, "(it cannot be read there)"),
        ("- 1\n", STRICT, "(it cannot be read there)"),
        ("a: &a [1]\nb: *a\n", STRICT, "(it cannot be read there)"),
    ],
)  # fmt: skip
def test_what_differs_from_the_base_commit_s_policy_is_told(project, before, after, expected):
    base = commit(project, before)
    commit(project, after)

    found = told(project, f"rerun:{base}")

    if not expected:
        assert not found
    else:
        assert expected.format(base=base[:10]) in found[0]


def test_it_is_told_of_the_job_s_base_not_of_an_older_stored_run(project):
    old = commit(project, LOOSE)
    base = commit(project, STRICT)
    commit(project, STRICT + "# the same\n")
    run = replace(synthetic_run(synthetic_measurement(SHOP)), commit=old)
    folder.save(run, project / "stored")

    assert not told(project, "folder:stored", {NAMED: base})
    assert "(rules)" in told(project, "folder:stored")[0]


@pytest.mark.parametrize(("given", "says"), [({"CI": "true"}, True), ({}, False)])
def test_a_change_that_asks_for_no_baseline_is_told_of_in_ci(project, given, says):
    commit(project, STRICT)
    commit(project, STRICT + "baseline: {from: none}\n")

    found = told(project, "none", given)

    assert bool(found) is says
    if says:
        assert "(baseline)" in found[0]


def test_a_policy_of_a_folder_is_found_where_it_was(project):
    base = commit(project, STRICT, "shop/ci-flame.yml")
    commit(project, None, "shop/ci-flame.yml")
    (project / "shop").mkdir(exist_ok=True)

    (text,) = told(project, f"rerun:{base}", start=project / "shop")

    assert "shop/ci-flame.yml is gone in this change" in text


def test_a_named_policy_is_compared_with_its_own_past(project):
    base = commit(project, STRICT, "ci/strict.yml")
    commit(project, LOOSE, "ci/strict.yml")

    (text,) = told(project, f"rerun:{base}", policy=project / "ci/strict.yml")

    assert "ci/strict.yml differs from that of" in text


def test_without_git_or_its_commit_nothing_is_told(tmp_path, project):
    commit(project, STRICT)
    run = replace(synthetic_run(synthetic_measurement(SHOP)), commit="1" * 40)
    folder.save(run, project / "stored")

    assert not told(project, "folder:stored")
