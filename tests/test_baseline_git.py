"""A baseline committed in git, and what git says of a revision; real repositories."""

import subprocess
from pathlib import Path

import pytest
from synthetic import SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder, git
from ci_flame.errors import BaselineError, FormatError


def run_git(repository, *words):
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    root.mkdir()
    run_git(root, "init", "-q", "-b", "main")
    (root / "code.py").write_text("one\n")
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "one")
    return root


@pytest.fixture
def run():
    return synthetic_run(synthetic_measurement(SHOP, processes=2, rounds=2, seconds=0.2))


def commit_run(repository, run, path=git.DEFAULT_PATH):
    folder.save(run, repository / path)
    run_git(repository, "add", "--force", path)
    run_git(repository, "commit", "-q", "-m", "baseline")


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("main", ("main", git.DEFAULT_PATH)),
        ("main:", ("main", git.DEFAULT_PATH)),
        ("HEAD~1:perf/base/", ("HEAD~1", "perf/base")),
    ],
)
def test_revision_and_path(value, parts):
    assert git.split(value) == parts


@pytest.mark.parametrize(
    "revision",
    ["--upload-pack=touch pwned;git-upload-pack", "-q", "+main:main", "main:refs/heads/main"],
)
def test_what_a_stored_run_calls_its_commit_is_no_option_of_git(repository, tmp_path, revision):
    clone = tmp_path / "clone"
    run_git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    run_git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", str(clone))
    refs = run_git(clone, "for-each-ref")

    with pytest.raises(BaselineError, match="is not the name of a commit"):
        git.resolve(revision, clone)
    git.fetch(("--depth=1", "origin", revision), clone)

    assert not (clone / "pwned").exists()
    assert revision.startswith(("+", "main")) or run_git(clone, "for-each-ref") == refs


@pytest.mark.parametrize("path", [git.DEFAULT_PATH, "perf/base line"])
def test_a_committed_run_is_read_without_a_checkout(repository, run, path):
    commit_run(repository, run, path)
    run_git(repository, "rm", "-q", "-r", path)
    run_git(repository, "commit", "-q", "-m", "gone from the tree")

    value = "HEAD~1" if path == git.DEFAULT_PATH else f"HEAD~1:{path}"

    assert git.load(value, repository) == run
    assert not (repository / path).exists()


def test_it_is_found_from_a_folder_below(repository, run):
    commit_run(repository, run)
    (repository / "sub").mkdir()

    assert git.load("main", repository / "sub") == run


def test_a_commit_without_a_run(repository):
    with pytest.raises(BaselineError) as raised:
        git.load("main", repository)

    assert raised.value.message == "git:main:.ci-flame/baseline: that commit has no run there"
    assert "git add --force .ci-flame/baseline" in raised.value.hint


def test_a_revision_that_does_not_exist(repository):
    with pytest.raises(BaselineError, match="revision nosuch does not exist"):
        git.load("nosuch", repository)
    with pytest.raises(BaselineError, match="revision --all does not exist"):
        git.resolve("--all", repository)


def test_a_file_is_not_a_commit(repository):
    with pytest.raises(BaselineError, match="does not exist"):
        git.resolve("main:code.py", repository)


def _shallow(repository, tmp_path, commits=1):
    """Return a clone of depth 1, and the hashes of the origin's commits, oldest first."""
    hashes = [run_git(repository, "rev-parse", "HEAD")]
    for number in range(commits):
        (repository / "code.py").write_text(f"{number}\n")
        run_git(repository, "commit", "-q", "-a", "-m", str(number))
        hashes.append(run_git(repository, "rev-parse", "HEAD"))
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", str(clone))
    return clone, hashes


