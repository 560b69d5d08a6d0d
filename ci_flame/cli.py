"""Edge: the command line: parse, call the pipeline, print, exit.

Exit codes: 0 pass or warn, 1 a hot path grew, 2 usage, 3 could not record (or keep what was)
or the command failed, 4 a required baseline is missing, 5 inconclusive where the policy fails
on it, 130 interrupted.
"""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import ci_flame
from ci_flame.errors import CiFlameError, CollectError, InterruptedRunError, UsageError

if TYPE_CHECKING:
    from ci_flame.config import Config
    from ci_flame.profile import Measurement, Run
    from ci_flame.verdict import Outcome, Verdict

_COMMAND_SETTINGS: Final = {"allow_interspersed_args": False}
"""Options behind the first word of COMMAND are its own, with or without `--`."""
_DEFAULT_REPORT: Final = ".ci-flame/report"
_FORMATS: Final = ("folded", "pprof")
_MAX_NAME: Final = 200


def main() -> NoReturn:
    """Run the command line; every error is one line and its cure, never a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        # Not cli.main(): it ends with 1 on a broken pipe, which here means that a path grew.
        with cli.make_context("ci-flame", sys.argv[1:]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except KeyboardInterrupt:
        code = _say(InterruptedRunError("interrupted"))
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CiFlameError as error:
        code = _say(error)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); the interpreter would say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except (OSError, MemoryError) as error:
        code = _say(CollectError(f"the system refused: {error or type(error).__name__}"))
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(_number: int, _frame: object) -> NoReturn:
    """Unwind as after Ctrl-C: worktrees and collectors are put away on the way."""
    raise InterruptedRunError("terminated")


def _say(error: CiFlameError) -> int:
    click.echo(f"ci-flame: {error}", err=True)
    return error.exit_code


def _recording(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that records."""
    options = (
        click.option("--policy", metavar="FILE", help="Policy file; default: ci-flame.yml above."),
        click.option("--name", help="Name of the benchmark; default: the command itself."),
        click.option("--repeat", metavar="N", help="Processes per benchmark; default 5."),
        click.option("--collector", help="auto, ebpf, perf or replay; default auto."),
        click.option("--frequency", metavar="HZ", help="Samples per second; default 1999."),
        click.option("--replay", metavar="DIR", help="Use this recorded run instead of recording."),
        click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ci_flame.__version__, prog_name="ci-flame")
def cli() -> None:
    """Profile benchmarks and fail the build when a hot path grew."""


# -- recording ------------------------------------------------------------------------


@cli.command(context_settings=_COMMAND_SETTINGS)
@click.option("-o", "--out", metavar="DIR", help="Run folder; default .ci-flame/run.")
@_recording
def record(
    *,
    out: str | None,
    policy: str | None,
    name: str | None,
    repeat: str | None,
    collector: str | None,
    frequency: str | None,
    replay: str | None,
    command: tuple[str, ...],
) -> int:
    """Record COMMAND and its children as one benchmark."""
    from ci_flame import pipeline

    config = _config(
        policy,
        out=out,
        processes=repeat,
        collector=collector,
        frequency=frequency,
        replay=replay,
    )
    run = pipeline.record_command(config, _name(name, command), command, config.record.processes)
    pipeline.save_run(run, config.out)
    click.echo(f"ci-flame: {_account(run.measurements[0])}; {config.out}", err=True)
    if not run.complete:
        raise InterruptedRunError("interrupted; the run is marked incomplete")
    return 0


