"""The commit that a CI job is compared with: real repositories, real shallow clones."""

import subprocess

import pytest

from ci_flame.baseline import ci_base, git
from ci_flame.baseline.ci_base import TARGETS
from ci_flame.errors import BaselineError


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def add_commit(place, text):
    (place / "code.py").write_text(f"{text}\n")
    run_git(place, "add", "-A")
    run_git(place, "commit", "-q", "-m", text)
    return run_git(place, "rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path):
    """main: a b m1 … m3; topic leaves it at b with t1 … t3."""
    place = tmp_path / "origin"
    place.mkdir()
    run_git(place, "init", "-q", "-b", "main")
    hashes = {name: add_commit(place, name) for name in ("a", "b")}
    run_git(place, "checkout", "-q", "-b", "topic")
    hashes |= {name: add_commit(place, name) for name in ("t1", "t2", "t3")}
    run_git(place, "checkout", "-q", "main")
    hashes |= {name: add_commit(place, name) for name in ("m1", "m2", "m3")}
    return place, hashes


def clone(origin, branch, *words):
    place = origin.parent / "clone"
    run_git(origin.parent, "clone", "-q", *words, "-b", branch, f"file://{origin}", str(place))
    return place


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"CI": "true"}, True),
        ({"CI": "1"}, True),
        ({"CI": "woodpecker"}, True),
        *[({"CI": no}, False) for no in ("", "0", "false", "False ", "no", "off")],
        # Who says no is believed, whatever runs the job.
        ({"CI": "false", "GITHUB_ACTIONS": "true"}, False),
        *[({name: "true"}, True) for name in ci_base.SIGNS],
        ({"TF_BUILD": "True"}, True),
        ({"JENKINS_URL": "http://ci.example.org/"}, True),
        ({"GITLAB_CI": ""}, False),
        ({"HOME": "/home/me"}, False),
    ],
)
def test_what_a_ci_job_is(given, expected):
    assert ci_base.in_ci(given) is expected


@pytest.mark.parametrize("name", TARGETS)
def test_every_ci_system_names_the_target_branch(origin, name):
    place, hashes = origin
    mine = clone(place, "topic")
    found = ci_base.find({name: "main"}, mine)

    assert found == ci_base.Base(hashes["b"], f"the merge base with main ({name})")


def test_the_branch_that_a_user_tells_comes_first(origin):
    place, hashes = origin
    mine = clone(place, "topic")
    given = {"CHANGE_TARGET": "nosuch", ci_base.TOLD: "main"}

    assert ci_base.find(given, mine) == ci_base.Base(
        hashes["b"], f"the merge base with main ({ci_base.TOLD})"
    )


@pytest.mark.parametrize("words", [(), ("--depth=1",)])
def test_a_build_of_the_told_branch_itself_is_compared_with_its_first_parent(origin, words):
    place, hashes = origin
    mine = clone(place, "main", *words)
    found = ci_base.find({ci_base.TOLD: "main"}, mine)

    assert found == ci_base.Base(hashes["m2"], "the first parent of HEAD (no pull request)")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("refs/heads/main", "the merge base with main (CODEBUILD_WEBHOOK_BASE_REF)"),
        (" main ", "the merge base with main (CODEBUILD_WEBHOOK_BASE_REF)"),
        # Empty on GitHub's pushes: any other build.
        ("", "the first parent of HEAD (no pull request)"),
        ("  ", "the first parent of HEAD (no pull request)"),
    ],
)
def test_words_for_the_branch(origin, value, told):
    place, hashes = origin
    mine = clone(place, "topic")
    found = ci_base.find({"CODEBUILD_WEBHOOK_BASE_REF": value}, mine)

    assert found.told == told
    assert found.commit == hashes["b" if "merge" in told else "t2"]


@pytest.mark.parametrize("value", ["--upload-pack=touch hacked", "-x", "a..b", "a\nb", "a\x1bb"])
def test_branches_that_are_none(origin, value):
    place, _ = origin
    mine = clone(place, "topic")

    with pytest.raises(BaselineError, match="is not the name of a branch") as raised:
        ci_base.find({"GITHUB_BASE_REF": value}, mine)

    assert raised.value.message.startswith("GITHUB_BASE_REF=")
    assert raised.value.message.isprintable()
    assert raised.value.hint == "--baseline rerun:REV"


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_shallow_clone_fetches_until_it_holds_the_merge_base(origin, depth):
    place, hashes = origin
    mine = clone(place, "topic", f"--depth={depth}")
    state = run_git(mine, "status", "--porcelain=v2", "--branch")
    branches = run_git(mine, "for-each-ref", "refs/heads")
    found = ci_base.find({"GITHUB_BASE_REF": "main"}, mine)

    assert found.commit == hashes["b"]
    assert git.resolve(found.commit, mine) == found.commit  # it can be checked out
    assert run_git(mine, "status", "--porcelain=v2", "--branch") == state
    assert run_git(mine, "for-each-ref", "refs/heads") == branches


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_shallow_clone_keeps_the_history_that_it_has(origin, depth):
    """The branch begins at the tip of main, whose history is its own."""
    place, hashes = origin
    run_git(place, "checkout", "-q", "-b", "fresh")
    for name in ("f1", "f2"):
        add_commit(place, name)
    mine = clone(place, "fresh", f"--depth={depth}", "--single-branch")
    before = run_git(mine, "rev-list", "HEAD").split()

    found = ci_base.find({"GITHUB_BASE_REF": "main"}, mine)

    assert found.commit == hashes["m3"]
    assert len(before) == depth
    assert set(before) <= set(run_git(mine, "rev-list", "HEAD").split())


