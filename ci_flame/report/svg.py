"""Stage 6, pure: one benchmark as a static differential flame graph; plain without other side.

Readable without JavaScript and under a strict content policy: no script, no `style`, no
`class`; presentation attributes and a `<title>` per box, which browsers show as a tooltip.
"""

import textwrap
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from ci_flame.formats import run_json
from ci_flame.profile import Frame, Kind, Measurement, Mode, Profile, Unit, Weight
from ci_flame.report import alone, picture
from ci_flame.report.picture import Box, Picture
from ci_flame.report.words import (
    ELLIPSIS,
    change_of_time,
    columns,
    duration,
    growth,
    interval,
    share,
    visible,
    whole_of,
)
from ci_flame.verdict import BenchmarkVerdict, Finding

WIDTH: Final = 1200
ROW: Final = 19
MARGIN: Final = 14
NARROWEST: Final = 0.4
"""Boxes narrower than this many pixels are not drawn."""
COLUMN: Final = 2.0
"""Boxes narrower than this do not make the picture higher: deep stacks seen once or twice."""
BOLD_LETTER: Final = 6.9
LETTER: Final = 6.1
"""Width of a letter of the 11 px font, in pixels, on the generous side."""
MAX_ROWS: Final = 300
BOXES: Final = 20_000
SENTENCES: Final = 5
LINES: Final = 4
"""Lines of a sentence above the picture; it is whole in the tooltip of its box."""
INK: Final = "#1b1f27"
QUIET: Final = "#5b6270"
EDGE: Final = "#b3261e"
FONT: Final = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"

FILLS: Final = {
    -4: "#5a97d8",
    -3: "#86b4e5",
    -2: "#aecdf0",
    -1: "#d3e4f7",
    0: "#e7e9ed",
    1: "#fbdcc3",
    2: "#f6ba8e",
    3: "#ef9560",
    4: "#e4703a",
}
_KINDS: Final = {Kind.NATIVE: "#dcdfe5", Kind.JIT: "#dcdfe5", Kind.KERNEL: "#cfd3db"}
"""Greys of boxes that did not change, by kind of code."""


def file_name(benchmark: BenchmarkVerdict) -> str:
    """Return the name of its picture in a report folder: the profile's, by which one finds it."""
    profile = run_json.file_name(benchmark.benchmark, Mode(benchmark.mode)).rpartition("/")[2]
    return f"{profile.removesuffix('.pb.gz').removesuffix(f'.{Mode.ON_CPU}')}.svg"


def render(benchmark: BenchmarkVerdict, width: int = WIDTH) -> str:
    """Return the SVG document; the same verdict gives the same bytes."""
    if benchmark.diff is None:
        return _nothing(benchmark, width)
    graph = picture.lay_out(benchmark.diff, BOXES)
    blamed = picture.guilty(graph, benchmark.findings)
    scale = (width - 2 * MARGIN) / graph.boxes[0].width if graph.boxes[0].width > 0 else 0.0
    sentences = [
        line
        for finding in benchmark.findings[:SENTENCES]
        for line in _wrap(visible(str(finding)), width - 2 * MARGIN)
    ]
    top = 52 + 16 * len(sentences)
    deepest = max(
        (
            box.depth
            for n, box in enumerate(graph.boxes)
            if box.width * scale >= COLUMN or n in blamed
        ),
        default=0,
    )
    rows = min(deepest + 1, MAX_ROWS)
    bottom = top + rows * ROW
    parts = [*_head(benchmark, graph, sentences, width, bottom + 46)]
    outlines: list[str] = []
    for index, box in enumerate(graph.boxes):
        findings = blamed.get(index, ())
        # A guilty box is outlined however narrow it is.
        if box.depth >= rows or (box.width * scale < NARROWEST and not findings):
            continue
        x, y, w = MARGIN + box.left * scale, top + box.depth * ROW, box.width * scale
        told = tooltip(box, graph.boxes[0], findings, whole_of(benchmark.mode))
        parts.append(_box(box, told, (x, y, w), guilty=bool(findings)))
        if findings:
            outlines.append(
                f'<rect x="{x:.1f}" y="{y + 0.5:.1f}" width="{max(w, 3):.1f}" height="{ROW - 1}"'
                f' fill="none" stroke="{EDGE}" stroke-width="2.5" pointer-events="none"/>'
            )
    parts += outlines
    parts += _legend(graph, bottom + 12)
    return "\n".join([*parts, "</svg>\n"])