@cli.command(context_settings=_COMMAND_SETTINGS)
@click.option("--baseline", metavar="SPEC", help="folder:DIR, git:REV[:PATH], rerun:REV, none.")
@click.option("-o", "--out", metavar="DIR", help=f"Report folder; default {_DEFAULT_REPORT}.")
@click.option("--run", "run_folder", metavar="DIR", help="Run folder; default .ci-flame/run.")
@click.option(
    "--pytest/--no-pytest",
    "as_pytest",
    default=None,
    help="Treat COMMAND as one that runs pytest (tox, make test) or as one that does not.",
)
@click.option("--seconds", metavar="S", help="pytest: seconds per benchmark and process.")
@click.option("--summary", metavar="FILE", help="Append the Markdown summary to this file.")
@click.option(
    "--github-output", metavar="FILE", help="Append outcome, exit-code and report to this file."
)
@click.option("--exit-zero", is_flag=True, help="End with 0 whatever the verdict; see gate.")
@_recording
def check(
    *,
    baseline: str | None,
    out: str | None,
    run_folder: str | None,
    as_pytest: bool | None,
    seconds: str | None,
    summary: str | None,
    github_output: str | None,
    exit_zero: bool,
    policy: str | None,
    name: str | None,
    repeat: str | None,
    collector: str | None,
    frequency: str | None,
    replay: str | None,
    command: tuple[str, ...],
) -> int:
    """Record COMMAND, compare it with a baseline, and fail when a hot path grew.

    A pytest command is run with --flame: its benchmarks are recorded and judged one by one.
    Any other command is one benchmark.
    """
    from ci_flame import pipeline, pytest_command

    config = _config(
        policy,
        baseline=baseline,
        out=run_folder,
        report=out,
        processes=repeat,
        seconds=seconds,
        collector=collector,
        frequency=frequency,
        replay=replay,
    )
    outcome: Outcome | None = None
    try:
        if as_pytest is None:
            as_pytest = pytest_command.is_pytest(command)
        if as_pytest:
            code, outcome = pipeline.check_pytest(config, command)
        else:
            repetitions = config.record.processes
            verdict = pipeline.check_command(config, _name(name, command), command, repetitions)
            _print(verdict)
            outcome = verdict.outcome
            code = pipeline.stored_exit_code(config.report)
    except CiFlameError as error:
        _publish(config.report, None, error.exit_code, None, github_output)
        raise
    click.echo(f"ci-flame: {outcome.value}; {config.report / 'report.html'}", err=True)
    _publish(config.report, outcome, code, summary, github_output)
    return 0 if exit_zero else code


@cli.command()
@click.argument("before")
@click.argument("after")
@click.option("--policy", metavar="FILE", help="Policy file; default: ci-flame.yml above.")
@click.option("-o", "--out", metavar="DIR", help=f"Report folder; default {_DEFAULT_REPORT}.")
def compare(before: str, after: str, policy: str | None, out: str | None) -> int:
    """Compare two recorded runs; BEFORE may also be git:REV[:PATH]."""
    from ci_flame import pipeline
    from ci_flame.baseline import folder
    from ci_flame.config import parse_baseline

    config = _config(policy, report=out)
    found = pipeline.load_baseline(parse_baseline(before), Path.cwd())
    later = folder.load(Path(after), incomplete_ok=True)
    if found.run is None:
        raise UsageError(f"BEFORE {before}: {found.told}", "give a run folder")
    verdict = pipeline.compare(found.run, later, config.policy)
    pipeline.write_report(verdict, found.run, later, config, config.report)
    _print(verdict)
    click.echo(f"ci-flame: {verdict.outcome.value}; {config.report / 'report.html'}", err=True)
    return pipeline.exit_code(verdict.outcome, config.policy)


# -- afterwards -----------------------------------------------------------------------


