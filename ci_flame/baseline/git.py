"""Edge: git, read only by plumbing: revisions, the state of a tree, a baseline in a commit."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from ci_flame.baseline import folder
from ci_flame.errors import BaselineError, FormatError
from ci_flame.profile import Run

DEFAULT_PATH: Final = ".ci-flame/baseline"
"""Where `git:REV` looks, from the root of the repository."""
TIMEOUT_S: Final = 60
FETCH_TIMEOUT_S: Final = 300

_SET_BY_HOOKS: Final = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR",
)  # fmt: skip
"""git sets these for hooks; there they would point every call below at the wrong tree."""


@dataclass(frozen=True, slots=True)
class State:
    """What a work tree holds."""

    commit: str
    """Full hash; empty outside git or before the first commit."""
    dirty: bool
    """True: a tracked file differs from the commit."""


def call(
    arguments: tuple[str, ...],
    repository: Path,
    *,
    timeout_s: float = TIMEOUT_S,
    data: bytes | None = None,
    detached: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run git in `repository`; the exit code is the caller's to judge.

    `detached` puts git into a session of its own, where Ctrl-C does not reach it. Raises
    BaselineError where git is not installed or does not answer in time.
    """
    try:
        return subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments],
            cwd=repository,
            env=environment(),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            start_new_session=detached,
        )
    except FileNotFoundError:
        if not repository.is_dir():
            raise BaselineError(f"{repository} is not a folder") from None
        raise BaselineError("git is not installed", "sudo apt-get install git") from None
    except subprocess.TimeoutExpired:
        words = " ".join(arguments[:2])
        raise BaselineError(f"git {words} did not end within {timeout_s:g} s") from None