def _head(
    benchmark: BenchmarkVerdict, graph: Picture, sentences: list[str], width: int, height: int
) -> list[str]:
    total = graph.boxes[0].change
    told = (
        f"{duration(total.before_ns)} → {duration(total.after_ns)} per iteration, {growth(total)}"
    )
    if interval(total):
        told += f" ({interval(total)})"
    name, mode, of = visible(benchmark.benchmark), "", ""
    if benchmark.mode == Mode.OFF_CPU:
        told, mode, of = f"waits {told}", f" [{benchmark.mode}]", "the waiting of "
    title = f"{benchmark.word.upper()}  {name}{mode}"
    lines = [
        *_open(width, height, f"Differential flame graph of {of}{name}"),
        _text(MARGIN, 22, _fit(title, width - 2 * MARGIN, 7.4), size=13, weight="600"),
        _text(MARGIN, 40, _fit(told, width - 2 * MARGIN), colour=QUIET),
    ]
    lines += [
        _text(MARGIN, 57 + 16 * i, sentence, colour=EDGE, weight="600")
        for i, sentence in enumerate(sentences)
    ]
    return lines


def _open(width: int, height: int, label: str) -> list[str]:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" aria-label={quoteattr(label)}'
        f" font-family={quoteattr(FONT)}>"
    )
    return [
        svg,
        f"<title>{escape(label)}</title>",
        # Viewers in dark pages would show black text on black without it.
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]


def _box(box: Box, told: str, place: tuple[float, float, float], *, guilty: bool) -> str:
    """Draw a box with its tooltip `told`."""
    x, y, w = place
    change = box.change
    step = picture.tone(change)
    gone = change.after_ns <= 0 < change.before_ns
    fill = FILLS[step] if step else _KINDS.get(box.frame.kind, FILLS[0])
    edge = "#ffffff"
    dashes = ""
    if gone:
        # Vanished is told by the outline too, so that it needs no colour.
        fill, edge, dashes = (
            "#f4f8fd" if step else "#f6f7f9",
            "#3f76b5" if step else "#8b92a0",
            ' stroke-dasharray="3 2"',
        )
    gap = 0.5 if w > 2 else 0.0  # noqa: PLR2004 - a gap would eat a narrow box
    rect = (
        f'<rect x="{x + gap:.1f}" y="{y + 0.5:.1f}" width="{max(w - 2 * gap, NARROWEST):.1f}"'
        f' height="{ROW - 1}" rx="1.5" fill="{fill}" stroke="{edge}" stroke-width="0.5"{dashes}/>'
    )
    parts = [f"<g><title>{escape(told)}</title>", rect]
    label = _label(box.frame, growth(change) if step or gone or guilty else "", w - 8)
    if label:
        weight = "600" if guilty else "400"
        parts.append(_text(x + 4, y + 13.5, label, weight=weight))
    parts.append("</g>")
    return "".join(parts)


def tooltip(box: Box, root: Box, findings: tuple[Finding, ...], whole: str) -> str:
    """Return the lines of a box's tooltip; a finding's sentence comes first, as it is.

    `whole`: what shares are shares of.
    """
    change = box.change
    told = growth(change)
    if change.before_ns > 0 and change.after_ns > 0:
        told += f" ({interval(change)})" if interval(change) else ""
        told += f", {change_of_time(change)} per iteration"
    if not picture.tone(change):
        told += "; cannot be told from noise"
    lines = [visible(str(finding)) for finding in findings]
    lines += [
        visible(str(box.frame)) if box is not root else "[total]: the whole benchmark",
        f"{duration(change.before_ns)} → {duration(change.after_ns)} per iteration",
        told,
        f"{share(change.before_share)} → {share(change.after_share)} of the {whole}",
        f"{change.samples_before:,} → {change.samples_after:,} samples",
    ]
    return "\n".join(lines)


def _label(frame: Frame, told: str, width: float) -> str:
    """Return the name and, where it has room, the growth; empty where not three letters fit."""
    name = visible(frame.function)
    for text in (f"{visible(str(frame))}  {told}", f"{name}  {told}"):
        if told and columns(text) * LETTER <= width:
            return text
    if not told and columns(visible(str(frame))) * LETTER <= width:
        return visible(str(frame))
    return _fit(name, width)


def _fit(text: str, width: float, letter: float = LETTER) -> str:
    room = int(width / letter)
    if columns(text) <= room:
        return text
    if room < 3:  # noqa: PLR2004 - one letter and an ellipsis say nothing
        return ""
    kept = text[:room]
    while columns(kept) > room - 1:
        kept = kept[:-1]
    return kept + ELLIPSIS


def _wrap(text: str, width: float) -> list[str]:
    lines = textwrap.wrap(text, int(width / BOLD_LETTER), break_on_hyphens=False)
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], lines[LINES - 1] + ELLIPSIS]


def _text(
    x: float, y: float, text: str, *, size: int = 11, weight: str = "400", colour: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
        f' fill="{colour}" xml:space="preserve" pointer-events="none">{escape(text)}</text>'
    )


