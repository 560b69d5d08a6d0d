"""Edge: `self-test`: whether this gate can fail, and would have failed on identical code."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ci_flame.cli.pieces import configure, write_file
from ci_flame.errors import CiFlameError, CollectError, PolicyError, UsageError

if TYPE_CHECKING:
    from ci_flame.self_test.figures import SelfTest

DEFAULT_OUT: Final = ".ci-flame/self-test"
_MOST_FUNCTIONS: Final = 20
_MOST_REPEATS: Final = 50
_GROWTH: Final = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)%", re.ASCII)
_LEAST_GROWTH: Final = 0.01
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_DURATION: Final = re.compile(r"(\d{1,6})([smh]?)", re.ASCII)


@click.command("self-test", context_settings={"ignore_unknown_options": False})
@click.option("--function", "globs", metavar="GLOB", multiple=True, help="Plant into these.")
@click.option("--functions", default="3", metavar="N", help="Planted into, per benchmark: 3.")
@click.option("--growth", metavar="30%", help="What is planted; default twice the limit, 20% up.")
@click.option("--repeat", default="1", metavar="K", help="Comparisons of identical code: 1.")
@click.option("--max-seconds", metavar="S", help="Leave out what takes longer: 300, 10m, 1h.")
@click.option("--no-confirm", is_flag=True, help="Do not record what failed a second time.")
@click.option("--write", is_flag=True, help="Put the recommended limits into the policy file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; pytest prints to stderr.")
@click.option("-o", "--out", metavar="DIR", help=f"Report folder; default {DEFAULT_OUT}.")
@click.option("--policy", metavar="FILE", help="Policy file; default: ci-flame.yml above.")
@click.option("--processes", metavar="N", help="Processes a side; default 5.")
@click.option("--seconds", metavar="S", help="Seconds per benchmark and process; default 2.")
@click.option("--frequency", metavar="HZ", help="Samples per second; default 1999.")
@click.option("--collector", metavar="NAME", help="auto, ebpf, bcc, perf or py-spy.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST WORDS…]")
def self_test(
    *,
    globs: tuple[str, ...],
    functions: str,
    growth: str | None,
    repeat: str,
    max_seconds: str | None,
    no_confirm: bool,
    write: bool,
    as_json: bool,
    out: str | None,
    policy: str | None,
    processes: str | None,
    seconds: str | None,
    frequency: str | None,
    collector: str | None,
    words: tuple[str, ...],
) -> int:
    """Test the gate itself on this project's benchmarks.

    The suite is compared with itself, and with itself after a slow-down was planted into some
    of its functions (in the measured processes only; no file is changed). Ends with 0 where
    the gate found growth in every benchmark and passed identical code, else with 1.
    """
    from ci_flame.self_test import page, text
    from ci_flame.self_test.figures import encode
    from ci_flame.self_test.run import run
    from ci_flame.self_test.suite import Wishes

    wishes = Wishes(
        functions=_whole("--functions", functions, 1, _MOST_FUNCTIONS),
        globs=globs,
        growth=_share(growth),
        repeat=_whole("--repeat", repeat, 1, _MOST_REPEATS),
        confirm=not no_confirm,
        max_seconds=_duration(max_seconds),
    )
    config = configure(
        policy,
        baseline="none",
        processes=processes,
        seconds=seconds,
        frequency=frequency,
        collector=collector,
    )
    folder = Path(out or DEFAULT_OUT)
    _make(folder)
    test = run(config, wishes, words, stdout=sys.stderr.fileno() if as_json else None)
    write_file(folder / "self-test.json", encode(test).encode())
    write_file(folder / "self-test.html", page.render(test).encode())
    click.echo(encode(test) if as_json else "\n" + text.render(test), nl=False)
    if write:
        _write_policy(test, config.policy_file)
    click.echo(f"ci-flame: report: {folder / 'self-test.html'}", err=True)
    if test.ended != 0:
        raise CollectError(
            f"pytest ended with exit code {test.ended}: not every benchmark was tested",
            "what failed is in its output above; the gate is tested on a suite that passes",
        )
    return 0 if test.good else 1


def _whole(option: str, text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 6 and low <= int(text) <= high:  # noqa: PLR2004
        return int(text)
    raise UsageError(f"{option} {text[:20]!r} is not a whole number from {low} to {high}")


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    found = _GROWTH.fullmatch(text.strip())
    if found is None or float(found[1]) / 100 < _LEAST_GROWTH:
        raise UsageError(f"--growth {text[:20]!r} is not growth", "give 1% to 9999%: --growth 30%")
    return float(found[1]) / 100


def _duration(text: str | None) -> float | None:
    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise UsageError(f"--max-seconds {text[:20]!r} is not a time", "give 300, 10m or 1h")
    return float(int(found[1]) * _SECONDS[found[2]])


def _write_policy(test: "SelfTest", file: Path | None) -> None:
    """Put the recommended limits into the policy file; show what that changes."""
    from ci_flame.config import load
    from ci_flame.self_test import advice

    path = Path(os.path.relpath(file or "ci-flame.yml"))
    old = path.read_bytes().decode("utf-8") if path.exists() else None
    found = advice.merge(old, advice.limits(test), str(path))
    for line in found.left:
        click.echo(f"ci-flame: {line}", err=True)
    if not found.diff:
        why = "not changed" if found.left else "nothing to change"
        click.echo(f"ci-flame: {path}: {why}", err=True)
        return
    click.echo(found.diff, nl=False, err=True)
    # What could not be read back is never put in the place of what could.
    with tempfile.TemporaryDirectory(prefix="ci-flame-") as name:
        draft = Path(name) / path.name
        draft.write_text(found.text, encoding="utf-8")
        try:
            load(draft, start=Path(name))
        except CiFlameError as error:
            raise PolicyError(
                str(path), 1, f"the limits cannot be put in: {error.message}", "add them by hand"
            ) from None
    write_file(path, found.text.encode())
    click.echo(f"ci-flame: {path}: written", err=True)


def _make(folder: Path) -> None:
    """Make the report's folder, and see that it can be written, before anything is recorded."""
    from ci_flame.baseline.folder import ignore_in_git

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        ignore_in_git(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
