"""Edge: the base commit in a git worktree of its own, removed again whatever happens.

The user's tree, index, branches and `git worktree list` are afterwards as they were: the
worktree is detached, outside the repository, and taken out of git's books even where git
was killed halfway. What a process that was killed left behind goes with the next one's start.
"""

import fcntl
import os
import re
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
PREFIX: Final = "ci-flame-base-"
_LOCK: Final = "lock"
"""Held by the process that made the worktree, for as long as it lives."""
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_OID: Final = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
_POINTER_BYTES: Final = 1024
_DEEPEST: Final = 8
"""Submodules inside submodules."""


@contextmanager
def worktree(revision: str, repository: Path) -> Iterator[Path]:
    """Check `revision` out into a temporary folder and yield its root.

    Submodules are checked out with it, and files of git-lfs filled in where their content is
    here. Raises BaselineError where `repository` is not in git, the revision is not to be had,
    or a submodule that the work tree has is not.
    """
    top = git.top_level(repository)
    commit = git.resolve(revision, top)
    _remove_abandoned(top)
    submodules = _submodule_sections(top)
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    tree = scratch / scratch.name
    lock = (scratch / _LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _check_out(commit, revision, tree, top)
        yield tree
    finally:
        with _undisturbed():
            _remove(scratch, tree, top)
            _forget_submodules(submodules, top)
            lock.close()


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


def incomplete(tree: Path) -> tuple[str, ...]:
    """Return in words what the checkout lacks: submodules and files that git-lfs holds."""
    notes = []
    empty = [path for _, path in _submodules(tree) if not _populated(tree / path)]
    if empty:
        notes.append(f"submodules that could not be had are empty on both sides: {_names(empty)}")
    pointers = [path for path in _pointers(tree) if _oid(tree / path)]
    if pointers:
        notes.append(
            "files of git-lfs are pointers beside the base commit, their content is not here:"
            f" {_names(pointers)} (git lfs fetch origin COMMIT brings it)"
        )
    return tuple(notes)


def _names(paths: list[str]) -> str:
    shown = 3
    more = len(paths) - shown
    return ", ".join(paths[:shown]) + (f" and {more} more" if more > 0 else "")


def _check_out(commit: str, revision: str, tree: Path, top: Path) -> None:
    added = git.call(
        ("worktree", "add", "--detach", "--quiet", str(tree), commit),
        top,
        timeout_s=CHECKOUT_TIMEOUT_S,
    )
    if added.returncode != 0:
        raise BaselineError(f"revision {revision} cannot be checked out: {git.complaint(added)}")
    _check_out_submodules(revision, tree, top, 0)
    store = _common(top) / "lfs" / "objects"
    for path in _pointers(tree) if store.is_dir() else ():
        _fill(tree / path, store)


# -- submodules -------------------------------------------------------------------------


def _submodules(tree: Path) -> list[tuple[str, str]]:
    """Return name and path of the submodules that the commit really holds."""
    if not (tree / ".gitmodules").is_file():
        return []
    answer = git.call(
        ("config", "-z", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$"), tree
    )
    found = []
    for entry in answer.stdout.decode(errors="surrogateescape").split("\0"):
        key, newline, path = entry.partition("\n")
        name = key.removeprefix("submodule.").removesuffix(".path")
        if newline and _recorded(path, tree):
            found.append((name, path))
    return found


def _recorded(path: str, tree: Path) -> str:
    """Return the commit that the tree records for a submodule; empty if it holds none there."""
    listing = git.call(("ls-tree", "-z", "HEAD", "--", path), tree)
    fields = listing.stdout.partition(b"\t")[0].decode(errors="replace").split()
    return fields[2] if len(fields) > 2 and fields[1] == "commit" else ""  # noqa: PLR2004


def _populated(folder: Path) -> bool:
    return (folder / ".git").exists()


def _check_out_submodules(revision: str, tree: Path, mine: Path, depth: int) -> None:
    """Fill the submodules of `tree`; `mine` is the same folder of the user's work tree.

    The user's own clones come first: CI jobs often have no credentials left for the network.
    """
    for name, path in _submodules(tree) if depth < _DEEPEST else ():
        commit, theirs = _recorded(path, tree), mine / path
        done = False
        update = ("submodule", "--quiet", "update", "--init", "--", path)
        if _populated(theirs) and "=" not in name:
            here = git.call(("cat-file", "-e", f"{commit}^{{commit}}"), theirs)
            if here.returncode == 0:
                local = ("-c", "protocol.file.allow=always", "-c",
                         f"submodule.{name}.url={theirs}")  # fmt: skip
                copied = git.call((*local, *update), tree, timeout_s=CHECKOUT_TIMEOUT_S)
                done = copied.returncode == 0
        if not done:
            fetched = git.call(update, tree, timeout_s=CHECKOUT_TIMEOUT_S)
            if fetched.returncode != 0 and _populated(theirs):
                raise BaselineError(
                    f"the submodule {path} of revision {revision} cannot be checked out:"
                    f" {git.complaint(fetched)}",
                    "git submodule update --init must work in a fresh clone of that revision",
                )
        if _populated(tree / path):
            _check_out_submodules(revision, tree / path, theirs, depth + 1)


# -- git-lfs ----------------------------------------------------------------------------


def _pointers(tree: Path) -> list[str]:
    """Return tracked files that are pointers of git-lfs, as far as attributes name any."""
    # Quick where nothing is kept by git-lfs, which is nearly everywhere.
    used = git.call(("grep", "-q", "--cached", "-F", "filter=lfs", "--", "*.gitattributes"), tree)
    if used.returncode != 0:
        return []
    listing = git.call(("grep", "-z", "-l", "-I", "-F", "-e", _POINTER.decode(), "--"), tree)
    return [os.fsdecode(each) for each in listing.stdout.split(b"\0") if each]


def _oid(file: Path) -> str:
    """Return the hash of the content that a pointer stands for; empty for any other file."""
    with suppress(OSError):
        if file.is_symlink() or file.stat().st_size > _POINTER_BYTES:
            return ""
        data = file.read_bytes()
        found = _OID.search(data)
        return found[1].decode() if data.startswith(_POINTER) and found else ""
    return ""


def _fill(file: Path, store: Path) -> None:
    """Put the content in the place of a pointer, where an earlier `git lfs` left it."""
    oid = _oid(file)
    content = store / oid[:2] / oid[2:4] / oid
    if oid and content.is_file():
        with suppress(OSError, BaselineError):
            shutil.copyfile(content, file)
            # It is what the commit means, though git without git-lfs would call it a change.
            git.call(("update-index", "--assume-unchanged", "--", file.name), file.parent)


# -- the end, and those that had none -----------------------------------------------------


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


def _remove_abandoned(top: Path) -> None:
    """Remove worktrees of this tool whose process is gone (it was killed); never raises."""
    for entry in _books(top).glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError):
            tree = Path((entry / "gitdir").read_text().strip()).parent
            scratch = tree.parent
            if tree.name != scratch.name or not tree.name.startswith(PREFIX):
                continue
            if _abandoned(scratch):
                _remove(scratch, tree, top)


def _abandoned(scratch: Path) -> bool:
    try:
        with (scratch / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _books(top: Path) -> Path:
    return _common(top) / "worktrees"


def _common(top: Path) -> Path:
    """Return the folder of git's own that all worktrees share."""
    with suppress(BaselineError):
        answer = git.call(("rev-parse", "--git-common-dir"), top, detached=True)
        if answer.returncode == 0:
            return top / os.fsdecode(answer.stdout.rstrip(b"\n"))
    return top / ".git"


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