@pytest.mark.parametrize(
    "word", ["HEAD~2", "HEAD^^", "{hash}", "origin/main~2", "old", "origin/old"]
)
def test_a_shallow_clone_fetches_what_it_lacks(repository, tmp_path, word):
    run_git(repository, "branch", "old")
    clone, hashes = _shallow(repository, tmp_path, 2)
    branches = run_git(clone, "for-each-ref", "refs/heads")

    assert git.resolve(word.format(hash=hashes[0]), clone) == hashes[0]
    assert run_git(clone, "for-each-ref", "refs/heads") == branches


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("HEAD~1", "git fetch --deepen=1 origin"),
        ("HEAD~2^", "git fetch --deepen=4 origin"),
        ("old", "git fetch --depth=1 origin old"),
        ("origin/old", "git fetch --depth=1 origin old"),
        ("a b", "git fetch --depth=1 origin 'a b'"),
    ],
)
def test_a_shallow_clone_without_its_remote_names_the_fetch(repository, tmp_path, word, cure):
    clone, _ = _shallow(repository, tmp_path)
    repository.rename(tmp_path / "gone")

    with pytest.raises(BaselineError) as raised:
        git.resolve(word, clone)

    told = raised.value.message
    assert told.startswith(f"revision {word} is not in this shallow clone, and could not be")
    assert "\n" not in told
    assert raised.value.hint == cure


def test_what_the_remote_does_not_have_is_not_to_be_fetched_again(repository, tmp_path):
    clone, _ = _shallow(repository, tmp_path)

    with pytest.raises(BaselineError) as raised:
        git.resolve("nope", clone)

    assert "could not be fetched" in raised.value.message
    assert raised.value.hint == "git ls-remote origin lists what can be fetched"


def test_outside_git(tmp_path):
    with pytest.raises(BaselineError, match="is not in a git work tree"):
        git.load("main", tmp_path)
    with pytest.raises(BaselineError, match="is not a folder"):
        git.load("main", tmp_path / "missing")
    assert git.state(tmp_path) == git.State("", dirty=False)


def test_without_git(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))

    with pytest.raises(BaselineError, match="git is not installed"):
        git.load("main", repository)
    assert git.state(repository) == git.State("", dirty=False)


def test_links_in_a_commit_are_refused(repository, run):
    commit_run(repository, run)
    place = repository / git.DEFAULT_PATH / "run.json"
    place.unlink()
    place.symlink_to("/etc/passwd")
    run_git(repository, "commit", "-q", "-a", "-m", "hostile")

    with pytest.raises(BaselineError, match=r"run\.json is no plain file \(mode 120000\)"):
        git.load("main", repository)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"", "git:main:.ci-flame/baseline/run.json"), (b"{}", "git:main:"), (b"\xff", "not UTF-8")],
)
def test_broken_files_are_named_as_the_user_named_them(repository, run, text, message):
    commit_run(repository, run)
    (repository / git.DEFAULT_PATH / "run.json").write_bytes(text)
    run_git(repository, "commit", "-q", "-a", "-m", "broken")

    with pytest.raises(FormatError) as raised:
        git.load("main", repository)

    assert message in raised.value.message


def test_a_profile_that_is_missing_in_the_commit(repository, run):
    commit_run(repository, run)
    profile = next((repository / git.DEFAULT_PATH / "profiles").iterdir())
    run_git(repository, "rm", "-q", "--cached", str(profile))
    run_git(repository, "commit", "-q", "-m", "half")

    with pytest.raises(FormatError, match="it is not in that commit"):
        git.load("main", repository)


def test_an_interrupted_run_is_no_baseline(repository, run):
    from dataclasses import replace

    commit_run(repository, replace(run, complete=False))

    with pytest.raises(BaselineError, match="was interrupted and is not complete"):
        git.load("main", repository)


def test_the_state_of_a_tree(repository):
    commit = run_git(repository, "rev-parse", "HEAD")
    assert git.state(repository) == git.State(commit, dirty=False)

    (repository / "new.txt").write_text("untracked files do not count\n")
    assert git.state(repository) == git.State(commit, dirty=False)

    (repository / "code.py").write_text("two\n")
    assert git.state(repository) == git.State(commit, dirty=True)


def test_variables_of_a_hook_do_not_mislead(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))

    assert git.top_level(repository) == Path(repository).resolve()