def environment() -> Mapping[str, str]:
    """Return the environment for git: no prompts, plain English, no variables of hooks."""
    kept = {key: value for key, value in os.environ.items() if key not in _SET_BY_HOOKS}
    return kept | {"LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def complaint(answer: subprocess.CompletedProcess[bytes]) -> str:
    """Return what git said went wrong, on one line."""
    lines = answer.stderr.decode(errors="replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-1:]
    return fatal[0].partition(": ")[2] or fatal[0] if fatal else f"exit code {answer.returncode}"


def top_level(start: Path) -> Path:
    """Return the root of the work tree that `start` is in; BaselineError outside git."""
    answer = call(("rev-parse", "--show-toplevel"), start)
    if answer.returncode == 0:
        return Path(os.fsdecode(answer.stdout.rstrip(b"\n")))
    told = complaint(answer)
    if "dubious ownership" in told:
        raise BaselineError(
            f"git refuses {start}: {told}",
            f"git config --global --add safe.directory {start}",
        )
    raise BaselineError(f"{start} is not in a git work tree", "git init, or go into a work tree")


def resolve(revision: str, repository: Path) -> str:
    """Return the full hash of the commit that `revision` names.

    A shallow clone that lacks it fetches it, from the remote where there is one. Raises
    BaselineError where it is not to be had, with the command that cures it.
    """
    if found := _commit(revision, repository):
        return found
    top_level(repository)
    if not is_shallow(repository):
        raise BaselineError(
            f"revision {revision} does not exist in {repository}", "git log --oneline names some"
        )
    if revision.startswith(("-", "+")) or ":" in revision:
        # It may be what a stored run calls its commit: no option, and no branch of ours to write.
        raise BaselineError(
            f"revision {revision[:_SHOWN]!r} is not the name of a commit",
            "give a hash, a branch or a tag",
        )
    place, wanted = remote(repository), _fetchable(revision, repository)
    if "~" in revision or "^" in revision:
        # What stands behind a commit that is here: its history, as far as it must be.
        steps = max([1, *(int(each) for each in re.findall(r"[~^](\d{1,5})", revision))])
        words: tuple[str, ...] = (f"--deepen={steps * max(1, len(re.findall('[~^]', revision)))}",
                                  place)  # fmt: skip
        trouble = fetch(words, repository)
        found = _commit(revision, repository)
    else:
        words = ("--depth=1", place, wanted)
        trouble = fetch(words, repository)
        found = (
            "" if trouble else _commit(revision, repository) or _commit("FETCH_HEAD", repository)
        )
    if found:
        return found
    raise BaselineError(
        f"revision {revision} is not in this shallow clone"
        + (f", and could not be fetched: {trouble}" if trouble else ""),
        f"git ls-remote {shlex.quote(place)} lists what can be fetched"
        if _NO_REF in trouble
        else f"git fetch {shlex.join(words)}",
    )


_SHOWN: Final = 60
_NO_REF: Final = "find remote ref"
"""What git says where the remote has no such branch or tag: fetching it again cures nothing."""


def _commit(revision: str, repository: Path) -> str:
    """Return the full hash of a commit that is here; empty if it is not."""
    answer = call(
        ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"),
        repository,
    )
    found = answer.stdout.decode().strip() if answer.returncode == 0 else ""
    if not found:
        return ""
    # A shallow clone knows the names of parents that it does not have.
    there = call(("cat-file", "-e", f"{found}^{{commit}}"), repository)
    return found if there.returncode == 0 else ""


def is_shallow(repository: Path) -> bool:
    """Tell whether the clone's history was cut off."""
    shallow = call(("rev-parse", "--is-shallow-repository"), repository)
    return shallow.stdout.strip() == b"true"


def remote(repository: Path) -> str:
    """Return the remote that is fetched from: `origin`, or the only one there is."""
    answer = call(("remote",), repository)
    names = answer.stdout.decode(errors="replace").split()
    return names[0] if names and "origin" not in names else "origin"


def fetch(arguments: tuple[str, ...], repository: Path) -> str:
    """Fetch; return what went wrong on one line, empty where nothing did.

    No tags, no submodules and no local branch: FETCH_HEAD and the remote's own branches move.
    """
    options = tuple(takewhile(lambda each: each.startswith("--"), arguments))
    names = arguments[len(options) :]
    words = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", *options,
             "--end-of-options", *names)  # fmt: skip
    try:
        answer = call(words, repository, timeout_s=FETCH_TIMEOUT_S)
    except BaselineError as error:
        return error.message
    return complaint(answer) if answer.returncode else ""


def have(commit: str, repository: Path) -> str:
    """Return a full hash, fetched where a shallow clone lacks it; BaselineError if it cannot be."""
    return resolve(commit, repository)


def parents(repository: Path) -> tuple[str, ...]:
    """Return the parents that HEAD's commit names, whether the clone has them or not."""
    answer = call(("cat-file", "commit", "HEAD"), repository)
    header = answer.stdout.partition(b"\n\n")[0].decode(errors="replace")
    return tuple(
        line.partition(" ")[2] for line in header.splitlines() if line.startswith("parent ")
    )


def distance(ancestor: str, commit: str, repository: Path) -> int:
    """Return how many first parents `commit` is after `ancestor`; 0: it is not, or who knows."""
    for revision in (ancestor, commit):
        if not _commit(revision, repository):
            return 0
    if call(("merge-base", "--is-ancestor", ancestor, commit), repository).returncode != 0:
        return 0
    words = ("rev-list", "--first-parent", "--count", f"{ancestor}..{commit}", "--")
    answer = call(words, repository)
    return int(answer.stdout) if answer.returncode == 0 else 0


def count(revision: str, repository: Path) -> int:
    """Return how many commits of a revision's history are here; 0: it is not, or who knows."""
    answer = call(("rev-list", "--count", "--end-of-options", revision), repository)
    return int(answer.stdout) if answer.returncode == 0 else 0


def differs(file: Path, commit: str, start: Path) -> bool:
    """Tell whether a file of the work tree is in a commit, too, with other content.

    False where git cannot tell: outside of it, or where the clone lacks the commit.
    """
    try:
        top = top_level(start)
        if not _commit(commit, top):
            return False
        words = ("diff", "--quiet", "--no-ext-diff", "--no-textconv", "--diff-filter=M")
        return call((*words, commit, "--", str(file.absolute())), top).returncode == 1
    except BaselineError:
        return False


def remote_branch(branch: str, repository: Path) -> str:
    """Return the commit of a branch as the remote, or else this clone, has it; empty: neither."""
    for name in (f"refs/remotes/{remote(repository)}/{branch}", f"refs/heads/{branch}"):
        if found := _commit(name, repository):
            return found
    return ""


def merge_base(commit: str, repository: Path) -> str:
    """Return the newest commit that HEAD and `commit` share; empty where none is here."""
    answer = call(("merge-base", "HEAD", commit), repository)
    return answer.stdout.decode().strip() if answer.returncode == 0 else ""


def _fetchable(revision: str, repository: Path) -> str:
    """Return what a remote knows of a revision: `main` for `origin/main`."""
    return revision.removeprefix(f"{remote(repository)}/") or "HEAD"


def state(start: Path) -> State:
    """Return the commit and whether tracked files differ; empty outside git, never raises."""
    try:
        head = call(("rev-parse", "--verify", "--quiet", "HEAD"), start)
        if head.returncode != 0:
            return State("", dirty=False)
        status = call(("status", "--porcelain", "--untracked-files=no"), start)
    except BaselineError:
        return State("", dirty=False)
    return State(head.stdout.decode().strip(), dirty=bool(status.stdout.strip()))


# -- a run folder in a commit ---------------------------------------------------------


def split(value: str) -> tuple[str, str]:
    """Return revision and path of `REV[:PATH]`."""
    revision, _, path = value.partition(":")
    return revision, path.strip("/") or DEFAULT_PATH


def load(value: str, start: Path) -> Run:
    """Return the run that is committed at `REV[:PATH]`, without touching the work tree.

    Raises BaselineError and FormatError that name `git:REV:PATH`.
    """
    revision, path = split(value)
    top = top_level(start)
    name = f"git:{revision}:{path}"
    blobs = _blobs(resolve(revision, top), path, top, name)

    def read(inner: str, limit: int) -> bytes:
        blob = blobs.get(inner)
        if blob is None:
            raise FormatError(f"{name}/{inner}", "it is not in that commit")
        if blob.size > limit:
            raise FormatError(f"{name}/{inner}", f"{blob.size} bytes; the limit is {limit}")
        answer = call(("cat-file", "blob", blob.digest), top)
        if answer.returncode != 0:
            raise FormatError(f"{name}/{inner}", complaint(answer))
        return answer.stdout

    run = folder.assemble(read, name)
    if not run.complete:
        raise BaselineError(f"{name}: the run was interrupted and is not complete")
    return run


@dataclass(frozen=True, slots=True)
class _Blob:
    """One committed file."""

    digest: str
    size: int


def _blobs(commit: str, path: str, top: Path, name: str) -> dict[str, _Blob]:
    """Return relative path -> plain file below `path`; links and submodules are refused."""
    listing = call(("ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", f"{path}/"), top)
    if listing.returncode != 0:
        raise BaselineError(f"{name}: {complaint(listing)}")
    blobs: dict[str, _Blob] = {}
    for entry in listing.stdout.split(b"\0")[:-1]:
        meta, _, raw = entry.partition(b"\t")
        mode, kind, digest, size = meta.decode().split()
        inner = os.fsdecode(raw).removeprefix(f"{path}/")
        if kind != "blob" or mode not in ("100644", "100755"):
            raise BaselineError(f"{name}: {inner} is no plain file (mode {mode})")
        blobs[inner] = _Blob(digest, int(size))
    if folder.RUN_JSON not in blobs:
        raise BaselineError(
            f"{name}: that commit has no run there",
            f"record one with -o {path}, then: git add --force {path} && git commit",
        )
    return blobs