@cli.command()
@click.argument("folder", metavar="REPORT")
@click.option("--policy", metavar="FILE", help="Judge by this policy instead of the stored one.")
def explain(folder: str, policy: str | None) -> int:
    """Judge again what is in a report folder, and say how it was decided.

    Ends with 0 whatever the verdict: `gate` is the one that fails.
    """
    from ci_flame import pipeline, report_folder
    from ci_flame.config.terms import Terms

    place = Path(folder)
    stored = report_folder.outcome(place)
    report = report_folder.load(place)
    terms = report.terms
    if policy is not None:
        terms = Terms(_config(policy).policy, family=terms.family, note=terms.note)
    verdict = pipeline.judge_runs(report.before, report.after, terms)
    _print(verdict)
    for rule in terms.policy.rules:
        click.echo(_rule_line(rule))
    for benchmark, own in sorted(terms.benchmarks.items()):
        for rule in own.rules:
            click.echo(f"{benchmark}: {_rule_line(rule)}")
    again = verdict.outcome.value
    same = "the same" if verdict.outcome is stored else f"the report says {stored.value}"
    click.echo(f"judged again: {again} ({same})")
    return 0


def _rule_line(rule: Any) -> str:  # noqa: ANN401 - policy.Rule, imported only when needed
    limits = [f"max_growth {rule.max_growth}"] if rule.max_growth else []
    limits += [f"budget {rule.budget}"] if rule.budget else []
    own = ", own cost" if rule.self_only else ""
    return (
        f"rule {rule.place or 'default'}: {' '.join(rule.frames)}{own}: {', '.join(limits)},"
        f" min_impact {rule.min_impact:.2%}, certainty {rule.certainty:.0%}, {rule.severity.value}"
    )


@cli.command()
@click.argument("folder", metavar="REPORT")
def gate(folder: str) -> int:
    """End with the exit code of a stored verdict: the last step of a job."""
    from ci_flame import pipeline, report_folder

    outcome = report_folder.outcome(Path(folder))
    code = pipeline.stored_exit_code(Path(folder))
    click.echo(f"ci-flame: {outcome.value}", err=True)
    return code


@cli.command()
@click.argument("folder", metavar="RUN|REPORT")
@click.option("-o", "--out", metavar="FILE", help="Page to write; default: report.html inside.")
def report(folder: str, out: str | None) -> int:
    """Write the page of a run (plain flame graphs) or of a report (with its verdict)."""
    from ci_flame import pipeline, report_folder
    from ci_flame.baseline import folder as run_folder
    from ci_flame.report import REPORTERS, plain

    place = Path(folder)
    if report_folder.is_report(place):
        text = REPORTERS["html"](pipeline.explain(place))
    else:
        text = plain.render(run_folder.load(place, incomplete_ok=True))
    page = Path(out) if out else place / "report.html"
    _write(page, text.encode("utf-8", "backslashreplace"))
    click.echo(f"ci-flame: {page}", err=True)
    return 0


@cli.command()
@click.argument("folder", metavar="RUN")
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True)
@click.option("--benchmark", metavar="ID", help="Needed where the run holds several.")
@click.option("-o", "--out", metavar="FILE", help="File to write; default: standard output.")
def export(folder: str, form: str, benchmark: str | None, out: str | None) -> int:
    """Write one benchmark as folded stacks or as a gzipped pprof profile."""
    from ci_flame.baseline import folder as run_folder
    from ci_flame.formats import folded, pprof
    from ci_flame.profile import Mode

    run = run_folder.load(Path(folder), incomplete_ok=True)
    measurement = _benchmark(run, benchmark)
    mode = measurement.modes[0] if measurement.modes else Mode.ON_CPU
    if form == "folded":
        data = folded.write(measurement.profile(mode)).encode("utf-8", "surrogateescape")
    else:
        data = pprof.write(measurement, mode)
    if out is not None:
        _write(Path(out), data)
        return 0
    stream = sys.stdout.buffer
    if form == "pprof" and stream.isatty():
        raise UsageError("a pprof profile is not for a terminal", "add -o FILE.pb.gz")
    stream.write(data)
    stream.flush()
    return 0


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(*, as_json: bool) -> int:
    """Say what can be recorded here, what stops the rest, and the cure.

    Ends with 0 if Python benchmarks can be recorded, else with 3.
    """
    from ci_flame.collect import choose, machine
    from ci_flame.record import layout

    found = machine.probe()
    rows = (*machine.doctor(found), layout.row())
    try:
        choose(found, python=True)
    except CiFlameError:
        code = CollectError.exit_code
    else:
        code = 0
    if as_json:
        import json

        rows_of = [{"what": what, "found": seen, "cure": cure} for what, seen, cure in rows]
        click.echo(json.dumps({"usable": code == 0, "rows": rows_of}, indent=1))
        return code
    width = max(len(what) for what, _, _ in rows)
    for what, seen, cure in rows:
        click.echo(f"{what:<{width}}  {seen}")
        if cure:
            click.echo(f"{'':<{width}}  cure: {cure}")
    return code


