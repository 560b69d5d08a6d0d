"""Edge: `bpf-top`: what every BPF program of this machine costs."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import json
import platform
import re
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from ci_flame.errors import CollectError, UsageError

if TYPE_CHECKING:
    from ci_flame.collect.bpf_programs import Cost, Top, Usage

_PERIOD: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|)", re.ASCII)
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 60.0
_MOST_PERIODS: Final = 100_000
_CLEAR: Final = "\x1b[H\x1b[2J"


@click.command(name="bpf-top")
@click.option("--json", "as_json", is_flag=True, help="As JSON; with --watch one line a period.")
@click.option("--period", default="1s", metavar="TIME", help="500ms, 2s; default 1s.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, or for --count periods.")
@click.option(
    "--count", type=click.IntRange(1, _MOST_PERIODS), metavar="N", help="Periods of --watch."
)
def bpf_top(*, as_json: bool, period: str, watch: bool, count: int | None) -> int:
    """Show run time, events and CPU share of all BPF programs on this machine.

    The kernel counts for as long as this runs; no setting is changed. Needs root.
    """
    from ci_flame.collect.bpf_programs import Counting, Watch, held, snapshot

    seconds = _seconds(period)
    if count is not None and not watch:
        raise UsageError("--count is of --watch", "ci-flame bpf-top --watch --count 10")
    if platform.system() != "Linux":
        raise CollectError(f"BPF is Linux's, this is {platform.system()}", "run it on Linux")
    left = (count or _MOST_PERIODS) if watch else 1
    try:
        with Counting():
            watched = Watch(snapshot(), time.monotonic_ns())
            while left:
                left -= 1
                time.sleep(seconds)
                top = watched.period(snapshot(), time.monotonic_ns(), held())
                _show(top, as_json=as_json, watch=watch)
    except KeyboardInterrupt:
        if not watch:
            raise
        # That is how watching ends.
    return 0


def _seconds(text: str) -> float:
    match = _PERIOD.fullmatch(text.strip())
    seconds = float(match["number"]) / (1000 if match["unit"] == "ms" else 1) if match else 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UsageError(
            f"--period {text} is not a time between {_SHORTEST_S * 1000:.0f}ms and {_LONGEST_S:g}s",
            "write 500ms or 2s",
        )
    return seconds


def _show(top: "Top", *, as_json: bool, watch: bool) -> None:
    if as_json:
        click.echo(json.dumps(_document(top), indent=None if watch else 1))
    else:
        screen = watch and sys.stdout.isatty()
        click.echo((_CLEAR if screen else "") + _table(top, averages=watch))
        if watch and not screen:
            click.echo()
    sys.stdout.flush()


def _document(top: "Top") -> dict[str, object]:
    return {
        "period_s": round(top.elapsed_ns / 1e9, 6),
        "programs": [
            {
                "id": each.program.id,
                "type": each.program.type,
                "name": each.program.name,
                "tag": each.program.tag,
                **_figures("period", each.period),
                "total_average_ns": round(each.total_average_ns, 1),
                "run_time_ns": each.program.run_time_ns,
                "run_count": each.program.runs,
                **_figures("recent", each.recent),
                "new": each.new,
                "own": each.own,
                "processes": list(each.processes),
            }
            for each in top.usages
        ],
        "vanished": [{"id": each.id, "name": each.name} for each in top.vanished],
    }


def _figures(prefix: str, cost: "Cost") -> dict[str, float]:
    return {
        f"{prefix}_average_ns": round(cost.average_ns, 1),
        f"{prefix}_events_per_second": round(cost.events_per_second, 2),
        f"{prefix}_cpu_percent": round(cost.cpu_percent, 4),
    }


def _table(top: "Top", *, averages: bool) -> str:
    """Return bpftop's columns; with `averages`, those over the last periods beside them."""
    lines = []
    if top.usages:
        heads = ["id", "type", "name", "period avg ns", "total avg ns", "events/s", "CPU %"]
        heads += ["avg ns (20)", "events/s (20)", "CPU % (20)"] if averages else []
        rows = [[*heads, "process"], *(_row(each, averages=averages) for each in top.usages)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        right = set(range(3, len(heads))) | {0}
        for row in rows:
            cells = (
                cell.rjust(width) if number in right else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
    else:
        lines.append("no BPF program is loaded")
    if top.vanished:
        names = ", ".join(f"{each.id} {each.name}".strip() for each in top.vanished)
        lines.append(f"unloaded in this period: {names}")
    return "\n".join(lines)


def _row(each: "Usage", *, averages: bool) -> list[str]:
    cells = [str(each.program.id), each.program.type, _printable(each.program.name) or "-"]
    cells += [f"{each.period.average_ns:,.0f}", f"{each.total_average_ns:,.0f}"]
    cells += [f"{each.period.events_per_second:,.1f}", f"{each.period.cpu_percent:.3f}"]
    if averages:
        cells += [f"{each.recent.average_ns:,.0f}", f"{each.recent.events_per_second:,.1f}"]
        cells += [f"{each.recent.cpu_percent:.3f}"]
    words = [*map(_printable, each.processes)]
    words += ["(ci-flame)"] if each.own else []
    words += ["(new)"] if each.new else []
    return [*cells, " ".join(words)]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
