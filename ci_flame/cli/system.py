"""Edge: `doctor`: what this machine can record."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import click

from ci_flame.errors import CiFlameError, CollectError


@click.command()
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
