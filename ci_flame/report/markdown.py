"""Stage 6, pure: a Verdict as the Markdown of a job summary or a comment.

Names in it are anybody's text: they are written so that they cannot become a link, an
image, a mention or HTML, and the whole stays under the limit where GitHub would drop it.
"""

import re
from typing import Final

from ci_flame.diff import BenchmarkDiff, FrameChange
from ci_flame.profile import TOTAL, Mode
from ci_flame.report import alone, machine, terminal
from ci_flame.report.words import columns, cut, duration, growth, interval, plural, share, visible
from ci_flame.verdict import BenchmarkVerdict, Finding, Outcome, Verdict, severity_of

LIMIT_BYTES: Final = 1_000_000
"""A summary over 1 MiB is dropped whole by GitHub; the rest is room for other steps' text."""
ROWS: Final = 15
STRIP: Final = 32
"""Columns of the flame strip that stand for the whole benchmark."""
_NAME: Final = 100

_SIGNS: Final = {
    Outcome.PASS: "✅",
    Outcome.NO_BASELINE: "🆕",
    Outcome.WARN: "⚠️",
    Outcome.INCONCLUSIVE: "❔",
    Outcome.FAIL: "❌",
}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_MARKS: Final = re.compile(r"[^\w\s.,:;/%()+=-]|_", re.ASCII)


def render(verdict: Verdict, limit_bytes: int = LIMIT_BYTES) -> str:
    """Return the summary, at most `limit_bytes` of UTF-8; what was left out is said."""
    head = [f"## {_SIGNS[verdict.outcome]} {text(terminal.headline(verdict))}", ""]
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
    if left_out:
        benchmarks = plural(left_out, "benchmark")
        kept.append(
            f"_{benchmarks} of {len(parts) - 1} left out here: a summary may have"
            f" {limit_bytes:,} bytes. All are in `report.html` and `verdict.json`._\n"
        )
    return "\n".join(kept)


def text(raw: str) -> str:
    """Return any text so that Markdown shows it as it is: no markup, link, mention or HTML.

    Punctuation becomes character references; `@` and `#` are also followed by a word joiner,
    because GitHub looks for mentions after the references have been resolved.
    """
    return (
        _MARKS.sub(_reference, visible(raw)).replace("://", "&#58;//").replace("www.", "www&#46;")
    )


def _reference(found: "re.Match[str]") -> str:
    letter = found[0]
    if ord(letter) > 127:  # noqa: PLR2004 - letters of other scripts, µ and emoji mean nothing in Markdown
        return letter
    return f"&#{ord(letter)};" + ("\N{WORD JOINER}" if letter in "@#" else "")


def code(raw: str) -> str:
    """Return a name in code type, cut to 100 columns, safe in a table cell."""
    return f"<code>{text(cut(visible(raw), _NAME))}</code>"


def _best_last(each: BenchmarkVerdict) -> int:
    return -severity_of(each.outcome)


def _benchmark(each: BenchmarkVerdict) -> str:
    mode = "" if each.mode == "on-cpu" else f" [{each.mode}]"
    sign = _SIGNS[each.outcome]
    title = f"{sign} {code(each.benchmark)}{mode} {each.outcome.value}"
    lines: list[str] = []
    for finding in each.findings:
        lines += [f"**{text(str(finding))}**", ""]
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
    blamed = {finding.frame for finding in each.findings}
    if not frames:
        return ["No function changed more than noise can explain.", ""]
    figures = "before | after | growth | 90 % interval | could have seen | of the benchmark"
    lines = [
        f"| function | {figures} |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for frame in frames[:ROWS]:
        total = frame.total
        name = _bold(code(str(frame.frame)), blamed=frame.frame in blamed)
        lines.append(
            f"| {name} | {duration(total.before_ns)} | {duration(total.after_ns)}"
            f" | {growth(total)} | {interval(total)} | {_seen(each, frame)}"
            f" | {share(total.before_share)} → {share(total.after_share)} |"
        )
    if len(frames) > ROWS:
        lines.append(f"| and {plural(len(frames) - ROWS, 'function')} more | | | | | | |")
    return [*lines, ""]


def _seen(each: BenchmarkVerdict, frame: FrameChange) -> str:
    seen = each.visible.get(frame.frame)
    return "" if seen is None else share(seen)


def _bold(name: str, *, blamed: bool) -> str:
    return f"**{name}**" if blamed else name


def _strip(finding: Finding, diff: BenchmarkDiff) -> list[str]:
    """Draw the path to the guilty function: one bar per frame, as wide as its share after."""
    nodes = {node.path: node.total for node in diff.paths}
    rows = [("[total]", diff.total)]
    path = () if finding.frame == TOTAL else finding.path
    rows += [
        (str(path[i]), nodes[path[: i + 1]]) for i in range(len(path)) if path[: i + 1] in nodes
    ]
    names = [cut(visible(name).replace("`", "'"), 44) for name, _ in rows]
    first = max(map(columns, names))
    lines = ["```text"]
    for name, (_, change) in zip(names, rows, strict=True):
        pad = " " * (first - columns(name))
        lines.append(
            f"{name}{pad} {_bar(change.after_share)} {share(change.after_share):>7}"
            f" {growth(change):>9}"
        )
    return [*lines, "```", ""]


def _bar(part: float) -> str:
    eighths = round(min(max(part, 0.0), 1.0) * STRIP * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(STRIP)
