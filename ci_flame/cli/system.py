"""Edge: `doctor`: what this machine can record."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import json
from typing import TYPE_CHECKING

import click

from ci_flame.errors import CollectError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_flame.collect.doctor import Examined
    from ci_flame.collect.machine import Machine

Row = tuple[str, str, str]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.option(
    "--fix",
    is_flag=True,
    help="Run the cures that can be undone (sysctls, packages), as root or by sudo -n.",
)
@click.option("--dry-run", is_flag=True, help="With --fix: say the commands, run none.")
@click.option(
    "--collector", "names", multiple=True, metavar="NAME", help="This one only; repeatable."
)
@click.option(
    "--frequency",
    type=click.IntRange(10, 20_000),
    default=1999,
    show_default=True,
    metavar="HZ",
    help="That recordings will be made at.",
)
def doctor(
    *, as_json: bool, fix: bool, dry_run: bool, names: tuple[str, ...], frequency: int
) -> int:
    """Try each collector; say what can be recorded here, what stops the rest, and the cure.

    Ends with 0 if Python benchmarks can be recorded, else with 3. Where only py-spy works, that is
    0, too, and the quality is called reduced.
    """
    from ci_flame.collect import COLLECTORS, machine
    from ci_flame.collect.doctor import examine, quality
    from ci_flame.record import layout

    if dry_run and not fix:
        raise UsageError("--dry-run says what --fix would do", "ci-flame doctor --fix --dry-run")
    for name in names:
        if name not in COLLECTORS:
            known = ", ".join(COLLECTORS)
            raise UsageError(f"no collector is called {name!r}", f"known are: {known}")
    found = machine.probe()
    rows = (*machine.facts(found), layout.row())
    examined = list(examine(found, frequency_hz=frequency, names=names))
    fixed: list[dict[str, str]] = []
    if fix:
        if not as_json:
            _show(rows, examined)
            click.echo()
        fixed = _fix(found, examined, only=names, dry_run=dry_run, quiet=as_json)
        if any(each["done"] == "yes" for each in fixed):
            found = machine.probe()
            rows = (*machine.facts(found), layout.row())
            examined = list(examine(found, frequency_hz=frequency, names=names))
            if not as_json:
                click.echo()
                _show(rows, examined)
    elif not as_json:
        _show(rows, examined)
    told = quality(examined)
    # Asked of one that is not for Python (perf, replay), the answer is about that one.
    usable = told != "none" or (bool(names) and all(each.works for each in examined))
    if as_json:
        click.echo(json.dumps(_document(rows, examined, usable, told, fixed), indent=1))
    else:
        click.echo(_conclusion(told, names))
    return 0 if usable else CollectError.exit_code


def _document(
    rows: "Sequence[Row]",
    examined: "Sequence[Examined]",
    usable: bool,  # noqa: FBT001 - private, as named in the document
    told: str,
    fixed: list[dict[str, str]],
) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "usable": usable,
        "quality": told,
        "collectors": [asdict(each) for each in examined],
        "rows": [{"what": what, "found": seen, "cure": cure} for what, seen, cure in rows],
        "fixes": fixed,
    }


def _conclusion(told: str, names: tuple[str, ...]) -> str:
    among = f" with {', '.join(names)}" if names else ""
    return {
        "full": f"Python benchmarks can be recorded here{among}.",
        "reduced": f"Python benchmarks can be recorded here{among}, in reduced quality.",
        "none": f"Python benchmarks cannot be recorded here{among}.",
    }[told]


def _show(rows: "Sequence[Row]", examined: "Sequence[Examined]") -> None:
    width = max(len(what) for what, _, _ in rows)
    for what, seen, cure in rows:
        click.echo(f"{what:<{width}}  {seen}")
        if cure:
            click.echo(f"{'':<{width}}  cure: {cure}")
    click.echo()
    click.echo("collector  here  records           sees")
    for each in examined:
        kinds = [("Python", each.python), ("commands", each.commands)]
        records = ", ".join(kind for kind, able in kinds if able)
        if each.name == "replay":
            records, sees = "stored runs", "what was recorded"
        else:
            sees = ", ".join(each.sees)
        here, bias = ("yes", each.bias) if each.works else ("no", "")
        click.echo(f"{each.name:<9}  {here:<4}  {records:<16}  {sees}".rstrip())
        for word, text in (("why:", each.reason), ("cure:", each.cure), ("bias:", bias)):
            if text:
                click.echo(f"{'':<9}  {word:<5} {text}")


def _fix(
    found: "Machine",
    examined: "Sequence[Examined]",
    *,
    only: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
) -> list[dict[str, str]]:
    """Run the cures of what is missing; return what was done and how it is put back."""
    from ci_flame.collect import cures

    say = (lambda _text: None) if quiet else click.echo
    done: dict[str, dict[str, str]] = {}
    for each in _wanting(examined, only):
        fix = cures.fix_of(each.cure)
        if fix is None:
            say(f"{each.name}: left to you: {each.cure}")
            continue
        if str(fix) in done:
            continue
        entry = {"collector": each.name, "command": str(fix), "undo": fix.undo, "done": "no"}
        done[str(fix)] = entry
        say(f"{each.name}: {fix.told}")
        say(f"  {'would run' if dry_run else 'runs'}: {fix}")
        say(f"  put back with: {fix.undo}")
        if dry_run:
            continue
        try:
            cures.run(fix, root=found.root, sudo=found.sudo)
        except CollectError as error:
            entry["error"] = error.message
            say(f"  not done: {error.message}")
        else:
            entry["done"] = "yes"
    if not done:
        say("there is nothing that --fix may run")
    return list(done.values())


def _wanting(examined: "Sequence[Examined]", only: tuple[str, ...]) -> "list[Examined]":
    """Return the collectors that a cure is wanted for: those named, or those that are missed.

    Where ebpf works, the packages of bcc are not installed unless bcc is asked for.
    """
    from ci_flame.collect.doctor import WITHOUT_PYTHON

    recorded = [each for each in examined if each.name != "replay"]
    python = any(each.full for each in recorded)
    commands = any(each.commands for each in recorded)
    return [
        each
        for each in recorded
        # Others record commands, too, and are for Python.
        if not each.works and (only or not (commands if each.name in WITHOUT_PYTHON else python))
    ]
