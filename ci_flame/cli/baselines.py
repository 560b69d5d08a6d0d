"""Edge: `baseline add`, `list`, `prune`, `pin` and `unpin`: a store of builds."""
# ruff: noqa: PLC0415 - stages are imported by the command that needs them: --help stays quick

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ci_flame.cli.pieces import configure
from ci_flame.errors import BaselineError, UsageError

if TYPE_CHECKING:
    from ci_flame.baseline.store import Build, Listing

_STORE = click.option(
    "--store", metavar="DIR", help="The store; default: the policy's, else .ci-flame/store."
)
_POLICY = click.option("--policy", metavar="FILE", help="Policy file; default: ci-flame.yml above.")
_BRANCHES: Final = (
    "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_BRANCH", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
    "BUILDKITE_BRANCH", "CIRCLE_BRANCH", "BRANCH_NAME", "BUILD_SOURCEBRANCHNAME",
)  # fmt: skip
"""Where CIs tell the branch; they check out a commit, which is on none."""
_SHORT: Final = 10


@click.group()
def baseline() -> None:
    """Keep the builds of a base branch to compare with: a folder that a CI caches."""


@baseline.command()
@click.argument("run", metavar="RUN")
@click.option("--branch", metavar="NAME", help="Branch it was built from; default: git or the CI.")
@click.option("--dirty", is_flag=True, help="Add a run of a tree that differed from its commit.")
@_STORE
@_POLICY
def add(*, run: str, branch: str | None, dirty: bool, store: str | None, policy: str | None) -> int:
    """Keep a recorded run as a build of its commit."""
    from ci_flame.baseline import folder
    from ci_flame.baseline import store as stores

    place, _ = _store(store, policy)
    loaded = folder.load(Path(run))
    if loaded.dirty and not dirty:
        raise BaselineError(
            f"{run} was recorded in a tree that differed from commit {loaded.commit[:_SHORT]}:"
            " what it measured is in no commit",
            "commit first and record again, or add it with --dirty",
        )
    if branch is not None and (not branch.strip() or not branch.isprintable()):
        raise UsageError(f"--branch {branch!r} is not a name", "give one line of text")
    on = _branch() if branch is None else branch
    where, new = stores.add(loaded, place, branch=on)
    count = len(loaded.measurements)
    what = f"{count} benchmark{'s' * (count != 1)} of {loaded.commit[:_SHORT] or 'no commit'}"
    told = f"added {what}" if new else f"{what}: this very run is there already"
    click.echo(f"ci-flame: {told}; {where}", err=True)
    return 0


@baseline.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_STORE
@_POLICY
def list_(*, as_json: bool, store: str | None, policy: str | None) -> int:
    """Show the builds of a store, newest first."""
    from ci_flame.baseline import store as stores

    place, _ = _store(store, policy)
    listing = stores.read(place)
    if as_json:
        click.echo(json.dumps(_document(listing), indent=1))
    else:
        for line in _table(listing):
            click.echo(line)
    for line in listing.broken:
        click.echo(f"ci-flame: not usable: {line}", err=True)
    return 0


@baseline.command()
@click.option("--keep", metavar="K", help="Builds to keep of each kind; default: policy, else 10.")
@_STORE
@_POLICY
def prune(*, keep: str | None, store: str | None, policy: str | None) -> int:
    """Remove all but the newest K builds of each machine class and kind of recording.

    Pinned builds stay, and do not count.
    """
    from ci_flame.baseline import store as stores

    place, count = _store(store, policy, keep=keep)
    gone = stores.prune(place, count)
    freed = sum(build.size for build in gone)
    left = len(stores.read(place).builds)
    click.echo(
        f"ci-flame: removed {len(gone)} build{'s' * (len(gone) != 1)} ({_bytes(freed)}),"
        f" {left} left; {place}",
        err=True,
    )
    return 0


@baseline.command()
@click.argument("revision", metavar="REV")
@click.option("--anchor", is_flag=True, help="Growth since this build warns: slow creep.")
@_STORE
@_POLICY
def pin(*, revision: str, anchor: bool, store: str | None, policy: str | None) -> int:
    """Keep the builds of a commit for good."""
    from ci_flame.baseline import store as stores
    from ci_flame.pipeline import stored

    place, _ = _store(store, policy)
    commit = stored.commit_of(revision, stores.read(place), Path.cwd())
    stores.pin(place, commit, anchor=anchor)
    told = "the anchor" if anchor else "pinned"
    click.echo(f"ci-flame: {commit[:_SHORT]} is {told}; {place}", err=True)
    return 0


