"""Stage 1, edge: the processes that are measured: `pytest NODEID` again, on either side.

    after · before · before · after · after · before · …

Nothing is measured in the process that starts them: its hash seed and its place in memory
are not theirs. With `tree:DIR` the before side runs the same test in DIR, a checkout of the
base commit, and the sides alternate in random order, so that a machine that drifts does so
for both.
"""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from ci_flame.baseline import base_side, folder
from ci_flame.config import RecordConfig
from ci_flame.config.scripts import Script
from ci_flame.errors import ChildError, CiFlameError
from ci_flame.profile import Frame, Kind, Measurement, Mode, Run
from ci_flame.record import layout

CHILD_VARIABLE: Final = "CI_FLAME_CHILD"
"""Folder that a further process reads `plan.json` from and writes its run to."""
HASH_SEED: Final = "0"
"""Of every further process, so that sets and dicts of text lie alike in all of them."""
_NOT_FOUND: Final = 4
_NOTHING_COLLECTED: Final = 5
_TAIL_LINES: Final = 12

_DROPPED_WITH_VALUE: Final = frozenset(
    {
        "-n", "--numprocesses", "--maxprocesses", "--max-worker-restart", "--dist", "--tx",
        "--rsyncdir", "-k", "-m", "--maxfail", "--deselect", "--durations",
        "--durations-min", "--junitxml", "--junit-xml", "--junitprefix", "--junit-prefix",
        "--cov-report", "--cov-config", "--cov-fail-under", "--cov-context", "--cache-show",
        "--lfnf", "--last-failed-no-failures", "--pdbcls", "--report-log", "--basetemp",
        "--rootdir", "--reruns", "--reruns-delay", "--count", "--randomly-seed",
        "--log-file",
    }
)  # fmt: skip
"""Options of pytest and common plugins that choose tests, spread them or write files."""
_DROPPED_ALONE: Final = frozenset(
    {
        "-x", "--exitfirst", "--lf", "--last-failed", "--ff", "--failed-first", "--nf",
        "--new-first", "--sw", "--stepwise", "--sw-skip", "--stepwise-skip", "--sw-reset",
        "--stepwise-reset", "--cache-clear", "--pdb", "--trace", "--no-cov",
        "--no-cov-on-fail", "--cov-append", "--cov-branch", "--cov-reset", "-f",
        "--looponfail", "-d", "--keep-duplicates", "--setup-show", "--flame",
        "--flame-quick",
    }
)  # fmt: skip
_DROPPED_STARTS: Final = ("--flame-", "--benchmark-", "--cov")


@dataclass(frozen=True, slots=True)
class Invocation:
    """How this pytest was started: plain values, sent to xdist's workers as they are."""

    arguments: tuple[str, ...]
    """`addopts`, PYTEST_ADDOPTS and the command line, in that order."""
    positionals: tuple[str, ...]
    """Those of them that are files, folders and node ids."""
    folder: str
    """Where it was started."""
    root: str
    """pytest's rootdir."""
    ini: str = ""
    extra: tuple[str, ...] = ()
    """Arguments that quieten plugins which are loaded here (`--benchmark-disable`)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout of the base commit, beside the project that it is compared with."""

    project: Path
    """Top folder of the project being tested (its git root)."""
    folder: Path
    """The same folder of the base commit."""
    python: str = ""
    """The interpreter of its own environment; empty: this process's."""

    def map(self, path: Path) -> Path:
        """Return the path's twin in the tree; what is not of the project stays."""
        try:
            return self.folder / path.relative_to(self.project)
        except ValueError:
            return path


class MissingBenchmark(ChildError):  # noqa: N818 - an answer, not a fault
    """The benchmark does not exist on that side."""


