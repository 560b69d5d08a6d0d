"""Edge: a pytest session that records: which tests, when, and what pytest shows of it.

Registered by `pytest_plugin` when `--flame` is given. Four kinds of process run this:
an ordinary one; a further process of one benchmark (`CI_FLAME_CHILD`); a worker of
pytest-xdist, which judges its own items; and xdist's controller, which merges and reports.
"""

import os
import shlex
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import pytest

from ci_flame import pipeline
from ci_flame.baseline import folder
from ci_flame.collect.bpftrace import scripts as bpftrace_scripts
from ci_flame.config import BaselineKind, BaselineSpec, Config, build
from ci_flame.errors import CiFlameError
from ci_flame.profile import BIASES
from ci_flame.pytest_plugin import Flame, Plain, before_side
from ci_flame.pytest_plugin.before_side import SELF_TEST_VARIABLE
from ci_flame.pytest_plugin.item import FIXTURES, ItemBenchmark, is_benchmark, marker_keywords
from ci_flame.pytest_plugin.parts import save_child
from ci_flame.pytest_plugin.suite import Suite
from ci_flame.pytest_plugin.values import Before, Selected, fails, sentences
from ci_flame.record import layout, processes
from ci_flame.record.processes import ChildPlan, Invocation
from ci_flame.record.recorder import Recorder

if TYPE_CHECKING:
    from ci_flame.verdict import Verdict

WORKER_KEY: Final = "ci_flame"
_FLAGS: Final = (
    "out", "report", "baseline", "collector", "frequency", "processes", "seconds", "replay",
    "mode", "keep", "anchor", "setup", "changed_since",
    "max_seconds", "event", "call_graph",
)  # fmt: skip


