"""Stage 6, pure: a Verdict as the Markdown of a job summary or a comment.

Names in it are anybody's text: they are written so that they cannot become a link, an
image, a mention or HTML, and the whole stays under the limit where GitHub would drop it.
"""

import re
from collections.abc import Sequence
from typing import Final

from ci_flame.diff import BenchmarkDiff, FrameChange
from ci_flame.profile import TOTAL, Mode
from ci_flame.report import alone, machine, terminal
from ci_flame.report.words import (
    columns,
    cut,
    duration,
    growth,
    interval,
    plural,
    share,
    visible,
    whole_of,
)
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome, Verdict, severity_of

LIMIT_BYTES: Final = 1_000_000
"""A summary over 1 MiB is dropped whole by GitHub; the rest is room for other steps' text."""
ROWS: Final = 15
STRIP: Final = 32
"""Columns of the flame strip that stand for the whole benchmark."""
STRIP_ROWS: Final = 24
"""Rows of a flame strip; call paths have up to thousands of frames."""
_NAME: Final = 100
_PATH: Final = "one call path"

UNJUDGED: Final = "⚪"
SIGNS: Final = {
    Outcome.PASS: "✅",
    Outcome.NO_BASELINE: "🆕",
    Outcome.WARN: "⚠️",
    Outcome.INCONCLUSIVE: "❔",
    Outcome.FAIL: "❌",
}
NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_MARKS: Final = re.compile(r"[^\w\s.,:;/%()+=-]|_", re.ASCII)
_LIMITS: Final = ("; limit ", "; budget ", "; what is new ")
"""What the first sentence of a finding ends with."""
_ADDRESS: Final = re.compile(r":(?=//)|www\.", re.IGNORECASE)
_LATER: Final = re.compile(
    _ADDRESS.pattern + r"|\bGH-(?=\d)|:(?=(?:[\w+-]|&#95;)+:)", re.IGNORECASE
)
"""Addresses, issues as `GH-12` and emoji as `:rocket:`, up to the letter that is broken off."""


def render(verdict: Verdict, limit_bytes: int = LIMIT_BYTES) -> str:
    """Return the summary, at most `limit_bytes` of UTF-8; what was left out is said."""
    head = [f"## {SIGNS[verdict.outcome]} {text(terminal.headline(verdict))}", ""]
    head += [f"> {text(note.text)}\n" for note in verdict.notes]
    parts = [
        "\n".join(head),
        *(
            _benchmark(terminal.once(each, verdict))
            for each in sorted(verdict.benchmarks, key=_best_last)
        ),
    ]
    # Room for the sentence that says what was left out.
    room = limit_bytes - 300
    kept: list[str] = []
    for part in parts:
        room -= len(part.encode()) + 1
        if room < 0:
            break
        kept.append(part)
    left_out = len(parts) - len(kept)
    if not left_out:
        return "\n".join(kept)
    note = "All are in `report.html` and `verdict.json`._"
    if len(kept) <= 1:
        # Not even the worst of all: what can be told of it is better than nothing.
        return fit("\n".join(parts), limit_bytes, f"_Cut here: the rest is left out. {note}")
    kept.append(
        f"_{plural(left_out, 'benchmark')} of {len(parts) - 1} left out here: a summary may have"
        f" {limit_bytes:,} bytes. {note}\n"
    )
    return "\n".join(kept)


def text(raw: str) -> str:
    """Return any text so that Markdown shows it as it is: no markup, link, mention or HTML.

    Punctuation becomes character references. What GitHub looks for after those have been
    resolved (mentions, issues, addresses, `:rocket:`) is also broken by a word joiner, which
    nobody sees; a dollar sign, which would begin a formula, stands in a span, as GitHub asks.
    """
    return _LATER.sub(_joined, _MARKS.sub(_reference, visible(raw)))


