"""Edge: `record` and `check`: run a command under a collector."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from ci_flame.cli.pieces import (
    CHANGED_SINCE,
    DEFAULT_REPORT,
    account,
    benchmark_name,
    configure,
    duration_s,
    live_account,
    must_be_appendable,
    must_be_of_a_store,
    must_have_command,
    one_of,
    publish,
    show,
)
from ci_flame.errors import CiFlameError, InterruptedRunError, UsageError

if TYPE_CHECKING:
    from ci_flame.record.live_target import LiveTarget
    from ci_flame.verdict import Outcome

_COMMAND_SETTINGS: Final = {"allow_interspersed_args": False}
"""Options behind the first word of COMMAND are its own, with or without `--`."""
_LAST_PID: Final = 1 << 22
"""The kernel's own limit (PID_MAX_LIMIT)."""

_JITS: Final = ("none", "java", "node", "auto")


def _recording(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that records."""
    options = (
        click.option("--policy", metavar="FILE", help="Policy file; default: ci-flame.yml above."),
        click.option("--name", help="Name of the benchmark; default: the command without options."),
        click.option("--repeat", metavar="N", help="Processes per benchmark; default 5."),
        click.option(
            "--collector", help="auto (default), ebpf, bcc, perf, py-spy, bpftrace, replay."
        ),
        click.option(
            "--mode",
            metavar="MODE",
            multiple=True,
            help="on-cpu or off-cpu (waiting), repeatable; default on-cpu.",
        ),
        click.option("--frequency", metavar="HZ", help="Samples per second; default 1999."),
        click.option("--event", metavar="NAME", help="perf: cpu-clock (default), cycles, …"),
        click.option("--call-graph", metavar="HOW", help="perf: fp (default), dwarf[,BYTES]."),
        click.option(
            "--jit",
            metavar="none|java|node|auto",
            default="none",
            help="Let Java or Node tell the names of compiled functions; default none.",
        ),
        click.option("--replay", metavar="DIR", help="Use this recorded run instead of recording."),
        click.argument("command", nargs=-1, type=click.UNPROCESSED),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(context_settings=_COMMAND_SETTINGS)
@click.option("-o", "--out", metavar="DIR", help="Run folder; default .ci-flame/run.")
@click.option("--pid", metavar="PID", help="Record this process, which runs already, and its tree.")
@click.option("--cgroup", metavar="PATH", help="Record the processes of this cgroup.")
@click.option("--duration", metavar="TIME", help="With --pid or --cgroup: 30s, 2m; default 30s.")
@_recording
def record(
    *,
    out: str | None,
    pid: str | None,
    cgroup: str | None,
    duration: str | None,
    policy: str | None,
    name: str | None,
    repeat: str | None,
    collector: str | None,
    frequency: str | None,
    event: str | None,
    call_graph: str | None,
    jit: str,
    mode: tuple[str, ...],
    replay: str | None,
    command: tuple[str, ...],
) -> int:
    """Record COMMAND and its children, or processes that run already, as one benchmark."""
    from ci_flame import pipeline

    others = {"COMMAND": command or None, "--repeat": repeat, "--replay": replay}
    live = _live_words(pid, cgroup, duration, others)
    one_of("--jit", jit, _JITS)
    config = configure(
        policy,
        out=out,
        processes=repeat,
        collector=collector,
        frequency=frequency,
        mode=mode or None,
        event=event,
        call_graph=call_graph,
        replay=replay,
    )
    if live is None:
        id_ = benchmark_name(name, command)
        run = pipeline.record_command(config, id_, command, config.record.processes, jit)
        told = account(run.measurements[0])
    else:
        target, seconds = live
        id_ = benchmark_name(name or target.name, ())
        run = pipeline.record_live(config, target, id_, seconds, jit)
        told = f"{id_}: {live_account(run.measurements[0])}"
    pipeline.save_run(run, config.out)
    click.echo(f"ci-flame: {told}; {config.out}", err=True)
    if run.environment.bias:
        click.echo(f"ci-flame: {run.environment.bias}", err=True)
    if not run.complete:
        raise InterruptedRunError("interrupted; the run is marked incomplete")
    return 0


def _live_words(
    pid: str | None,
    cgroup: str | None,
    duration: str | None,
    others: Mapping[str, object],
) -> "tuple[LiveTarget, int] | None":
    """Return what runs already and for how long; None where a command is to be started."""
    from ci_flame.record import live_target

    ways = [way for way, given in (("--pid", pid), ("--cgroup", cgroup)) if given is not None]
    if not ways:
        if duration is not None:
            raise UsageError(
                "--duration is for what runs already; a command runs to its end",
                "say what runs already by --pid PID or --cgroup PATH, or leave --duration out",
            )
        must_have_command(
            others["COMMAND"], "ci-flame record -- COMMAND…, or --pid PID, or --cgroup PATH"
        )
        return None
    also = [*ways[1:], *(way for way, given in others.items() if given is not None)]
    if also:
        raise UsageError(f"{ways[0]} and {also[0]} do not go together", "give one of them")
    seconds = duration_s(duration or "30s")
    if pid is None:
        return live_target.by_cgroup(cgroup or ""), seconds
    digits = pid.lstrip("0") if pid.isascii() and pid.isdecimal() else ""
    if not 0 < len(digits) <= len(str(_LAST_PID)) or int(digits) > _LAST_PID:
        raise UsageError(f"--pid {pid[:20]!r} is not the number of a process", "pgrep -a NAME")
    return live_target.by_pid(int(digits)), seconds


@click.command(context_settings=_COMMAND_SETTINGS)
@click.option(
    "--baseline",
    metavar="SPEC",
    help="auto (default), rerun:REV, folder:DIR, store:DIR, git:REV[:PATH], tree:DIR, none.",
)
@click.option("--keep", metavar="K", help="store: builds that the verdict reads; default 10.")
@click.option("--anchor", metavar="REV", help="store: growth since this build warns, too.")
@click.option("-o", "--out", metavar="DIR", help=f"Report folder; default {DEFAULT_REPORT}.")
@click.option("--run", "run_folder", metavar="DIR", help="Run folder; default .ci-flame/run.")
@click.option(
    "--pytest/--no-pytest",
    "as_pytest",
    default=None,
    help="Treat COMMAND as one that runs pytest (tox, make test) or as one that does not.",
)
@click.option(
    "--setup", metavar="CMD", help="rerun: prepares the base commit's checkout (pip install -e .)."
)
@click.option("--changed-since", metavar="REV", help=CHANGED_SINCE)
@click.option("--seconds", metavar="S", help="pytest: seconds per benchmark and process.")
@click.option(
    "--until-decided", is_flag=True, help="Record until it clearly passes or fails: four looks."
)
@click.option("--max-seconds", metavar="S", help="Until decided: per benchmark; default 120.")
@click.option("--summary", metavar="FILE", help="Append the Markdown summary to this file.")
@click.option(
    "--github-output", metavar="FILE", help="Append outcome, exit-code and report to this file."
)
@click.option("--exit-zero", is_flag=True, help="End with 0 whatever the verdict; see gate.")
@_recording
def check(
    *,
    baseline: str | None,
    keep: str | None,
    anchor: str | None,
    out: str | None,
    run_folder: str | None,
    as_pytest: bool | None,
    setup: str | None,
    changed_since: str | None,
    seconds: str | None,
    until_decided: bool,
    max_seconds: str | None,
    summary: str | None,
    github_output: str | None,
    exit_zero: bool,
    policy: str | None,
    name: str | None,
    repeat: str | None,
    collector: str | None,
    frequency: str | None,
    event: str | None,
    call_graph: str | None,
    jit: str,
    mode: tuple[str, ...],
    replay: str | None,
    command: tuple[str, ...],
) -> int:
    """Record COMMAND, compare it with a baseline, and fail when a hot path grew.

    A pytest command is run with --flame: its benchmarks are recorded and judged one by one.
    Any other command is one benchmark.
    """
    from ci_flame import pipeline
    from ci_flame.pipeline import command_check, pytest_command

    must_have_command(command, "ci-flame check -- COMMAND…")
    one_of("--jit", jit, _JITS)
    config = configure(
        policy,
        baseline=baseline,
        keep=keep,
        anchor=anchor,
        out=run_folder,
        report=out,
        setup=setup,
        changed_since=changed_since,
        processes=repeat,
        seconds=seconds,
        until_decided=until_decided or None,
        max_seconds=max_seconds,
        collector=collector,
        frequency=frequency,
        mode=mode or None,
        event=event,
        call_graph=call_graph,
        replay=replay,
    )
    must_be_of_a_store(config, **{"--keep": keep, "--anchor": anchor})
    must_be_appendable("--summary", summary)
    must_be_appendable("--github-output", github_output)
    outcome: Outcome | None = None
    try:
        if as_pytest is None:
            as_pytest = pytest_command.is_pytest(command)
        if as_pytest:
            if jit != "none":
                raise UsageError(
                    f"--jit {jit}: pytest's benchmarks run Python",
                    "record the Java or Node command itself: ci-flame check --jit … -- COMMAND",
                )
            code, outcome = pipeline.check_pytest(config, command)
        else:
            repetitions = config.record.processes
            verdict = command_check.check(
                config, benchmark_name(name, command), command, repetitions, jit
            )
            show(verdict)
            outcome = verdict.outcome
            code = pipeline.stored_exit_code(config.report)
    except CiFlameError as error:
        publish(config.report, None, error.exit_code, None, github_output)
        raise
    click.echo(f"ci-flame: {outcome.value}; {config.report / 'report.html'}", err=True)
    publish(config.report, outcome, code, summary, github_output)
    return 0 if exit_zero else code