@baseline.command()
@click.argument("revision", metavar="REV", required=False)
@click.option("--anchor", is_flag=True, help="Take the anchor away instead.")
@_STORE
@_POLICY
def unpin(*, revision: str | None, anchor: bool, store: str | None, policy: str | None) -> int:
    """Take the pin of a commit, or the anchor, away."""
    from ci_flame.baseline import store as stores
    from ci_flame.pipeline import stored

    if (revision is None) is not anchor:
        raise UsageError("give REV or --anchor, one of them", "ci-flame baseline list shows both")
    place, _ = _store(store, policy)
    listing = stores.read(place)
    name = stores.ANCHOR if revision is None else stored.commit_of(revision, listing, Path.cwd())
    if not stores.unpin(place, name):
        what = "there is no anchor" if revision is None else f"{name[:_SHORT]} is not pinned"
        raise UsageError(f"{place}: {what}", "ci-flame baseline list")
    if revision is None:
        told = "there is no anchor any more"
        if any(each.pinned and each.header.commit == listing.anchor for each in listing.builds):
            told += f"; {listing.anchor[:_SHORT]} stays pinned"
    elif name == listing.anchor:
        told = f"{name[:_SHORT]} is not pinned any more, but stays as the anchor (unpin --anchor)"
    else:
        told = f"{name[:_SHORT]} is no longer kept for good"
    click.echo(f"ci-flame: {told}; {place}", err=True)
    return 0


def _store(given: str | None, policy: str | None, **flags: object) -> tuple[Path, int]:
    """Return the folder of the store, and how many builds to keep: flags, policy, defaults."""
    from ci_flame.baseline import store as stores
    from ci_flame.config import BaselineKind

    config = configure(policy, **flags)
    if given is not None:
        if not given.strip() or "\0" in given:
            raise UsageError(f"--store {given!r} is not a folder")
        return Path(given), config.keep
    if config.baseline.kind is BaselineKind.STORE:
        return Path(config.baseline.value), config.keep
    return stores.DEFAULT_STORE, config.keep


def _branch() -> str:
    """Return the branch that is built; empty where neither the CI nor git tells."""
    from ci_flame.baseline import git

    told = next((os.environ[name] for name in _BRANCHES if os.environ.get(name)), "")
    if told:
        return told if told.isprintable() else ""
    try:
        answer = git.call(("symbolic-ref", "--quiet", "--short", "HEAD"), Path.cwd())
    except BaselineError:
        return ""
    return answer.stdout.decode(errors="replace").strip() if answer.returncode == 0 else ""


def _table(listing: "Listing") -> list[str]:
    """Return the lines of the table; columns as wide as what is in them."""
    if not listing.builds:
        return [f"{listing.store} holds no build"]
    heads = ("commit", "date", "branch", "benchmarks", "machine class", "recorded by", "pinned")
    rows = [(*heads, "size")]
    for build in reversed(listing.builds):
        of = build.header.environment
        rows.append(
            (
                (build.header.commit[:_SHORT] or "-") + ("-dirty" if build.header.dirty else ""),
                build.header.time[:16].replace("T", " ") or "-",
                build.branch or "-",
                str(len(build.benchmarks)),
                f"{of.architecture} {of.cpu_model}".strip() or "-",
                f"{of.collector}, Python {of.python_minor}" if of.python else of.collector,
                _pinned(build, listing.anchor),
                _bytes(build.size),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _pinned(build: "Build", anchor: str) -> str:
    if anchor and build.header.commit == anchor:
        return "anchor"
    return "yes" if build.pinned else "-"


def _document(listing: "Listing") -> dict[str, object]:
    return {
        "schema_version": 1,
        "store": str(listing.store),
        "anchor": listing.anchor or None,
        "builds": [
            {
                "commit": build.header.commit,
                "time": build.header.time,
                "branch": build.branch,
                "dirty": build.header.dirty,
                "benchmarks": list(build.benchmarks),
                "architecture": build.header.environment.architecture,
                "cpu_model": build.header.environment.cpu_model,
                "collector": build.header.environment.collector,
                "python": build.header.environment.python,
                "pinned": build.pinned,
                "anchor": bool(listing.anchor) and build.header.commit == listing.anchor,
                "bytes": build.size,
                "folder": str(build.place),
            }
            for build in reversed(listing.builds)
        ],
        "broken": list(listing.broken),
    }


def _bytes(count: int) -> str:
    """Return a size with its unit: `12.3 kB`."""
    if count < 1000:  # noqa: PLR2004 - decimal units
        return f"{count} B"
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.1f} {('', 'kB', 'MB', 'GB')[power]}"
