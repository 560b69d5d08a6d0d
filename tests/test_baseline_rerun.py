"""The worktree of the base commit: there while it is needed, and no trace of it afterwards."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ci_flame.baseline import git, rerun
from ci_flame.errors import BaselineError


def run_git(repository, *words):
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def make_repository(root, name="repository"):
    path = root / name
    (path / "sub").mkdir(parents=True)
    run_git(path, "init", "-q", "-b", "main")
    (path / "code.py").write_text("one\n")
    (path / "sub" / "x.txt").write_text("x\n")
    run_git(path, "add", "-A")
    run_git(path, "commit", "-q", "-m", "one")
    (path / "code.py").write_text("two\n")
    run_git(path, "commit", "-q", "-a", "-m", "two")
    # A tree as people have it: something staged, something not, something new.
    (path / "sub" / "x.txt").write_text("staged\n")
    run_git(path, "add", "sub/x.txt")
    (path / "code.py").write_text("three\n")
    (path / "new.txt").write_text("new\n")
    return path


@pytest.fixture
def repository(tmp_path):
    return make_repository(tmp_path)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Temporary files of ci_flame go where the test can look for them."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


def picture(repository):
    """Everything about a repository that must be as it was, byte by byte where it is small."""
    books = repository / ".git"
    return {
        "worktrees": run_git(repository, "worktree", "list", "--porcelain"),
        "books": sorted(str(path.relative_to(books)) for path in books.rglob("*worktrees*")),
        "branches": run_git(repository, "for-each-ref"),
        "status": run_git(repository, "status", "--porcelain=v2", "--branch"),
        "stash": run_git(repository, "stash", "list"),
        "index": (books / "index").read_bytes(),
        "config": (books / "config").read_bytes(),
        "head": (books / "HEAD").read_bytes(),
        "code": (repository / "code.py").read_bytes(),
    }


@pytest.mark.parametrize("revision", ["HEAD~1", "main~1", "HEAD^"])
def test_the_base_commit_is_checked_out_elsewhere(repository, scratch, revision):
    before = picture(repository)

    with rerun.worktree(revision, repository / "sub") as tree:
        assert (tree / "code.py").read_text() == "one\n"
        assert (tree / "sub" / "x.txt").read_text() == "x\n"
        assert not (tree / "new.txt").exists()
        assert not tree.is_relative_to(repository)
        assert rerun.counterpart(repository / "sub", repository, tree) == tree / "sub"

    assert picture(repository) == before
    assert list(scratch.iterdir()) == []


def test_files_made_in_the_worktree_go_with_it(repository, scratch):
    before = picture(repository)

    with rerun.worktree("HEAD", repository) as tree:
        (tree / "code.py").write_text("changed\n")
        (tree / "made").mkdir()
        (tree / "made" / "x").write_text("untracked\n")
        run_git(tree, "add", "-A")

    assert picture(repository) == before
    assert list(scratch.iterdir()) == []


def test_an_error_inside_leaves_nothing(repository, scratch):
    before = picture(repository)

    def fail():
        with rerun.worktree("HEAD", repository):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()

    assert picture(repository) == before
    assert list(scratch.iterdir()) == []


def test_a_worktree_that_was_deleted_by_hand(repository, scratch):
    import shutil

    before = picture(repository)

    with rerun.worktree("HEAD", repository) as tree:
        shutil.rmtree(tree)

    assert picture(repository) == before


def test_stale_worktrees_of_the_user_stay(repository, tmp_path):
    import shutil

    run_git(repository, "worktree", "add", "--detach", "-q", str(tmp_path / "theirs"))
    shutil.rmtree(tmp_path / "theirs")
    before = picture(repository)
    assert "theirs" in before["worktrees"]

    with rerun.worktree("HEAD", repository):
        pass

    assert picture(repository) == before


def test_from_within_a_worktree_of_the_user(repository, tmp_path):
    theirs = tmp_path / "theirs"
    run_git(repository, "worktree", "add", "--detach", "-q", str(theirs))
    before = picture(repository)

    with rerun.worktree("HEAD~1", theirs) as tree:
        assert (tree / "code.py").read_text() == "one\n"

    assert picture(repository) == before


def test_hooks_of_the_user_do_not_run(repository, tmp_path):
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'hooked'}\n")
    hook.chmod(0o755)

    with rerun.worktree("HEAD", repository):
        pass

    assert not (tmp_path / "hooked").exists()


def test_revisions_that_do_not_exist(repository, scratch):
    before = picture(repository)

    with pytest.raises(BaselineError, match="revision nosuch does not exist"):  # noqa: SIM117
        with rerun.worktree("nosuch", repository):
            pass

    assert picture(repository) == before
    assert list(scratch.iterdir()) == []


def test_outside_git(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()

    with pytest.raises(BaselineError, match="is not in a git work tree"):  # noqa: SIM117
        with rerun.worktree("HEAD", plain):
            pass


def test_a_folder_that_the_base_commit_does_not_have(repository):
    (repository / "later").mkdir()

    with (
        rerun.worktree("HEAD", repository) as tree,
        pytest.raises(BaselineError, match="the base commit has no folder later"),
    ):
        rerun.counterpart(repository / "later", repository, tree)


# -- submodules -----------------------------------------------------------------------


@pytest.fixture
def with_submodule(tmp_path, monkeypatch):
    # git allows submodules from files only when told so.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    library = make_repository(tmp_path, "library")
    repository = make_repository(tmp_path)
    run_git(repository, "submodule", "--quiet", "add", str(library), "vendor/library")
    run_git(repository, "commit", "-q", "-m", "with library")
    return repository


def test_submodules_are_checked_out_too(with_submodule, scratch):
    before = picture(with_submodule)

    with rerun.worktree("HEAD", with_submodule) as tree:
        assert (tree / "vendor" / "library" / "code.py").read_text() == "two\n"

    assert picture(with_submodule) == before
    assert list(scratch.iterdir()) == []


def test_submodules_that_the_user_never_initialised_stay_so(with_submodule, tmp_path):
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(with_submodule), str(clone))
    before = picture(clone)

    with rerun.worktree("HEAD", clone) as tree:
        assert (tree / "vendor" / "library" / "code.py").exists()

    assert picture(clone) == before


def test_a_submodule_that_neither_side_can_have_is_named(with_submodule, tmp_path, scratch):
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(with_submodule), str(clone))
    (tmp_path / "library").rename(tmp_path / "moved")
    before = picture(clone)

    with rerun.worktree("HEAD", clone) as tree:
        told = rerun.incomplete(tree)

    assert told == ("submodules that could not be had are empty on both sides: vendor/library",)
    assert picture(clone) == before
    assert list(scratch.iterdir()) == []


def test_a_submodule_is_taken_from_the_users_own_clone_where_the_network_fails(
    with_submodule, tmp_path, monkeypatch
):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "0")  # and it works where git refuses file transport
    (tmp_path / "library").rename(tmp_path / "moved")
    before = picture(with_submodule)

    with rerun.worktree("HEAD", with_submodule) as tree:
        assert (tree / "vendor" / "library" / "code.py").read_text() == "two\n"
        assert rerun.incomplete(tree) == ()

    assert picture(with_submodule) == before


def test_a_submodule_that_only_the_base_cannot_have_is_an_error(with_submodule, tmp_path, scratch):
    inside = with_submodule / "vendor" / "library"
    (inside / "later.py").write_text("later\n")
    run_git(inside, "add", "-A")
    run_git(inside, "commit", "-q", "-m", "later")
    run_git(with_submodule, "add", "vendor/library")
    run_git(with_submodule, "commit", "-q", "-m", "later library")
    # The work tree has it, but neither its clone nor the remote has that commit any more.
    run_git(inside, "checkout", "-q", "HEAD~1")
    lost = run_git(with_submodule, "rev-parse", "HEAD:vendor/library")
    books = with_submodule / ".git" / "modules" / "vendor" / "library"
    (books / "objects" / lost[:2] / lost[2:]).unlink()
    (tmp_path / "library").rename(tmp_path / "moved")
    told = "the submodule vendor/library of revision HEAD cannot be checked out"

    with pytest.raises(BaselineError, match=told), rerun.worktree("HEAD", with_submodule):
        pass

    assert list(scratch.iterdir()) == []


# -- git-lfs --------------------------------------------------------------------------


def test_files_of_git_lfs_are_filled_in_where_their_content_is_here(repository):
    def pointer(content):
        oid = hashlib.sha256(content).hexdigest()
        return oid, (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
        )

    here, text = pointer(b"many bytes")
    _, elsewhere = pointer(b"not downloaded")
    (repository / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (repository / "here.bin").write_text(text)
    (repository / "gone.bin").write_text(elsewhere)
    # A file that only looks like one.
    (repository / "notes.txt").write_text("see version https://git-lfs.github.com/spec/v1\n")
    run_git(repository, "add", "-A")
    run_git(repository, "commit", "-q", "-m", "data")
    store = repository / ".git" / "lfs" / "objects" / here[:2] / here[2:4]
    store.mkdir(parents=True)
    (store / here).write_bytes(b"many bytes")

    with rerun.worktree("HEAD", repository) as tree:
        assert (tree / "here.bin").read_bytes() == b"many bytes"
        (told,) = rerun.incomplete(tree)
        assert not git.state(tree).dirty

    assert told.startswith("files of git-lfs are pointers beside the base commit")
    assert "gone.bin" in told
    assert "here.bin" not in told
    assert "notes.txt" not in told


# -- what a killed process left behind --------------------------------------------------


def test_the_next_start_removes_what_a_killed_process_left(repository, scratch):
    before = picture(repository)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        left = Path(process.stdout.readline().strip())
        with rerun.worktree("HEAD", repository) as tree:
            # It is alive: its worktree is not touched.
            assert (left / "code.py").exists()
            assert tree != left
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (left / "code.py").exists()
    assert picture(repository) != before

    with rerun.worktree("HEAD", repository):
        assert not left.exists()

    assert picture(repository) == before
    assert list(scratch.iterdir()) == []


# -- signals, in a process of their own -----------------------------------------------

HOLD = """
import signal, sys, time
from pathlib import Path
from ci_flame.baseline import rerun

def stop(number, frame):
    raise SystemExit(70 + number)

signal.signal(signal.SIGTERM, stop)
with rerun.worktree("HEAD~1", Path(sys.argv[1])) as tree:
    print(tree, flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], -signal.SIGINT),
        ([signal.SIGTERM], 70 + signal.SIGTERM),
        # The second one comes while it is cleaning up.
        ([signal.SIGINT, signal.SIGINT], -signal.SIGINT),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGINT], None),
    ],
)
def test_signals_leave_nothing(repository, scratch, signals, code):
    before = picture(repository)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        tree = Path(process.stdout.readline().strip())
        assert (tree / "code.py").exists()
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(0.01)
        ended = process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert code is None or ended == code
    assert ended != 0
    assert not tree.exists()
    assert picture(repository) == before
    assert list(scratch.iterdir()) == []
