"""Edge: the base commit made ready to be recorded: set up, and what it lacks said.

A checkout holds what git holds. What a build made (extensions, an installed package, generated
files) is made again by the `setup` command, in an environment of its own that sees everything
that is installed here: `pip install -e .` must not turn the changed tree's installation away.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_flame.baseline import git, rerun
from ci_flame.errors import BaselineError, CollectError

SETUP_TIMEOUT_S: Final = 1800
MANIFEST: Final = "base.json"
"""Beside the checkout: what a process that is given `tree:DIR` has to know of it."""
ENVIRONMENT: Final = "environment"
REASON: Final = "reason"
_TAIL_LINES: Final = 20
_SHOWN: Final = 3
_BROUGHT_BYTES: Final = 16 << 20
_WORD: Final = re.compile(r"[\w.+-]+")
_NOT_OURS: Final = frozenset({"site-packages", "dist-packages", "node_modules", "__pycache__"})
"""Folders of what is installed or made in passing."""
_SITES: Final = (
    "import json, sys; print(json.dumps([p for p in sys.path"
    " if 'site-packages' in p or 'dist-packages' in p]))"
)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with the base commit, ready to be recorded."""

    folder: Path
    python: str = ""
    """The interpreter of its own environment; empty: the one of the after side."""
    notes: tuple[tuple[str, str], ...] = ()
    """What a reader must know, slug and text: why it was chosen, what it lacks, what differs."""
    ours: bool = False
    """Nobody named this commit: what it cannot run has no baseline, and the build goes on."""
    trouble: str = ""
    """Why it cannot be recorded at all, with the last lines of its set-up; only of ours."""

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which its own programs come first."""
        return _entered(Path(self.python).parent.parent, given) if self.python else dict(given)


@contextmanager
def prepared(
    revision: str,
    start: Path,
    *,
    setup: str = "",
    setup_after: str = "",
    python: str = "",
    notes: Sequence[tuple[str, str]] = (),
    ours: bool = False,
) -> Iterator[Checkout]:
    """Check the base commit out, set it up, and yield it; nothing of it is left behind.

    `setup` is run by `sh -c` in the checkout, in an environment of its own, `setup_after` in
    `start`, in the present one. `python` is the interpreter that runs the benchmarks. Raises
    BaselineError where it cannot be checked out, CollectError with its last lines where a setup
    command fails; that of a commit that nobody named (`ours`) is told by the checkout.
    """
    with rerun.worktree(revision, start) as tree:
        lacks = (*_state(start), *rerun.incomplete(tree))
        told_of = (*notes, *(("base-commit", each) for each in lacks))
        made = Checkout(tree, notes=told_of, ours=ours)
        if setup:
            own = tree.parent / ENVIRONMENT
            made = replace(made, python=str(own / "bin" / "python"))
            try:
                _own_environment(own, python or sys.executable)
                where = _twin(start, tree)
                _run(setup, where, made.environment(os.environ), tree.parent, "the base commit")
            except CollectError as error:
                if not ours:
                    raise
                made = replace(made, trouble=error.message)
        if setup_after:
            _run(setup_after, start, dict(os.environ), tree.parent, "the changed tree")
        told = {
            "python": made.python,
            "notes": made.notes,
            "ours": made.ours,
            "trouble": made.trouble,
        }
        (tree.parent / MANIFEST).write_text(json.dumps(told), encoding="utf-8")
        yield made


def of(folder: Path) -> Checkout:
    """Return what is known of a checkout: those that `prepared` made, and any other folder."""
    manifest = folder.parent / MANIFEST
    if not folder_of(folder) or not manifest.is_file():
        return Checkout(folder)
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(manifest.read_text(encoding="utf-8"))
        notes = tuple((str(slug), str(text)) for slug, text in told["notes"])
        ours, trouble = told["ours"] is True, str(told["trouble"])
        return Checkout(folder, str(told["python"]), notes, ours, trouble)
    return Checkout(folder)


def bring(file: Path, project: Path, tree: Path) -> tuple[str, ...]:
    """Copy a file that is new since the base commit into its checkout, conftests on the way too.

    Returns the paths, from the project's root, of what was copied, now or before; nothing where
    the base commit has the file, or it is not of the project.
    """
    try:
        inside = file.resolve().relative_to(project.resolve())
    except (ValueError, OSError):
        return ()
    there = tree / inside
    if there.exists() or there.is_symlink():
        held = git.call(("ls-files", "--error-unmatch", "--", str(inside)), tree)
        mine = held.returncode == 1 and folder_of(tree)
        return (str(inside),) if mine else ()
    if not file.is_file() or not folder_of(tree):
        return ()
    if file.stat().st_size > _BROUGHT_BYTES:
        return ()
    brought = []
    # Folders that the base has keep their own: only what is new comes along.
    for folder in [each for each in reversed(inside.parents) if not (tree / each).exists()]:
        for name in ("__init__.py", "conftest.py"):
            source = project / folder / name
            if source.is_file():
                _copy(source, tree / folder / name)
                brought.append(str(folder / name))
    _copy(file, there)
    return (*brought, str(inside))


def leave_reason(tree: Path, why: str) -> None:
    """Leave beside a checkout of ours why it cannot run a benchmark, for whoever made it."""
    if folder_of(tree):
        with suppress(OSError), (tree.parent / REASON).open("a", encoding="utf-8") as file:
            file.write(f"{why}\n")


def reason_left(tree: Path) -> str:
    """Return the first that was left; empty: none was."""
    try:
        text = (tree.parent / REASON).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[0] if folder_of(tree) else ""


def folder_of(tree: Path) -> bool:
    """Tell whether a checkout is one that `prepared` made, and so may be written to."""
    return tree.name.startswith(rerun.PREFIX) and tree.parent.name == tree.name


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise BaselineError(
            f"{source} is new and could not be copied beside the base commit: {error.strerror}"
        ) from None


def differ(one: Path, other: Path) -> bool:
    """Tell whether two files are both there and not the same."""
    try:
        return one.read_bytes() != other.read_bytes()
    except OSError:
        return False


def untracked(start: Path, *, ignored: bool = False) -> list[str]:
    """Return files that git does not hold, from the root; with those that it ignores if asked."""
    rules = () if ignored else ("--exclude-standard",)
    try:
        top = git.top_level(start)
        answer = git.call(("ls-files", "-z", "--others", *rules), top)
    except BaselineError:
        return []
    names = map(os.fsdecode, answer.stdout.split(b"\0"))
    return [name for name in names if name and not name.startswith(".ci-flame/")]


def lacking(output: str, start: Path, tree: Path) -> tuple[str, ...]:
    """Return files of the project that git does not hold and a failed process's words name."""
    words = frozenset(_WORD.findall(output))
    found = []
    for name in untracked(start, ignored=True):
        *folders, leaf = name.split("/")
        if any(each in _NOT_OURS or each.startswith(".") for each in folders):
            continue
        stem, dot, _ = leaf.partition(".")
        module = leaf.endswith((".py", ".so", ".pyd")) and f"'{stem}'" in output
        if (module or (dot and leaf in words)) and not (tree / name).exists():
            found.append(name)
    return tuple(found)


