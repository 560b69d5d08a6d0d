"""Edge: `report` and `export`: runs as pages and as other tools' files."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import sys
from pathlib import Path
from typing import Final

import click

from ci_flame.cli.pieces import pick_benchmark, write_file
from ci_flame.errors import UsageError

_FORMATS: Final = ("folded", "pprof")


@click.command()
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
    write_file(page, text.encode("utf-8", "backslashreplace"))
    click.echo(f"ci-flame: {page}", err=True)
    return 0


@click.command()
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
    measurement = pick_benchmark(run, benchmark)
    mode = measurement.modes[0] if measurement.modes else Mode.ON_CPU
    if form == "folded":
        data = folded.write(measurement.profile(mode)).encode("utf-8", "surrogateescape")
    else:
        data = pprof.write(measurement, mode)
    if out is not None:
        write_file(Path(out), data)
        return 0
    stream = sys.stdout.buffer
    if form == "pprof" and stream.isatty():
        raise UsageError("a pprof profile is not for a terminal", "add -o FILE.pb.gz")
    stream.write(data)
    stream.flush()
    return 0