def _reference(found: "re.Match[str]") -> str:
    letter = found[0]
    told = _in_code(found)
    if letter == "$":
        return f"<span>{told}</span>"
    return told + "\N{WORD JOINER}" if letter == "#" else told


def _in_code(found: "re.Match[str]") -> str:
    letter = found[0]
    if ord(letter) > 127:  # noqa: PLR2004 - letters of other scripts, µ and emoji mean nothing in Markdown
        return letter
    return f"&#{ord(letter)};" + ("\N{WORD JOINER}" if letter == "@" else "")


def _joined(found: "re.Match[str]") -> str:
    mark = found[0][-1]
    shown = mark if mark == "-" else f"&#{ord(mark)};"
    return f"{found[0][:-1]}{shown}\N{WORD JOINER}"


def sentence(benchmark: str, function: str, told: str, width: int = 100_000) -> str:
    """Return a finding's sentence: the function in code type, its first sentence bold.

    The benchmark at its head is left out: a heading or a table names it. What follows the name is
    cut to twice `width` columns.
    """
    rest = told.removeprefix(f"{benchmark}: ")
    name = function if rest.startswith(f"{function} ") else ""
    end = rest.find(". ", max(0, *(rest.rfind(word) for word in _LIMITS)))
    first, more = (rest[: end + 1], rest[end + 1 :].strip()) if end >= 0 else (rest, "")
    words = cut(visible(first[len(name) :].strip()), width)
    shown = " ".join(filter(None, (code(name) if name else "", text(words))))
    return f"**{shown}**" + (f" {text(cut(visible(more), width))}" if more else "")


def code(raw: str) -> str:
    """Return a name in code type, cut to 100 columns, safe in a table cell.

    GitHub looks for less in code, so that a name can be copied as it is; a tag is no code for
    Markdown's parser, which still finds addresses.
    """
    shown = _MARKS.sub(_in_code, cut(visible(raw), _NAME))
    return f"<code>{_ADDRESS.sub(_joined, shown)}</code>"


def _best_last(each: BenchmarkVerdict) -> int:
    return -severity_of(each.outcome)


def _benchmark(each: BenchmarkVerdict) -> str:
    mode = "" if each.mode == "on-cpu" else f" [{each.mode}]"
    sign = UNJUDGED if each.left_out else SIGNS[each.outcome]
    title = f"{sign} {code(each.benchmark)}{mode} {each.word}"
    lines: list[str] = []
    for finding in each.findings:
        lines += [sentence(each.benchmark, str(finding.frame), str(finding)), ""]
    if each.diff is not None:
        total = each.diff.total
        whole = f"{duration(total.before_ns)} → {duration(total.after_ns)} per iteration"
        title += f" · {whole}, {growth(total)}"
        of_stacks = [finding for finding in each.findings if finding.figure is None]
        if of_stacks:
            lines += _strip(of_stacks[0], each.diff)
        lines += _table(each)
    elif each.alone is not None and (told := alone.line(each.alone, Mode(each.mode))):
        lines += [text(told), ""]
    blind = any(note.slug == "blind" for note in each.notes)  # says the same, and more
    if each.smallest_visible is not None and not blind:
        seen = share(each.smallest_visible)
        lines += [f"Smallest growth that would have been seen in a function of 5 %+: {seen}.", ""]
    if told := machine.line(each.figures):
        lines.append(f"- {text(told)}")
    lines += [f"- {text(note.text)}" for note in each.notes]
    body = "\n".join(lines)
    if each.findings:
        return f"### {title}\n\n{body}\n"
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>\n"