def test_a_merge_base_further_away_than_the_first_steps(origin):
    place, hashes = origin
    run_git(place, "checkout", "-q", "topic")
    for number in range(70):
        run_git(place, "commit", "-q", "--allow-empty", "-m", f"n{number}")
    run_git(place, "checkout", "-q", "main")
    mine = clone(place, "topic", "--depth=1")

    assert ci_base.find({"GITHUB_BASE_REF": "main"}, mine).commit == hashes["b"]


@pytest.mark.parametrize("words", [(), ("--depth=1",)])
def test_the_merge_that_ci_checks_out_has_the_base_as_its_parent(origin, words):
    place, hashes = origin
    run_git(place, "checkout", "-q", "-b", "pull", "main")
    run_git(place, "merge", "-q", "-s", "ours", "-m", "merge", "topic")
    run_git(place, "checkout", "-q", "main")
    mine = clone(place, "pull", *words)

    assert ci_base.find({"GITHUB_BASE_REF": "main"}, mine).commit == hashes["m3"]
    assert ci_base.find({}, mine) == ci_base.Base(
        hashes["m3"], "the first parent of HEAD (no pull request)"
    )


def test_the_merge_of_a_branch_that_the_remote_no_longer_has(origin):
    place, hashes = origin
    run_git(place, "checkout", "-q", "-b", "pull", "main")
    run_git(place, "merge", "-q", "-s", "ours", "-m", "merge", "topic")
    mine = clone(place, "pull", "--depth=2")
    found = ci_base.find({"GITHUB_BASE_REF": "gone"}, mine)

    assert found == ci_base.Base(hashes["m3"], "the first parent of the merge into gone")


def test_a_target_branch_that_is_nowhere(origin):
    place, _ = origin
    mine = clone(place, "topic")

    with pytest.raises(BaselineError) as raised:
        ci_base.find({"CHANGE_TARGET": "nosuch"}, mine)

    told = raised.value.message
    assert told.startswith("the merge base of HEAD and nosuch (CHANGE_TARGET) is not in this clone")
    assert "nosuch" in told.partition(": ")[2]
    assert "\n" not in told
    assert raised.value.hint == "git fetch origin nosuch (actions/checkout: fetch-depth: 0)"
    assert not git.is_shallow(mine)


@pytest.mark.parametrize("start", ["topic", "main"])
def test_a_whole_clone_of_one_branch_stays_whole(origin, start):
    place, hashes = origin
    run_git(place, "branch", "target", "main" if start == "topic" else "main~1")
    mine = clone(place, start, "--single-branch")
    log = run_git(mine, "log", "--oneline")
    found = ci_base.find({"GITHUB_BASE_REF": "target"}, mine)

    assert found.commit == hashes["b" if start == "topic" else "m2"]
    assert run_git(mine, "log", "--oneline") == log
    assert not git.is_shallow(mine)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_shallow_clone_whose_remote_is_gone_names_the_cure(origin, depth):
    place, _ = origin
    mine = clone(place, "topic", f"--depth={depth}")
    place.rename(place.parent / "gone")

    with pytest.raises(BaselineError) as raised:
        ci_base.find({"GITHUB_BASE_REF": "main"}, mine)

    assert raised.value.hint == (
        "git fetch --unshallow origin main (actions/checkout: fetch-depth: 0)"
    )
    assert "\n" not in raised.value.message


def test_branches_without_a_commit_in_common(origin):
    place, _ = origin
    run_git(place, "checkout", "-q", "--orphan", "other")
    add_commit(place, "o")
    mine = clone(place, "topic")

    with pytest.raises(BaselineError, match="have no commit in common"):
        ci_base.find({"GITHUB_BASE_REF": "other"}, mine)


def test_any_other_build_is_compared_with_its_first_parent(origin):
    place, hashes = origin
    for depth in ("--depth=1", "--depth=2"):
        mine = clone(place, "main", depth)
        found = ci_base.find({"CI": "true"}, mine)

        assert found == ci_base.Base(hashes["m2"], "the first parent of HEAD (no pull request)")
        subprocess.run(["rm", "-r", mine], check=True)


def test_a_first_commit_has_nothing_before_it(tmp_path):
    run_git(tmp_path, "init", "-q", "-b", "main")
    add_commit(tmp_path, "a")

    with pytest.raises(BaselineError, match="HEAD has no parent to compare with"):
        ci_base.find({"CI": "true"}, tmp_path)


def test_before_the_first_commit(tmp_path):
    run_git(tmp_path, "init", "-q", "-b", "main")

    for given in ({}, {"GITHUB_BASE_REF": "main"}):
        with pytest.raises(BaselineError) as raised:
            ci_base.find(given, tmp_path)
        assert "\n" not in raised.value.message


def test_outside_git(tmp_path):
    with pytest.raises(BaselineError, match="is not in a git work tree"):
        ci_base.find({"CI": "true"}, tmp_path)


def test_the_commit_that_a_step_names_comes_first(origin):
    place, hashes = origin
    given = {"GITHUB_BASE_REF": "main", ci_base.NAMED: hashes["a"]}
    found = ci_base.find(given, place)

    assert (found.commit, found.told) == (hashes["a"], "the base commit of this job")
    for word in ("main", "--upload-pack=x", hashes["a"][:10], hashes["a"].upper()):
        with pytest.raises(BaselineError, match="is not the full hash of a commit"):
            ci_base.find({ci_base.NAMED: word}, place)