class Session:
    """The recording of one pytest process."""

    def __init__(
        self,
        suite: Suite,
        invocation: Invocation,
        *,
        root: Path,
        child: ChildPlan | None,
        worker: bool,
        closing: ExitStack,
    ) -> None:
        self.suite = suite
        self._invocation = invocation
        self._root = root
        self._child = child
        self._worker = worker
        self._closing = closing
        self._items: dict[pytest.Item, ItemBenchmark] = {}
        self._selected: dict[str, Selected] = {}
        self._files: set[str] = set()
        self._deselected: set[str] = set()
        self._parts: Path | None = None
        self._heap = layout.stir() if child else []
        self._verdict: Verdict | None = None
        self._complete = True
        self._unused: list[str] = []
        self._trouble = ""
        self._whole = ""
        """Why the session fails though no benchmark of it does."""
        self._cut_off = ""
        """The benchmark that was being recorded when the session was stopped."""
        self._stopped = False
        """Ctrl-C, SIGTERM or `pytest.exit` ended the session."""

    @classmethod
    def from_config(cls, config: pytest.Config) -> Self:
        """Read the options; pytest.UsageError (exit code 4) for whatever does not fit."""
        closing = ExitStack()
        try:
            return cls._build(config, closing)
        except CiFlameError as error:
            closing.close()
            raise pytest.UsageError(f"ci-flame: {error}") from None
        except BaseException:
            closing.close()
            raise

    @classmethod
    def _build(cls, config: pytest.Config, closing: ExitStack) -> Self:
        given = getattr(config, "workerinput", {}).get(WORKER_KEY)
        child = processes.read_plan(os.environ)
        if child is not None:
            settings = Config(record=child.record, baseline=BaselineSpec(BaselineKind.NONE))
        else:
            if not given:
                closing.enter_context(_ended_by_sigterm())
            settings = _settings(config)
            if given:
                settings = replace(settings, baseline=_spec(given["baseline"]))
        replayed = settings.record.collector == "replay"
        project = before_side.project(config.rootpath)
        recorder = None if replayed else Recorder(settings.record, project)
        if recorder is not None:
            closing.callback(recorder.close)
            if not given and child is None:
                # Said now, not at the first benchmark or after the last.
                _ = recorder.collector
                bpftrace_scripts.check(settings.record.scripts, os.getpid())
                folder.check_writable(settings.out)
        found = before_side.find
        before = Before() if child else found(settings, config.rootpath, recorder, closing)
        invocation = Invocation(**given["invocation"]) if given else _invocation(config)
        parts = Path(given["parts"]) if given else None
        suite = Suite(settings, before, invocation, recorder, start=config.rootpath, parts=parts)
        return cls(
            suite,
            invocation,
            root=config.rootpath,
            child=child,
            worker=bool(given),
            closing=closing,
        )

    # -- xdist ------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - xdist's, untyped
        """Tell a worker how pytest was started and where to leave what it recorded."""
        if self._parts is None:
            out = self.suite.config.out
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                name = tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent)
            except OSError as error:
                raise pytest.UsageError(
                    f"ci-flame: cannot write to {out.parent}: {error}"
                ) from None
            self._parts = Path(name).resolve()
        tree = self.suite.before.tree
        spec = f"tree:{tree.folder}" if tree else str(self.suite.config.baseline)
        node.workerinput[WORKER_KEY] = {
            "parts": str(self._parts),
            "invocation": asdict(self._invocation),
            "baseline": spec,
        }

    # -- what will happen ---------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        """Say how benchmarks will be recorded and what they are compared with."""
        record = self.suite.config.record
        if self.suite.recorder is None:
            first = f"ci-flame: replays {record.replay}"
        else:
            noun = "process" if record.processes == 1 else "processes"
            first = (
                f"ci-flame: {self.suite.recorder.collector.name} at {record.frequency_hz} Hz,"
                f" {record.processes} {noun} of {record.seconds:g} s per benchmark"
            )
        told = self.suite.before.told
        notes = (each.text for each in self.suite.before.notes if each.text != told)
        lines = [first, *(f"ci-flame: {line}" for line in (told, *notes))]
        if self.suite.recorder is not None:
            bias = BIASES.get(self.suite.recorder.collector.name, "")
            lines[1:1] = [f"ci-flame: {bias}"] if bias else []
        return lines

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Remember what was left out: it is not gone."""
        self._deselected.update(item.nodeid for item in items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Find the benchmarks that are left after all selection; refuse two with one id."""
        items = session.items
        for item in items:
            if not is_benchmark(item):
                continue
            if item.nodeid in self._selected:
                raise pytest.UsageError(
                    f"ci-flame: two benchmarks with the id {item.nodeid}:"
                    " give their parameters different ids, or leave out --keep-duplicates"
                )
            try:
                selected = Selected(item.nodeid, item.path, marker_keywords(item))
                selected.plan(self.suite.config.record)
                pipeline_policy(self.suite.config, selected)
            except CiFlameError as error:
                raise pytest.UsageError(f"ci-flame: {error}") from None
            self._selected[item.nodeid] = selected
        self._files = {item.nodeid.partition("::")[0] for item in items}
        # Each mode of a benchmark is judged: the build's false failures are shared by all.
        self.suite.family = max(1, len(self._selected) * len(self.suite.config.record.modes))

    def pytest_report_collectionfinish(self) -> list[str]:
        """Say how long it will take."""
        count = len(self._selected)
        if self.suite.recorder is None or self._child is not None or not count:
            return []
        plans = [each.plan(self.suite.config.record) for each in self._selected.values()]
        seconds = self.suite.expected_s(plans)
        noun = "benchmark" if count == 1 else "benchmarks"
        return [f"ci-flame: {count} {noun}, about {_duration(seconds)} in all"]

    # -- one test -----------------------------------------------------------------------

    def flame_of(self, item: pytest.Item) -> Flame:
        """Return the fixture of one test."""
        benchmark = self._item(item)
        return cast("Flame", benchmark) if benchmark else Plain()

    def _item(self, item: pytest.Item) -> ItemBenchmark | None:
        if item.nodeid not in self._selected or not isinstance(item, pytest.Function):
            return None
        if item not in self._items:
            selected = self._selected[item.nodeid]
            plan = self._child.record if self._child else selected.plan(self.suite.config.record)
            self._items[item] = ItemBenchmark(
                item,
                # Here the test runs once, like any test; what is measured are further
                # processes, all started alike: same hash seed, same place in memory.
                self.suite.recorder if self._child else None,
                plan,
                gc_on=self._child.gc_on if self._child else selected.gc_on,
                suspects=self._child.suspects if self._child else (),
            )
        return self._items[item]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test, then record its further processes and judge; in one of them, drive it."""
        benchmark = self._prepared(item)
        if benchmark is None:
            return (yield)
        function = benchmark.item.obj
        benchmark.item.obj = benchmark.wrap(function)
        benchmark.adopt_pytest_benchmark()
        with self.suite.alone():
            try:
                returned = yield
                self._conclude(benchmark)
            except (KeyboardInterrupt, pytest.exit.Exception):
                self._cut_off = item.nodeid
                raise
            except CiFlameError as error:
                # Without `from None` pytest shows the error, too, as what this one followed.
                raise pytest.fail.Exception(f"ci-flame: {error}", pytrace=False) from None
            finally:
                benchmark.item.obj = function
                self._items.pop(item, None)
        return returned

    def _prepared(self, item: pytest.Item) -> ItemBenchmark | None:
        try:
            return self._item(item)
        except CiFlameError as error:
            raise pytest.fail.Exception(f"ci-flame: {error}", pytrace=False) from None

    def _conclude(self, benchmark: ItemBenchmark) -> None:
        item = benchmark.item
        selected = self._selected[item.nodeid]
        if not benchmark.used:
            names = [name for name in FIXTURES if name in item.fixturenames]
            self._unused.append(f"{item.nodeid} did not use its fixture {' and '.join(names)}")
            return
        if self._child is not None:
            if benchmark.recorded is not None and self.suite.recorder is not None:
                recorder = self.suite.recorder
                save_child(benchmark.recorded, item.nodeid, recorder, self._child.exchange)
            if self._child.tree is not None:
                leaks = processes.leaked_modules(self._child.tree)
                if leaks:
                    processes.write_leaks(self._child.exchange, leaks)
            return
        verdicts = self.suite.conclude(selected)
        from ci_flame.report import terminal  # noqa: PLC0415 - further processes do not need it

        shown = terminal.without_repeats(verdicts)
        text = "\n".join(line for each in shown for line in terminal.benchmark_lines(each))
        item.add_report_section("call", "ci-flame", text)
        if fails(verdicts, self.suite.config.policy):
            pytest.fail(sentences(verdicts), pytrace=False)

    # -- the end ------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remember it; errors of collection end the session the same way."""
        self._stopped = not isinstance(excinfo.value, pytest.Session.Interrupted)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Save the run, judge the whole, write the report."""
        try:
            if self._worker or self._child is not None:
                return
            if self._parts is not None:
                self.suite.gather(self._parts)
            if not self.suite.judged:
                return
            self._complete = not self._was_cut(session, exitstatus)
            after = self.suite.run(complete=self._complete, start=self._root)
            before = self.suite.run_before()
            self._verdict = self.suite.verdict(after, before, self._removed(session.config))
            self.suite.write(after, before, self._verdict)
            if session.exitstatus == pytest.ExitCode.OK:
                self._fail_as_a_whole(session, self._verdict)
        except CiFlameError as error:
            self._trouble = f"ci-flame: {error}"
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        finally:
            self._closing.close()
            if self._parts is not None:
                shutil.rmtree(self._parts, ignore_errors=True)

    def _fail_as_a_whole(self, session: pytest.Session, verdict: "Verdict") -> None:
        """End with 1 where the policy fails the build though no benchmark of it failed."""
        policy, asked = verdict.policy, self.suite.config.baseline.kind
        if SELF_TEST_VARIABLE in os.environ:
            return
        from ci_flame.verdict.absent import is_compared  # noqa: PLC0415 - as above

        compared = is_compared(verdict.benchmarks)
        code = pipeline.exit_code(verdict.outcome, policy, compared=compared)
        if code == pipeline.INCONCLUSIVE:
            why = "the build as a whole is INCONCLUSIVE, and the policy says inconclusive: fail"
        elif code == pipeline.NO_BASELINE and asked is not BaselineKind.NONE:
            why = (
                "no benchmark has anything to be compared with, and the policy requires a baseline"
            )
        else:
            return
        self._whole = f"ci-flame: {why}"
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _was_cut(self, session: pytest.Session, exitstatus: int) -> bool:
        """Tell whether the session ended before all its benchmarks: Ctrl-C, `-x`, `pytest.exit`."""
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            return True
        ended = exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        if ended and not session.shouldfail and not session.shouldstop:
            return False
        return not self._selected.keys() <= self.suite.judged.keys()

    def pytest_unconfigure(self) -> None:
        """End the collector and the worktree, however the session ended."""
        self._closing.close()

    def _removed(self, config: pytest.Config) -> set[str]:
        """Return the baseline's benchmarks that a test file of this session no longer has."""
        stored = self.suite.before.run
        if stored is None or any("::" in word for word in config.args):
            return set()
        seen = set(self._selected) | self._deselected | set(self.suite.judged)
        return {
            each.benchmark
            for each in stored.measurements
            if each.benchmark not in seen and each.benchmark.partition("::")[0] in self._files
        }

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show every benchmark: what changed, what was too small to see, where the report is."""
        stopped = self._not_recorded() if self._stopped else []
        if self._verdict is None and not self._unused and not self._trouble and not stopped:
            return
        terminalreporter.section("ci-flame")
        if self._verdict is not None:
            from ci_flame.report import terminal  # noqa: PLC0415

            width = terminalreporter._tw.fullwidth  # noqa: SLF001 - pytest's own plugins do so
            colour = terminalreporter._tw.hasmarkup  # noqa: SLF001
            terminalreporter.write(terminal.render(self._verdict, width, colour=colour))
            if not self._trouble:
                report = self.suite.config.report / "report.html"
                terminalreporter.write_line(f"report: {report}")
                marked = "" if self._complete else " (cut short: marked incomplete, no baseline)"
                terminalreporter.write_line(f"run:    {self.suite.config.out}{marked}")
        for line in stopped:
            terminalreporter.write_line(line, yellow=True)
        for line in self._unused:
            terminalreporter.write_line(f"note: {line}")
        for line in filter(None, (self._whole, self._trouble)):
            terminalreporter.write_line(line, red=True)

    def _not_recorded(self) -> list[str]:
        """Return what became of what an interruption cut off; nothing where it was no benchmark."""
        if self._child is not None or self._worker or not self._selected:
            return []
        done, wanted = len(self.suite.judged), len(self._selected)
        if done == wanted:
            return []
        during = f" while {self._cut_off} was recorded" if self._cut_off else ""
        if done:
            return [f"interrupted{during}: the run holds {done} of {wanted} benchmarks"]
        out = self.suite.config.out
        kept = f"; {out} is that of an earlier session" if out.exists() else ""
        return [f"ci-flame: interrupted{during}: no benchmark was complete, nothing was kept{kept}"]


def pipeline_policy(config: Config, selected: Selected) -> None:
    """Raise UsageError where a marker says something that no rule can hold."""
    from ci_flame.config import marker_rules  # noqa: PLC0415

    marker_rules(config.policy, selected.keywords, selected.benchmark)


def _settings(config: pytest.Config) -> Config:
    flags: dict[str, object] = {name: config.getoption(f"flame_{name}") for name in _FLAGS}
    flags["until_decided"] = config.getoption("flame_until_decided") or None
    flags["quick"] = config.getoption("flame_quick") or None
    policy = config.getoption("flame_policy")
    return build(
        policy_file=policy, start=config.invocation_params.dir, flags=flags, prefix="--flame-"
    )


def _spec(text: str) -> BaselineSpec:
    from ci_flame.config import parse_baseline  # noqa: PLC0415

    return parse_baseline(text)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the session as Ctrl-C does.

    It would end pytest at once, with the worktree of the base commit and the scratch folders
    left behind.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _invocation(config: pytest.Config) -> Invocation:
    """Return how pytest was started, in plain values."""
    addopts = config.getini("addopts")
    words = [
        *(addopts if isinstance(addopts, list) else []),
        *shlex.split(os.environ.get("PYTEST_ADDOPTS", "")),
        *map(str, config.invocation_params.args),
    ]
    option: Mapping[str, Any] = vars(config.option)
    extra = []
    if config.pluginmanager.hasplugin("benchmark"):
        extra.append("--benchmark-disable")
    if option.get("randomly_seed") is not None:
        extra.append(f"--randomly-seed={option['randomly_seed']}")
    if config.pluginmanager.hasplugin("xdist"):
        extra += ["-n", "0"]
    return Invocation(
        arguments=tuple(words),
        positionals=tuple(map(str, option.get("file_or_dir") or ())),
        folder=str(config.invocation_params.dir),
        root=str(config.rootpath),
        ini=str(config.inipath or ""),
        extra=tuple(extra),
    )


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"  # noqa: PLR2004
