"""Edge: `github`: the steps of the GitHub Action; all they are told is in the environment."""

import click


@click.group()
def github() -> None:
    """Run the steps of the GitHub Action: docs/github-action.md.

    Inputs come from CI_FLAME_* variables, as action.yml sets them, and from GitHub's own.
    """
