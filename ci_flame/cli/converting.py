"""Edge: `report`, `export`, `import`: runs as pages, to and from other tools' files."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ci_flame.cli.pieces import one_of, pick_benchmark, write_file
from ci_flame.errors import UsageError

if TYPE_CHECKING:
    from ci_flame.profile import Mode

_FORMATS: Final = ("folded", "pprof")
_REPORTS: Final = (
    "html", "static", "markdown", "terminal", "json", "junit", "sarif", "codequality",
    "openmetrics", "teamcity",
)  # fmt: skip
"""Those of `report.REPORTERS`, which would take long to import for --help."""
_NAMED: Final = ("sarif", "codequality", "openmetrics", "teamcity")


@click.command()
@click.argument("folder", metavar="RUN|REPORT")
@click.option("--format", "form", help=f"One of {', '.join(_REPORTS)}; default: html.")
@click.option("--name", metavar="KEY", default="", help="Tells the legs of a matrix apart.")
@click.option("-o", "--out", metavar="FILE", help="File to write; - is standard output.")
def report(folder: str, form: str | None, name: str, out: str | None) -> int:
    """Write the page of a run (plain flame graphs), or a report for whoever reads it.

    REPORT is judged again, as `explain` does. html and static are written into the folder unless
    -o names a file, all others to standard output. static has its style and pictures beside it.
    """
    from ci_flame import report_folder
    from ci_flame.baseline import folder as run_folder
    from ci_flame.report import plain

    place = Path(folder)
    chosen = one_of("--format", form, _REPORTS) or "html"
    judged = report_folder.is_report(place)
    if not judged and chosen != "html":
        run_folder.load(place, incomplete_ok=True)  # what is no run is told as such
        raise UsageError(f"{place} has no verdict: --format {chosen} needs one", "ci-flame compare")
    if name and chosen not in _NAMED:
        raise UsageError(
            f"--name: a report in {chosen} has no name", f"it is for {', '.join(_NAMED)}"
        )
    if not judged:
        text = plain.render(run_folder.load(place, incomplete_ok=True))
        return _written(text, Path(out) if out else place / "report.html")
    return _report(place, chosen, name, out)


def _report(place: Path, form: str, name: str, out: str | None) -> int:
    """Write a report of what is judged again."""
    from ci_flame import pipeline, report_folder
    from ci_flame.report import NAMED, REPORTERS

    verdict = pipeline.explain(place)
    text = NAMED[form](verdict, name=name) if name else REPORTERS[form](verdict)
    page = {"html": "report.html", "static": "static.html"}.get(form)
    if out == "-" or (out is None and page is None):
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
        return 0
    file = Path(out) if out else place / (page or "")
    if form == "static":
        for beside, data in report_folder.beside_static(verdict):
            write_file(file.parent / beside, data.encode("utf-8", "backslashreplace"))
    return _written(text, file)


def _written(text: str, file: Path) -> int:
    write_file(file, text.encode("utf-8", "backslashreplace"))
    click.echo(f"ci-flame: {file}", err=True)
    return 0


def _mode(wanted: str | None, recorded: "tuple[Mode, ...]", benchmark: str) -> "Mode":
    """Return the mode to write; UsageError where it was not recorded."""
    from ci_flame.profile import Mode

    if wanted is None:
        return recorded[0] if recorded else Mode.ON_CPU
    if wanted not in {mode.value for mode in recorded}:
        known = ", ".join(recorded) or "none"
        raise UsageError(f"{benchmark} was not recorded {wanted}", f"--mode takes one of: {known}")
    return Mode(wanted)


@click.command()
@click.argument("folder", metavar="RUN")
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True)
@click.option("--benchmark", metavar="ID", help="Needed where the run holds several.")
@click.option("--mode", metavar="MODE", help="on-cpu or off-cpu; default: the first recorded.")
@click.option("-o", "--out", metavar="FILE", help="File to write; default: standard output.")
def export(folder: str, form: str, benchmark: str | None, mode: str | None, out: str | None) -> int:
    """Write one benchmark as folded stacks or as a gzipped pprof profile.

    Folded stacks count samples; those of waiting (off-cpu) are in microseconds.
    """
    from ci_flame.baseline import folder as run_folder
    from ci_flame.formats import folded, pprof
    from ci_flame.profile import Mode

    run = run_folder.load(Path(folder), incomplete_ok=True)
    measurement = pick_benchmark(run, benchmark)
    chosen = _mode(mode, measurement.modes, measurement.benchmark)
    if form == "folded":
        profile = measurement.profile(chosen)
        if chosen is Mode.OFF_CPU:
            text = folded.write_microseconds(profile)
        else:
            text = folded.write(profile)
        data = text.encode("utf-8", "surrogateescape")
    else:
        data = pprof.write(measurement, chosen)
    if out is not None:
        write_file(Path(out), data)
        return 0
    stream = sys.stdout.buffer
    if form == "pprof" and stream.isatty():
        raise UsageError("a pprof profile is not for a terminal", "add -o FILE.pb.gz")
    stream.write(data)
    stream.flush()
    return 0


@click.command(name="import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--out", metavar="RUN", help="Run folder; default .ci-flame/run.")
@click.option("--from", "form", help="Format; default: told by the content.")
@click.option("--name", help="Name of the benchmark; default imported.")
@click.option("--each", is_flag=True, help="Each file is a benchmark, named like the file.")
@click.option("--mode", help="on-cpu or off-cpu, where the files do not tell.")
@click.option("--unit", help="Of bare numbers: samples, ns, us, ms or s.")
@click.option("--iterations", type=int, metavar="N", help="Of the work, in each file.")
@click.option("--seconds", type=float, metavar="S", help="That each file was recorded for.")
@click.option("--frequency", type=int, metavar="HZ", help="Samples per second of CPU time.")
@click.option("--event", default="", help="perf: the event to take, of several.")
@click.option("--map", "map_name", default="", help="bpftrace: the stack map, of several.")
def import_(
    *,
    files: tuple[str, ...],
    out: str | None,
    form: str | None,
    name: str | None,
    each: bool,
    mode: str | None,
    unit: str | None,
    iterations: int | None,
    seconds: float | None,
    frequency: int | None,
    event: str,
    map_name: str,
) -> int:
    """Make a run of what other tools recorded: FILE is a process, several have spread.

    perf.data, perf script, bpftrace (text or JSON), bcc (profile, offcputime), folded stacks and
    pprof are read, packed with gzip or not; `-` is standard input.
    """
    from ci_flame import imported, pipeline
    from ci_flame.baseline import folder as run_folder
    from ci_flame.formats.sniff import FORMATS as KNOWN
    from ci_flame.profile import Mode

    wanted = imported.check_wanted(
        imported.Wanted(
            form=one_of("--from", form, KNOWN) or "",
            name=imported.NAME if name is None else name,
            each=each,
            mode=Mode(chosen) if (chosen := one_of("--mode", mode, tuple(Mode))) else None,
            unit=one_of("--unit", unit, tuple(imported.UNITS)) or "",
            iterations=iterations,
            seconds=seconds,
            frequency_hz=frequency,
            event=event,
            map_name=map_name,
        )
    )
    place = Path(out or ".ci-flame/run")
    run_folder.check_writable(place)
    found = imported.load([Path(file) for file in files], wanted)
    pipeline.save_run(found.run, place)
    for note in found.notes:
        click.echo(f"ci-flame: {note}", err=True)
    samples = sum(process.kept for m in found.run.measurements for process in m.processes)
    what = found.run.environment.collector.removeprefix(imported.COLLECTOR)
    count = len(files)
    click.echo(
        f"ci-flame: {count} file{'s' * (count != 1)} of {what}, {samples} samples; {place}",
        err=True,
    )
    return 0
