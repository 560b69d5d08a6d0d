"""Edge: make the collectors work in this job, and say which of them will record, and why.

    ebpf works            it records; nothing of the machine is changed
    ebpf does not         doctor's cures are run, then the best that works is named, with the reason
    setup is `perf`       the same, and perf's cures besides: whole native stacks of commands

What `ci-flame doctor --json` says is all that is known here. A sysctl that is changed stays so
after the job: a composite action has no step that runs then. Hosted runners are thrown away.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.errors import CollectError, UsageError
from ci_flame.github import runner

WORDS: Final = ("auto", "perf")
_SECONDS: Final = 1200.0
"""Of one doctor, with an installation of packages."""
_ROUNDS: Final = 3
"""A cure may uncover the next: perf is installed, then it may not open events."""
_NOT_CHOSEN: Final = frozenset({"bpftrace", "replay"})
"""What `auto` never takes by itself."""

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Collectors:
    """What the collectors of this machine can do."""

    python: str
    """Records Python benchmarks; empty: none can."""
    commands: str
    """Records what is not Python; empty: none can."""
    reduced: str
    """What is to be said against the collector of Python benchmarks; empty: nothing."""
    missing: tuple[str, ...]
    """What would be taken instead and why it is not, each in one line, with the cure."""
    changed: tuple[str, ...]
    """Commands that changed this machine, each with what puts it back."""
    lines: tuple[str, ...]
    """All collectors, for the log."""


def run() -> None:
    """Set up as the input `setup` says; a notice, and the output `collector`."""
    wanted = runner.given_input("setup", "auto")
    if wanted not in WORDS:
        raise UsageError(f"input setup is {wanted!r}", f"it may be {', '.join(WORDS)} or none")
    fixes: list[object] = []
    document = _until_fixed((), fixes, lambda told: told.get("quality") == "full")
    if wanted == "perf":
        done = _until_fixed(("--collector", "perf"), fixes, lambda told: told.get("usable") is True)
        document = _with(document, done)
    found = read({**document, "fixes": fixes})
    runner.show_group("What can be recorded here (ci-flame doctor)", found.lines)
    for level, text in told(found, wanted):
        runner.annotate(level, text)
    runner.output(collector=found.python)


def read(document: Document) -> Collectors:
    """Return what doctor's document says; CollectError where it is none."""
    try:
        return _read(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise CollectError(
            f"ci-flame doctor says something else than expected: {error!r}"
        ) from None


def _read(document: Document) -> Collectors:
    rows = [
        each for each in _mappings(document["collectors"]) if str(each["name"]) not in _NOT_CHOSEN
    ]
    python = next((each for each in rows if each["works"] and each["python"]), None)
    able = [each for each in rows if each["works"] and each["commands"]]
    # Whole native stacks first, as `choose_whole_stacks` does.
    able.sort(key=lambda each: each["name"] != "perf")
    before = rows[: rows.index(python)] if python else rows
    return Collectors(
        python=str(python["name"]) if python else "",
        commands=str(able[0]["name"]) if able else "",
        reduced=str(python["bias"]) if python else "",
        missing=tuple(_missing(each) for each in before if each["name"] != "perf"),
        changed=tuple(
            f"{each['command']} (put back with: {each['undo']})"
            for each in _mappings(document["fixes"])
            if each["done"] == "yes"
        ),
        lines=tuple(_line(each) for each in rows),
    )


def _mappings(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


def _missing(row: Mapping[str, object]) -> str:
    cure = f" (cure: {row['cure']})" if row["cure"] else ""
    return f"{row['name']}: {row['reason']}{cure}"


def _line(row: Mapping[str, object]) -> str:
    if not row["works"]:
        return f"{row['name']}: no: {_missing(row).partition(': ')[2]}"
    sees = row["sees"]
    return f"{row['name']}: yes: {', '.join(map(str, sees)) if isinstance(sees, list) else ''}"


def told(found: Collectors, wanted: str) -> list[tuple[str, str]]:
    """Return the annotations, each a level and one line: the collector in use, and why."""
    others = f" Commands that are not Python: {found.commands or 'none can'}."
    if not found.python:
        text = f"no collector can record Python benchmarks here: {'; '.join(found.missing)}."
        lines = [("warning", f"{text}{others}")]
    elif found.missing:
        quality = f", in reduced quality: {found.reduced}" if found.reduced else ""
        why = f" Why none before it: {'; '.join(found.missing)}."
        lines = [
            ("notice", f"Python benchmarks are recorded by {found.python}{quality}.{why}{others}")
        ]
    else:
        text = f"Python benchmarks are recorded by {found.python}, the first choice.{others}"
        lines = [("notice", text)]
    if wanted == "perf" and found.commands != "perf":
        lines.append(("warning", "input setup is perf, and perf does not work; see the log"))
    if found.changed:
        changed = "; ".join(found.changed)
        lines.append(("notice", f"this machine was changed, also for what comes after: {changed}"))
    return lines


def _until_fixed(
    words: Sequence[str], fixes: list[object], fine: Callable[[Document], bool]
) -> Document:
    """Run doctor's cures until all is fine or there is none left; add what was run to `fixes`."""
    for _ in range(_ROUNDS):
        document = _doctor(words)
        done = [each for each in _mappings(document["fixes"]) if each["done"] == "yes"]
        fixes += done
        if fine(document) or not done:
            break
    return document


def _doctor(words: Sequence[str]) -> Document:
    """Return what doctor found and fixed, for the interpreter that the benchmarks run in."""
    command = [sys.executable, "-P", "-m", "ci_flame", "doctor", "--json", "--fix", *words]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        document = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise CollectError(f"ci-flame doctor failed: {error}", "see the log above") from None
    if not isinstance(document, dict):
        raise CollectError("ci-flame doctor printed no JSON object", "see the log above")
    return document


def _with(document: Document, other: Document) -> Document:
    """Return a document whose collectors are those of `other` where it has them."""
    newer = {each["name"]: each for each in _mappings(other["collectors"])}
    rows = [newer.get(each["name"], each) for each in _mappings(document["collectors"])]
    return {**document, "collectors": rows}