def listed(names: Sequence[str]) -> str:
    """Return the first names in words: `a, b, c and 4 more`."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _state(start: Path) -> tuple[str, ...]:
    """Return what of the work tree is in no commit."""
    notes = []
    state = git.state(start)
    if state.dirty:
        notes.append(
            f"the work tree differs from its commit {state.commit[:10]}: what is not committed"
            " counts as part of the change; the base commit is recorded as it was committed"
        )
    # Bytecode is made anew on either side.
    others = [name for name in untracked(start) if "__pycache__" not in name.split("/")]
    if others:
        count = "an untracked file is" if len(others) == 1 else f"{len(others)} untracked files are"
        notes.append(f"{count} not beside the base commit: {listed(others)}")
    return tuple(notes)


def _twin(start: Path, tree: Path) -> Path:
    with suppress(BaselineError, ValueError):
        return rerun.counterpart(start, start, tree)
    return tree


# -- setup --------------------------------------------------------------------------------


def _entered(prefix: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which an activated virtual environment runs programs."""
    variables = {name: value for name, value in given.items() if name != "PYTHONHOME"}
    path = given.get("PATH", os.defpath)
    return variables | {"VIRTUAL_ENV": str(prefix), "PATH": f"{prefix / 'bin'}{os.pathsep}{path}"}


def _own_environment(prefix: Path, python: str) -> Path:
    """Make a virtual environment that sees what `python` sees, and installs beside it."""
    try:
        _ask(python, "-m", "venv", "--without-pip", str(prefix))
        folders = [str(each) for each in json.loads(_ask(python, "-c", _SITES))]
        (site,) = prefix.glob("lib/python*/site-packages")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
        told = (output.strip().splitlines() or [""])[-1]
        raise CollectError(
            f"no environment for the base commit could be made with {python}: {told}",
            "python3 -m venv must work (Debian: apt-get install python3-venv)",
        ) from None
    # Last in the alphabet: what setup installs comes first.
    line = f"import site; list(map(site.addsitedir, {folders!r}))\n"
    (site / "zz-ci-flame.pth").write_text(line, encoding="utf-8")
    for name in ("pip", "pip3"):
        script = prefix / "bin" / name
        # The pip that is installed here, in the new environment.
        script.write_text(f'#!/bin/sh\nexec "{prefix}/bin/python" -m pip "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return prefix


def _ask(*words: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


def _run(
    command: str, folder: Path, environment: Mapping[str, str], scratch: Path, whose: str
) -> None:
    """Run one setup command to its end, within SETUP_TIMEOUT_S."""
    log = scratch / "setup.txt"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", command],
                cwd=folder,
                env={**environment, "PWD": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise CollectError(f"setup of {whose} cannot be run: {error.strerror}") from None
    try:
        code = process.wait(SETUP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise CollectError(
            f"setup of {whose} did not end within {SETUP_TIMEOUT_S} s: {command}\n{_tail(log)}"
        ) from None
    finally:
        # What it left running would take its CPU from the benchmarks.
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
    if code != 0:
        ended = f"exit code {code}" if code > 0 else f"signal {-code}"
        raise CollectError(
            f"setup of {whose} ended with {ended}: {command}\n{_tail(log)}",
            f"it is run by `sh -c` in {folder}",
        )


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    rows = [row for row in text.splitlines() if row.strip()][-_TAIL_LINES:]
    return "\n".join(f"  | {row}" for row in rows) or "  | (no output)"
