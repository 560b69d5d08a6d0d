"""Edge: the base commit in a git worktree of its own, removed again whatever happens.

The user's tree, index, branches and `git worktree list` are afterwards as they were: the
worktree is detached, outside the repository, and taken out of git's books even where git
was killed halfway.
"""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ci_flame.baseline import git
from ci_flame.errors import BaselineError

CHECKOUT_TIMEOUT_S: Final = 600
"""Large trees and submodules over a network take minutes."""


@contextmanager
def worktree(revision: str, repository: Path) -> Iterator[Path]:
    """Check `revision` out into a temporary folder and yield its root.

    Submodules are checked out with it. Raises BaselineError where `repository` is not in
    git, the revision does not exist, or a submodule cannot be had.
    """
    top = git.top_level(repository)
    commit = git.resolve(revision, top)
    submodules = _submodule_sections(top)
    scratch = Path(tempfile.mkdtemp(prefix="ci-flame-base-")).resolve()
    tree = scratch / scratch.name
    try:
        _check_out(commit, revision, tree, top)
        yield tree
    finally:
        with _undisturbed():
            _remove(scratch, tree, top)
            _forget_submodules(submodules, top)


def counterpart(path: Path, repository: Path, tree: Path) -> Path:
    """Return the folder of the worktree that stands where `path` stands in the repository.

    Raises BaselineError where the base commit has no such folder.
    """
    top = git.top_level(repository).resolve()
    inside = path.resolve().relative_to(top)
    there = tree / inside
    if not there.is_dir():
        raise BaselineError(f"the base commit has no folder {inside}")
    return there


def _check_out(commit: str, revision: str, tree: Path, top: Path) -> None:
    added = git.call(
        ("worktree", "add", "--detach", "--quiet", str(tree), commit),
        top,
        timeout_s=CHECKOUT_TIMEOUT_S,
    )
    if added.returncode != 0:
        raise BaselineError(f"revision {revision} cannot be checked out: {git.complaint(added)}")
    if not (tree / ".gitmodules").exists():
        return
    fetched = git.call(
        ("submodule", "--quiet", "update", "--init", "--recursive"),
        tree,
        timeout_s=CHECKOUT_TIMEOUT_S,
    )
    if fetched.returncode != 0:
        raise BaselineError(
            f"submodules of revision {revision} cannot be checked out: {git.complaint(fetched)}",
            "git submodule update --init must work in a fresh clone of that revision",
        )


def _remove(scratch: Path, tree: Path, top: Path) -> None:
    """Take the worktree away, from the disk and from git's books; never raises."""
    with suppress(BaselineError):
        git.call(("worktree", "remove", "--force", "--force", str(tree)), top, detached=True)
    shutil.rmtree(scratch, ignore_errors=True)
    # `git worktree prune` would also drop stale entries that are the user's business.
    for entry in _books(top).glob("*"):
        with suppress(OSError):
            if (entry / "gitdir").read_text().strip() == str(tree / ".git"):
                shutil.rmtree(entry, ignore_errors=True)
    with suppress(OSError):
        _books(top).rmdir()


def _books(top: Path) -> Path:
    with suppress(BaselineError):
        answer = git.call(("rev-parse", "--git-common-dir"), top, detached=True)
        if answer.returncode == 0:
            return (top / answer.stdout.decode().strip()) / "worktrees"
    return top / ".git" / "worktrees"


def _submodule_sections(top: Path) -> frozenset[str]:
    """Return the names of submodules in the repository's own configuration."""
    answer = git.call(
        ("config", "--local", "--name-only", "--null", "--get-regexp", r"^submodule\."),
        top,
        detached=True,
    )
    keys = answer.stdout.decode(errors="surrogateescape").split("\0")
    return frozenset(key.rpartition(".")[0] for key in keys if key.count(".") > 1)


def _forget_submodules(before: frozenset[str], top: Path) -> None:
    """Undo that `submodule update --init` writes to the configuration all worktrees share."""
    with suppress(BaselineError):
        for section in _submodule_sections(top) - before:
            git.call(("config", "--local", "--remove-section", section), top, detached=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the cleaning up is done; then they count."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    held = {
        number: signal.signal(number, lambda given, _frame: pending.append(given))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for given in pending[:1]:
            signal.raise_signal(given)
