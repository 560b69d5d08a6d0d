"""Model, pure: where in the repository a finding points: what annotations and CI formats show.

A place is relative to what was profiled: the work tree under pytest, the working folder of a
command. A benchmark's id is relative to pytest's rootdir. In a monorepo none of them needs to be
the root that CI shows files from; which is which, the edge has asked git, once for a verdict.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ci_flame.profile import Frame, Place
    from ci_flame.verdict import BenchmarkVerdict, Finding, Verdict

POLICY_FILE: Final = "ci-flame.yml"
"""What a finding points at where no file of the repository is known: there its limit stands."""
LONGEST: Final = 4096
"""Characters of a path: Linux opens none that is longer."""
_ELSEWHERE: Final = re.compile(r"site-packages/|lib/python\d|[</]|[A-Za-z]:|(?:.*/)?\.\.(?:/|$)")
_SCRIPT: Final = re.compile(r"([^:]+\.[cm]?[jt]sx?):")
"""The file in the name of a JavaScript function; its line is not in it."""
_LINE: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)


class Of(StrEnum):
    """What stands where a finding points."""

    FUNCTION = "function"
    """The guilty function."""
    CALLER = "caller"
    """The nearest function of the repository that calls it: its own file is not of it."""
    BENCHMARK = "benchmark"
    POLICY = "policy"
    """The rule, or the policy file: there is no file of code at all."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A line of a file of the repository."""

    file: str
    """From the repository's root; never absolute."""
    line: int
    """From 1."""
    of: Of


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Located:
    """Where the files that a verdict names lie in the repository, as git told."""

    files: Mapping[str, str] = field(default_factory=_nothing)
    """`Place.file` -> path from the root, for those that are of the repository."""
    benchmarks: str = ""
    """Pytest's rootdir, or the folder of a command, from the root; empty, or ending in a slash."""
    policies: Mapping[str, str] = field(default_factory=_nothing)
    """Policy files as rules name them -> path from the root."""


def wanted(verdict: "Verdict") -> frozenset[str]:
    """Return the files of places that findings, and those waived, may point at."""
    found: set[str] = set()
    for each in verdict.benchmarks:
        if each.findings or each.waived:
            frames = tuple(_frames(each))
            found.update(place.file for place in _places(each, frames).values())
            found.update(filter(None, map(_script, frames)))
    return frozenset(found)


def spot(finding: "Finding", each: "BenchmarkVerdict", verdict: "Verdict") -> Spot:
    """Return where to show a finding; each `Of` is tried in its order.

    `each` is the verdict on the finding's benchmark.
    """
    if finding.place and (here := _within(finding.place, verdict.located)):
        return Spot(here, max(finding.place.line, 1), Of.FUNCTION)
    if finding.changed_at:  # C has no place but the lines that its code was made from
        return Spot(finding.changed_at.file, finding.changed_at.line, Of.FUNCTION)
    functions = path_spots(finding, each, verdict)
    if functions:
        return functions[-1][1]
    return benchmark_spot(each, verdict) or policy_spot(finding.rule.place, verdict.located)


def path_spots(
    finding: "Finding", each: "BenchmarkVerdict", verdict: "Verdict"
) -> "list[tuple[Frame, Spot]]":
    """Return the functions of the repository on the path to a finding, outermost first."""
    places = _places(each, finding.path)
    found = []
    for frame in finding.path:
        place = places.get(frame)
        named = place.file if place else _script(frame)
        if named and (file := _known(named, verdict.located)):
            of = Of.FUNCTION if frame == finding.frame else Of.CALLER
            found.append((frame, Spot(file, max(place.line if place else 1, 1), of)))
    return found


def _script(frame: "Frame") -> str:
    """Return the file that a compiled function's name tells: of V8's, `src/parser.js:tokenize`."""
    found = _SCRIPT.match(frame.function) if frame.kind == "jit" else None
    return found[1] if found else ""


def benchmark_spot(each: "BenchmarkVerdict", verdict: "Verdict") -> Spot | None:
    """Return the line of a benchmark's test; None where its id names no file."""
    file, separator, rest = each.benchmark.partition("::")
    inside = "" if verdict.located is None else verdict.located.benchmarks
    file = _normal(inside + file)
    if not separator or not file:
        return None
    name = rest.partition("[")[0].rpartition("::")[2]
    lines = [
        place.line
        for frame, place in _places(each, _outermost(each)).items()
        if frame.function.rpartition(".")[2] == name and _same(place, file, verdict.located)
    ]
    return Spot(file, max(min(lines, default=1), 1), Of.BENCHMARK)


def _same(place: "Place", file: str, located: Located | None) -> bool:
    known = _within(place, located) or place.file
    if located is None and known.endswith(f"/{file}"):
        return True  # of a project below the work tree that was profiled
    return known == file or file.endswith(f"/{known}")


def policy_spot(place: str, located: Located | None) -> Spot:
    """Return the line of a rule or waiver (`ci-flame.yml:7`), or the first of the policy file."""
    file, line = policy_place(place)
    known = _normal(file) if located is None else located.policies.get(file, "")
    if known:
        return Spot(known, line, Of.POLICY)
    inside = "" if located is None else located.benchmarks
    return Spot(_normal(inside + POLICY_FILE) or POLICY_FILE, 1, Of.POLICY)


def policy_place(place: str) -> tuple[str, int]:
    """Return the file that a rule or waiver stands in, and its line; empty where it is in none."""
    file, _, line = place.rpartition(":")
    if not _LINE.fullmatch(line) or not file.endswith((".yml", ".yaml")):
        return "", 1
    return file, int(line)


def policies_of(verdict: "Verdict") -> frozenset[str]:
    """Return the policy files that rules of findings, and waivers, stand in."""
    places = {waiver.place for waiver in verdict.policy.waivers}
    for each in verdict.benchmarks:
        places.update(finding.rule.place for finding in (*each.findings, *each.waived))
    return frozenset(policy_place(place)[0] for place in places) - {""}


def _within(place: "Place", located: Located | None) -> str:
    """Return the path of a place in the repository; empty where it is not of it."""
    return _known(place.file, located)


def _known(file: str, located: Located | None) -> str:
    return _normal(file) if located is None else located.files.get(file, "")


def _normal(file: str) -> str:
    """Return a relative path without `./`; empty for what is not of a project."""
    while file.startswith("./"):
        file = file[2:]
    return "" if len(file) > LONGEST or _ELSEWHERE.match(file) else file


def _frames(each: "BenchmarkVerdict") -> "Iterable[Frame]":
    found = (*each.findings, *each.waived)
    return (*(frame for one in found for frame in (*one.path, one.frame)), *_outermost(each))


def _outermost(each: "BenchmarkVerdict") -> "frozenset[Frame]":
    """Return the frames that stacks begin with: the benchmark's function is among them."""
    if each.diff is not None:
        return frozenset(node.path[0] for node in each.diff.paths if node.path)
    root = None if each.alone is None else each.alone.root
    return frozenset() if root is None else frozenset((root,))


def _places(each: "BenchmarkVerdict", frames: "Iterable[Frame]") -> "dict[Frame, Place]":
    """Return the places of frames, where they are known."""
    asked = frozenset(frames)
    found: dict[Frame, Place] = {}
    if each.alone is not None:
        found = {frame: each.alone.places[frame] for frame in asked & each.alone.places.keys()}
    if each.diff is not None:
        found |= {
            node.frame: node.place
            for node in each.diff.frames
            if node.place is not None and node.frame in asked
        }
    for one in (*each.findings, *each.waived):
        if one.place is not None:
            found[one.frame] = one.place
    return found
