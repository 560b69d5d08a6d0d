"""Edge: `github`: the steps of the GitHub Action; all they are told is in the environment."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import click


@click.group()
def github() -> None:
    """Run the steps of the GitHub Action: docs/github-action.md.

    Inputs come from CI_FLAME_* variables, as action.yml sets them, and from GitHub's own.
    """


@github.command()
def setup() -> int:
    """Make the collectors work in this job; say which one records, and why.

    Runs the cures of `ci-flame doctor --fix` where eBPF does not work. Sets the output
    `collector`.
    """
    from ci_flame.github import setup as step

    step.run()
    return 0