# -- pieces ---------------------------------------------------------------------------


def _config(policy: str | None, **flags: object) -> "Config":
    from ci_flame.config import build

    names = {"processes": "repeat"}
    try:
        return build(policy_file=policy, start=Path.cwd(), flags=flags)
    except UsageError as error:
        for key, shown in names.items():
            error.message = error.message.replace(f"--{key}", f"--{shown}")
        raise


def _name(name: str | None, command: tuple[str, ...]) -> str:
    """Return the benchmark's id: `--name`, or the command on one line."""
    chosen = " ".join(command)[:_MAX_NAME] if name is None else name
    if not chosen.strip() or not chosen.isprintable():
        raise UsageError(f"{chosen!r} is not a name", "give --name one line of text")
    return chosen


def _account(measurement: "Measurement") -> str:
    processes = measurement.processes
    cpu_s = sum(each.cpu_ns for process in processes for each in process.rounds) / 1e9
    kept = sum(process.kept for process in processes)
    lost = sum(process.lost for process in processes)
    return (
        f"{measurement.benchmark}: {len(processes)} repetition{'s' * (len(processes) != 1)},"
        f" {cpu_s:.2f} s of CPU time, {kept} samples, {lost} lost"
    )


def _benchmark(run: "Run", wanted: str | None) -> "Measurement":
    from ci_flame.config.yaml_tree import nearest

    names = [each.benchmark for each in run.measurements]
    if wanted is None and len(names) == 1:
        return run.measurements[0]
    measurement = run.measurement(wanted) if wanted is not None else None
    if measurement is None:
        asked = "several benchmarks" if wanted is None else f"no benchmark {wanted}"
        guess = nearest(wanted, names) if wanted is not None else ""
        raise UsageError(
            f"the run holds {asked if names else 'no benchmark'}{guess}",
            "--benchmark takes one of: " + ", ".join(names[:20]) if names else "record one",
        )
    return measurement


def _print(verdict: "Verdict") -> None:
    from shutil import get_terminal_size

    from ci_flame.report import terminal

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    click.echo(terminal.render(verdict, get_terminal_size((100, 24)).columns, colour=colour))


def _publish(
    folder: Path, outcome: "Outcome | None", code: int, summary: str | None, output: str | None
) -> None:
    """Append the summary and the outputs to the files that a CI job collects them in."""
    if summary is not None:
        _append(Path(summary), (folder / "summary.md").read_bytes())
    if output is not None:
        told = outcome.value if outcome is not None else "error"
        lines = f"outcome={told}\nexit-code={code}\nreport={folder if outcome else ''}\n"
        _append(Path(output), lines.encode("utf-8", "backslashreplace"))


def _append(path: Path, data: bytes) -> None:
    try:
        with path.open("ab") as stream:
            stream.write(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it; UsageError where that fails.

    Where a link leads is replaced, not the link. A device or a pipe is written into: `-o
    /dev/null` must not put a file in its place.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        place = Path(os.path.realpath(path))
        scratch = place.with_name(f".{place.name}.tmp-{os.getpid()}")
        try:
            scratch.write_bytes(data)
            scratch.replace(place)
        finally:
            with suppress(OSError):
                scratch.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
