"""Model, pure: recommended limits -> the text of a policy file, what was in it kept.

Rules are added at the end of `rules:`; every rule that matches counts, so that a lower limit
tightens. None is ever raised.
"""

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ci_flame.self_test.figures import SelfTest

_RULES: Final = re.compile(r"rules[ \t]*:[ \t]*(?P<rest>[^#\n]*?)[ \t]*(?:#.*)?")
_ITEM: Final = re.compile(r"(?P<indent>[ \t]*)-(?:[ \t]|$)")
COMMENT: Final = "# by ci-flame self-test: what these benchmarks' recordings are good for"


@dataclass(frozen=True, slots=True)
class Advice:
    """A new text for the policy file."""

    text: str
    diff: str
    """As `diff -u` shows it; empty: nothing to change."""
    left: tuple[str, ...] = ()
    """What the file's author must do, in words."""


def limits(test: SelfTest) -> dict[str, float]:
    """Return benchmark -> recommended limit, where it has none or a higher one."""
    return {
        each.benchmark: each.recommended
        for each in test.benchmarks
        if each.recommended is not None and each.recommended != each.limit
    }


def merge(old: str | None, wanted: Mapping[str, float], name: str) -> Advice:
    """Return the file's text with these limits.

    `old` is None where there is no file: then the default rule is written out, without the
    benchmarks that get their own.
    """
    if not wanted:
        return Advice(old or "", "")
    if old is None:
        rules = _default(wanted) + _own(wanted)
        text = "\n".join(["version: 1", "rules:", *(f"  {line}" for line in rules)]) + "\n"
        return Advice(text, _diff("", text, name))
    merged = _insert(old, _own(wanted))
    if merged is None:
        return Advice(old, "", (f"{name} has its rules on one line: write them as a list",))
    return Advice(merged, _diff(old, merged, name))


def _insert(old: str, rules: Sequence[str]) -> str | None:
    """Return the text with rules at the end of its list; None where the list is on one line."""
    lines = old.splitlines()
    at = next((i for i, line in enumerate(lines) if _RULES.fullmatch(line)), None)
    if at is None:
        found = [*lines, "rules:", *(f"  {line}" for line in rules)]
        return "\n".join(found) + "\n"
    match = _RULES.fullmatch(lines[at])
    if match is None or match["rest"]:
        return None
    end = at + 1
    last = at
    indent = "  "
    while end < len(lines):
        line = lines[end]
        item = _ITEM.match(line)
        if last == at and item:
            indent = item["indent"]
        inside = not line.strip() or line.lstrip().startswith("#") or line[0] in " \t" or item
        if not inside:
            break
        if line.strip() and not line.startswith("#"):
            last = end
        end += 1
    return "\n".join([*lines[: last + 1], *(indent + r for r in rules), *lines[last + 1 :]]) + "\n"


def _default(wanted: Mapping[str, float]) -> list[str]:
    """Return the rules that hold without a file, for all other benchmarks."""
    others = ["*", *(f"!{each}" for each in sorted(wanted))]
    return [
        f"- benchmarks: {json.dumps(others, ensure_ascii=False)}",
        "  max_growth: 10%",
        "- mode: off-cpu",
        "  max_growth: 10%",
    ]


def _own(wanted: Mapping[str, float]) -> list[str]:
    """Return one rule for each limit."""
    by_limit: dict[float, list[str]] = defaultdict(list)
    for each, limit in sorted(wanted.items()):
        by_limit[limit].append(each)
    lines = [COMMENT]
    for limit, benchmarks in sorted(by_limit.items()):
        lines += [
            f"- benchmarks: {json.dumps(benchmarks, ensure_ascii=False)}",
            f"  max_growth: {_percent(limit)}",
        ]
    return lines


def _percent(share: float) -> str:
    return f"{share * 100:g}%"


def _diff(old: str, new: str, name: str) -> str:
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), name, f"{name} (new)"
        )
    )