def _legend(graph: Picture, y: float) -> list[str]:
    x = float(MARGIN)
    parts: list[str] = []

    def swatch(fill: str, extra: str = "") -> None:
        nonlocal x
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="16" height="12" fill="{fill}"{extra}/>')
        x += 17

    def words(text: str) -> None:
        nonlocal x
        parts.append(_text(x + 4, y + 10, text, size=10, colour=QUIET))
        x += columns(text) * 5.6 + 18

    for step in range(-4, 0):
        swatch(FILLS[step])
    words("less")
    swatch(FILLS[0])
    words("cannot be told from noise")
    for step in range(1, 5):
        swatch(FILLS[step])
    words("more (steps: 10, 25, 50 %)")
    swatch("#f4f8fd", ' stroke="#3f76b5" stroke-dasharray="3 2"')
    words("gone")
    swatch("none", f' stroke="{EDGE}" stroke-width="2.5"')
    words("over its limit")
    words("width: mean of before and after")
    if graph.left_out:
        parts.append(
            _text(
                MARGIN,
                y + 26,
                f"{graph.left_out:,} of the narrowest boxes left out",
                size=10,
                colour=QUIET,
            )
        )
    return parts


def _nothing(benchmark: BenchmarkVerdict, width: int) -> str:
    """Say why nothing was compared, and draw the one side that was recorded."""
    name = visible(benchmark.benchmark)
    room = width - 2 * MARGIN
    sentences = [
        line for finding in benchmark.findings for line in _wrap(visible(str(finding)), room)
    ]
    notes = [visible(note.text) for note in benchmark.notes] or ["Nothing to compare with."]
    title = f"{benchmark.word.upper()}  {name}"
    top = 50 + 16 * (len(sentences) + len(notes))
    drawn, bottom = _one_side(benchmark.alone, Mode(benchmark.mode), (width, top))
    lines = [
        *_open(width, bottom, f"{'Flame graph of' if drawn else 'No comparison for'} {name}"),
        _text(MARGIN, 22, _fit(title, room, 7.4), size=13, weight="600"),
    ]
    for i, line in enumerate([*sentences, *notes]):
        guilty = i < len(sentences)
        told = _text(
            MARGIN,
            42 + 16 * i,
            line if guilty else _fit(line, room),
            colour=EDGE if guilty else QUIET,
            weight="600" if guilty else "400",
        )
        lines.append(told)
    return "\n".join([*lines, *drawn, "</svg>\n"])


def _one_side(
    measurement: Measurement | None, mode: Mode, place: tuple[int, int]
) -> tuple[list[str], int]:
    """Return the boxes of one side below `place` (width, top), and where they end."""
    width, top = place
    if measurement is None or mode not in measurement.modes:
        return [], top
    profile, _ = alone.without_run_queue(measurement.profile(mode))
    if not profile.value:
        return [], top
    scale = (width - 2 * MARGIN) / profile.value
    nodes = alone.tree(profile)
    depths, lefts, edges = [0], [0], [0]
    for _, parent, weight in nodes[1:]:
        depths.append(depths[parent] + 1)
        lefts.append(edges[parent])
        edges[parent] += weight.value
        edges.append(lefts[-1])
    rows = 1 + max(
        depth
        for depth, (_, _, weight) in zip(depths, nodes, strict=True)
        if weight.value * scale >= COLUMN
    )
    rows = min(rows, MAX_ROWS)
    parts: list[str] = []
    for (frame, parent, weight), depth, left in zip(nodes, depths, lefts, strict=True):
        w = weight.value * scale
        if w < NARROWEST or depth >= rows or len(parts) >= BOXES:
            continue
        told = "[total]: the whole benchmark" if parent < 0 else visible(str(frame))
        x, y = MARGIN + left * scale, top + depth * ROW
        gap = 0.5 if w > 2 else 0.0  # noqa: PLR2004 - a gap would eat a narrow box
        label = _label(frame, share(weight.value / profile.value), w - 8)
        parts.append(
            f"<g><title>{escape(told)}\n{escape(_cost(profile, weight))}"
            f'</title><rect x="{x + gap:.1f}" y="{y + 0.5:.1f}"'
            f' width="{max(w - 2 * gap, NARROWEST):.1f}" height="{ROW - 1}" rx="1.5"'
            f' fill="{_KINDS.get(frame.kind, FILLS[0])}"/>'
            + (_text(x + 4, y + 13.5, label) if label else "")
            + "</g>"
        )
    return parts, top + rows * ROW + MARGIN


def _cost(profile: Profile, weight: Weight) -> str:
    part = f"{share(weight.value / profile.value)} of the benchmark, {weight.samples:,} samples"
    if profile.unit is not Unit.NANOSECONDS:
        return part
    return f"{duration(weight.value / profile.iterations)} per iteration, {part}"