def _table(each: BenchmarkVerdict) -> list[str]:
    frames = terminal.changed(each)
    worst_last = sorted(each.findings, key=lambda finding: severity_of(finding.outcome))
    signs = {finding.frame: SIGNS[finding.outcome] for finding in worst_last}
    if not frames:
        return [unchanged(each), ""]
    figures = (
        f"before | after | growth | 90 % interval | could have seen | of the {whole_of(each.mode)}"
    )
    lines = [
        f"| function | {figures} |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for frame in frames[:ROWS]:
        total, own = terminal.told_of(each, frame)
        lines.append(
            row(
                named(str(frame.frame), signs.get(frame.frame, "")) + text(own),
                duration(total.before_ns),
                duration(total.after_ns),
                growth(total),
                interval(total),
                _seen(each, frame),
                f"{share(total.before_share)} → {share(total.after_share)}",
            )
        )
    if len(frames) > ROWS:
        lines.append(f"| and {plural(len(frames) - ROWS, 'function')} more | | | | | | |")
    return [*lines, ""]


def unchanged(each: BenchmarkVerdict) -> str:
    """Return what is said instead of a table without rows."""
    if each.unjudged:
        return "No function was judged: see the note."
    return "No function that is judged changed more than noise can explain."


def _seen(each: BenchmarkVerdict, frame: FrameChange) -> str:
    seen = each.visible.get(frame.frame)
    return "" if seen is None else share(seen)


def named(name: str, sign: str = "") -> str:
    """Return a function's cell; `sign` marks one that a rule was broken by."""
    return f"{sign} **{code(name)}**" if sign else code(name)


def row(name: str, *figures: str) -> str:
    """Return a row of a table, in which no line break parts a figure from its unit."""
    return f"| {name} | {' | '.join(each.replace(' ', NO_BREAK) for each in figures)} |"


def _strip(finding: Finding, diff: BenchmarkDiff) -> list[str]:
    """Return the path to the guilty function: one bar per frame, as wide as its share after."""
    nodes = {node.path: node.total for node in diff.paths}
    path = () if finding.frame == TOTAL else finding.path
    boxes = [
        (str(path[i]), nodes[path[: i + 1]]) for i in range(len(path)) if path[: i + 1] in nodes
    ]
    return strip(
        [(name, box.after_share, growth(box)) for name, box in (("[total]", diff.total), *boxes)]
    )


def strip(rows: Sequence[tuple[str, float, str]]) -> list[str]:
    """Draw one bar per box on the way to a function: name, share of the benchmark, growth.

    The first row is the whole; of a path longer than `STRIP_ROWS` the middle is left out.
    """
    names = [cut(visible(name).replace("`", "'"), 44) for name, _share, _growth in rows]
    first = max(map(columns, (_PATH, *names)))
    head = f"{_PATH.ljust(first)} {' ' * STRIP} {'share':>7} {'growth':>9}"
    drawn = [
        f"{name}{' ' * (first - columns(name))} {_bar(part)} {share(part):>7} {told:>9}".rstrip()
        for name, (_name, part, told) in zip(names, rows, strict=True)
    ]
    if len(drawn) > STRIP_ROWS:
        outer, inner = STRIP_ROWS // 3, STRIP_ROWS - STRIP_ROWS // 3 - 1
        left_out = f"{plural(len(drawn) - outer - inner, 'frame')} left out here"
        drawn = [*drawn[:outer], f"… {left_out} …", *drawn[-inner:]]
    return ["```text", head, *drawn, "```", ""]


def _bar(part: float) -> str:
    eighths = round(min(max(part, 0.0), 1.0) * STRIP * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(STRIP)


def fit(markdown: str, limit_bytes: int, note: str) -> str:
    """Return the text in at most `limit_bytes` of UTF-8, cut where no block is open.

    It is cut before a line that stands outside fences, tables, quotes and `<details>`, and
    `note` (Markdown) says so below.
    """
    if len(markdown.encode()) <= limit_bytes:
        return markdown
    room = limit_bytes - len(f"\n{note}\n".encode())
    used, kept, fenced, open_details = 0, 0, False, 0
    lines = markdown.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if not fenced and not open_details and not line.strip():
            kept = number
        used += len(line.encode())
        if used > room:
            break
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            open_details += line.count("<details>") - line.count("</details>")
    return "".join(lines[:kept]) + f"\n{note}\n"