def child_arguments(arguments: Sequence[str], positionals: Sequence[str]) -> list[str]:
    """Return the arguments that a further process keeps: those that shape how a test runs.

    `-k fast -x -n 4 -p no:randomly --db=x bench/` becomes `-p no:randomly --db=x`. What is
    not known is kept: the project's own options may matter to the benchmark.
    """
    left = list(positionals)
    kept: list[str] = []
    index = 0
    while index < len(arguments):
        word = arguments[index]
        name, equals, _value = word.partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else None
        index += 1
        if word in left:
            left.remove(word)
        elif word == "--" or name in _DROPPED_ALONE:
            continue
        elif name in _DROPPED_WITH_VALUE:
            index += not equals
        elif _is_short_dropped(word):
            continue
        elif name.startswith(_DROPPED_STARTS):
            takes_next = following is not None and not following.startswith("-")
            if not equals and takes_next and following not in left:
                index += 1
        else:
            kept.append(word)
    return kept


def _is_short_dropped(word: str) -> bool:
    """Tell `-n4` and `-kname` (value joined to a short option)."""
    return len(word) > 2 and word[:2] in {"-n", "-k", "-m"} and not word.startswith("--")  # noqa: PLR2004


def command(invocation: Invocation, benchmark: str, file: Path, tree: Tree | None) -> list[str]:
    """Return the command of one further process of a benchmark, `file` being its test's."""

    def there(path: str) -> str:
        return str(tree.map(Path(path))) if tree else path

    selected = benchmark.partition("::")[2]
    node = there(str(file)) + ("::" + selected if selected else "")
    python = tree.python if tree and tree.python else sys.executable
    words = [python, "-m", "pytest", f"--rootdir={there(invocation.root)}"]
    kept = child_arguments(invocation.arguments, invocation.positionals)
    configured = any(word == "-c" or word.startswith("--config-file") for word in kept)
    if invocation.ini and not configured:
        words += ["-c", there(invocation.ini)]
    # addopts came with the arguments, filtered like them.
    words += ["-o", "addopts=", *kept, *invocation.extra, "--color=no", "--flame", node]
    return words


def _has_cache(words: Sequence[str]) -> bool:
    """Tell whether pytest keeps a cache: without the plugin the option is unknown to it.

    The last `-p` that names the plugin counts.
    """
    named = [
        value
        for word, following in pairwise((*words, ""))
        for value in (following if word == "-p" else word.removeprefix("-p"),)
        if word.startswith("-p") and value in {"cacheprovider", "no:cacheprovider"}
    ]
    return not named or named[-1] == "cacheprovider"


def environment(tree: Tree | None, exchange: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a further process; `given` is this process's."""
    variables = {
        name: value
        for name, value in given.items()
        if name not in {"PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_TESTRUNUID"}
        and not name.startswith(("COV_CORE_", "COVERAGE_PROCESS"))
    }
    variables[CHILD_VARIABLE] = str(exchange)
    variables[layout.PADDING_VARIABLE] = layout.padding()
    variables.setdefault("PYTHONHASHSEED", HASH_SEED)
    if tree is not None:
        variables = base_side.Checkout(tree.folder, tree.python).environment(variables)
        mapped = [str(tree.map(each)) for each in import_roots(tree.project)]
        before = variables.get("PYTHONPATH", "")
        elsewhere = [each for each in before.split(os.pathsep) if each]
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*mapped, *elsewhere]))
    return variables


def import_roots(project: Path) -> list[Path]:
    """Return the folders of the project that code is imported from, first one first.

    sys.path knows most of them; an editable install by import hook only shows in the files
    of the modules that were loaded.
    """
    roots: dict[Path, None] = {}
    for entry in sys.path:
        path = Path(entry).absolute() if entry else Path.cwd()
        if _of_project(path, project):
            roots[path] = None
    for name, module in list(sys.modules.items()):
        file = (getattr(module, "__dict__", None) or {}).get("__file__")
        if not isinstance(file, str) or name == "__main__" or "." in name:
            continue
        path = Path(file)
        parent = path.parent.parent if path.stem == "__init__" else path.parent
        if _of_project(parent, project):
            roots[parent] = None
    return list(roots)


