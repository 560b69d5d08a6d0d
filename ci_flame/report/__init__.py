"""Stage 6, pure: a Verdict -> text, one file per audience; none of them decides anything.

`svg.render(benchmark)` and `folded.render(diff)` draw one benchmark, `plain.render(run)` a
run that has no verdict.
"""

from collections.abc import Callable
from typing import Final

from ci_flame.report import html, json_report, junit, markdown, terminal
from ci_flame.verdict import Verdict

REPORTERS: Final[dict[str, Callable[[Verdict], str]]] = {
    "terminal": terminal.render,
    "json": json_report.render,
    "junit": junit.render,
    "markdown": markdown.render,
    "html": html.render,
}

__all__ = ["REPORTERS"]