def _of_project(path: Path, project: Path) -> bool:
    """Tell what is the project's own from the environment that lies in it (`.venv`)."""
    if not path.is_relative_to(project) or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    prefix = Path(sys.prefix)
    return prefix == project or not path.is_relative_to(prefix)


def leaked_modules(tree: Tree) -> list[str]:
    """Return the modules of this process that came from the project instead of the tree."""
    leaks = []
    for name, module in list(sys.modules.items()):
        file = (getattr(module, "__dict__", None) or {}).get("__file__")
        if not isinstance(file, str) or name == "__main__":
            continue
        path = Path(file)
        if path.is_relative_to(tree.folder) or name.partition(".")[0] == "ci_flame":
            continue
        if _of_project(path, tree.project):
            leaks.append(name)
    return sorted(leaks)


def run(
    invocation: Invocation,
    benchmark: str,
    file: Path,
    plan: RecordConfig,
    *,
    tree: Tree | None = None,
    gc_on: bool = False,
    suspects: Sequence[Frame] = (),
    timeout_s: float = 300.0,
) -> Run:
    """Record one benchmark in a process of its own and return its run.

    `suspects`: functions that it also times call by call, after all that is sampled.

    Raises ChildError with the process's last lines, MissingBenchmark where the test is not
    there; whatever ends the wait, the process and what it started are gone afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="ci-flame-") as name:
        exchange = Path(name)
        try:
            write_plan(exchange, plan, tree, gc_on=gc_on, suspects=suspects)
        except OSError as error:
            raise ChildError(
                f"{benchmark}: what a further process is told could not be written:"
                f" {(error.strerror or str(error)).lower()}",
                f"is there room in {exchange.parent}?",
            ) from None
        words = command(invocation, benchmark, file, tree)
        if _has_cache(words):
            words[-1:-1] = ["-o", f"cache_dir={exchange / 'cache'}"]
        started = tree.map(Path(invocation.folder)) if tree else Path(invocation.folder)
        where = "in the base commit" if tree else "again"
        log = exchange / "output.txt"
        with log.open("wb") as output:
            try:
                with layout.held():
                    process = subprocess.Popen(
                        words,
                        cwd=started if started.is_dir() else (tree.folder if tree else None),
                        env=environment(tree, exchange, os.environ),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        # Ctrl-C reaches this process alone, which then ends that one.
                        start_new_session=True,
                    )
            except OSError as error:
                raise ChildError(
                    f"{benchmark}: cannot start {shlex.join(words)}: {error}"
                ) from None
            code = _wait(process, benchmark, timeout_s)
        output_text = log.read_text(errors="replace")
        try:
            return _read(exchange, benchmark, code, output_text, where)
        except ChildError as error:
            if tree is not None and error.message.startswith(f"{benchmark}: run {where},"):
                error.hint = _cure_of_base(output_text, tree)
            raise


def _wait(process: "subprocess.Popen[bytes]", benchmark: str, timeout_s: float) -> int:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise ChildError(
            f"{benchmark}: a further process did not end within {timeout_s:.0f} s",
            "a benchmark is called many times in there; one call, set-up and all, must be shorter",
        ) from None
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process's group: asked first, so that it can stop its collector."""
    for number, patience_s in ((signal.SIGINT, 5.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(patience_s)
    with suppress(OSError):
        # What the benchmark left running would take its CPU from the next one.
        os.killpg(process.pid, signal.SIGKILL)


def _read(exchange: Path, benchmark: str, code: int, output: str, where: str) -> Run:
    run_folder = exchange / "run"
    missing = code == _NOTHING_COLLECTED or (code == _NOT_FOUND and "not found:" in output)
    if missing and not run_folder.exists():
        raise MissingBenchmark(f"{benchmark} was not found {where}")
    leaks = exchange / "leaks.json"
    if leaks.exists():
        names = json.loads(leaks.read_text(encoding="utf-8"))
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
        raise ChildError(
            f"{benchmark}: the base commit's process loaded {shown} from the changed tree",
            "install the project editable with a plain path, or add its source folder to"
            " `pythonpath` in pytest's configuration",
        )
    if code != 0 or not run_folder.exists():
        full = os.strerror(errno.ENOSPC).lower() in output.lower()
        ended = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        raise ChildError(
            f"{benchmark}: run {where}, it ended with {ended}\n{_tail(output)}",
            f"is there room in {exchange.parent}?"
            if full
            else "a benchmark must pass when it runs alone: pytest " + shlex.quote(benchmark),
        )
    try:
        return folder.load(run_folder)
    except CiFlameError as error:
        raise ChildError(f"{benchmark}: a further process wrote no run: {error.message}") from None


def _cure_of_base(output: str, tree: Tree) -> str:
    """Return what helps a benchmark that fails beside the base commit."""
    missing = base_side.lacking(output, tree.project, tree.folder)
    if missing:
        return (
            f"git does not hold {base_side.listed(missing)}, so the base commit is without:"
            " add it, or let baseline: {setup: COMMAND} make it"
        )
    return (
        "it must run at the base commit: baseline: {setup: COMMAND} prepares its checkout,"
        " in an environment of its own"
    )


def _tail(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:])


# -- the other end --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What a further process is told."""

    exchange: Path
    record: RecordConfig
    gc_on: bool
    tree: Tree | None
    suspects: tuple[Frame, ...] = ()


def write_plan(
    exchange: Path,
    plan: RecordConfig,
    tree: Tree | None,
    *,
    gc_on: bool,
    suspects: Sequence[Frame] = (),
) -> None:
    """Write what the process that gets `exchange` has to do."""
    told = {
        "collector": plan.collector,
        "frequency_hz": plan.frequency_hz,
        "seconds": plan.seconds,
        "round_ms": plan.round_ms,
        "modes": [mode.value for mode in plan.modes],
        "busy": plan.busy,
        "machine": plan.machine,
        "scripts": [asdict(script) for script in plan.scripts],
        "counts": plan.counts,
        "gc_on": gc_on,
        "suspects": [[each.function, each.module, each.kind] for each in suspects],
        "project": str(tree.project) if tree else "",
        "tree": str(tree.folder) if tree else "",
    }
    (exchange / "plan.json").write_text(json.dumps(told), encoding="utf-8")


def read_plan(given: Mapping[str, str]) -> ChildPlan | None:
    """Return the plan if this is a further process; `given` is the environment."""
    name = given.get(CHILD_VARIABLE)
    if not name:
        return None
    exchange = Path(name)
    told = json.loads((exchange / "plan.json").read_text(encoding="utf-8"))
    record = RecordConfig(
        collector=told["collector"],
        frequency_hz=told["frequency_hz"],
        processes=1,
        seconds=told["seconds"],
        round_ms=told["round_ms"],
        modes=tuple(map(Mode, told["modes"])),
        busy=told["busy"],
        machine=told["machine"],
        counts=told["counts"],
        scripts=tuple(
            Script(**{**each, "arguments": tuple(each["arguments"])}) for each in told["scripts"]
        ),
    )
    tree = Tree(Path(told["project"]), Path(told["tree"])) if told["tree"] else None
    suspects = tuple(Frame(name, module, Kind(kind)) for name, module, kind in told["suspects"])
    return ChildPlan(exchange, record, told["gc_on"], tree, suspects)


def write_leaks(exchange: Path, names: Iterable[str]) -> None:
    """Report modules that came from the wrong tree."""
    (exchange / "leaks.json").write_text(json.dumps(sorted(names)), encoding="utf-8")


def joined(earlier: Measurement | None, later: Measurement) -> Measurement:
    """Return two recordings of the same code and benchmark as one."""
    if earlier is None:
        return later
    return replace(
        earlier,
        processes=earlier.processes + later.processes,
        root=earlier.root or later.root,
        places={**later.places, **earlier.places},
    )
